"""With a recipient, what snapshots hold can be read only where its key is; from there they are restored."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from promises import SSH_OPTIONS, STATE, Deployment, approvals

pytestmark = pytest.mark.full
LIVE, NEXT = "r2", "fills_note"
TAKEN: dict[str, str] = {}  # the snapshot before the migration
PRICES = "select count(*), sum(price_cents) from orders_product"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key that no host gets."""
    path = tmp_path_factory.mktemp("key") / "key.txt"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def sealed(fleet: Deployment, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The fleet, with that key's recipient in its settings."""
    recipient = re.search(r"age1\w+", key.read_text())
    assert recipient
    return fleet.variant(tmp_path_factory.mktemp("sealed"), migrations_snapshot_recipient=recipient[0])


def sql(fleet: Deployment, text: str, database: str = "orders") -> str:
    """What the database answers."""
    return fleet.on("db1", f'runuser -u postgres -- psql -XtA {database} -c "{text}"').strip()


def plain_dumps(fleet: Deployment) -> set[str]:
    """Every file of the migration host that begins as a dump does."""
    begins = 'case "$(head -c5 "$1" | tr -d \'\\0\')" in PGDMP) echo "$1";; esac'
    places = "/var/lib /var/tmp /srv /tmp /run /root /home"
    found = f"find {places} -xdev -type f -size +0 -exec sh -c {shlex.quote(begins)} sh {{}} ';' 2>/dev/null"
    return set(fleet.on("web1", found, check=False).split())


def newest(fleet: Deployment) -> dict[str, Any]:
    """The newest snapshot's default database."""
    shots = json.loads(fleet.on("web1", "bluegreen snapshots --app orders"))["snapshots"]
    return {"id": shots[0]["id"], **shots[0]["databases"]["default"]}


def ssh(fleet: Deployment) -> str:
    """`ssh web1`, as a person may type it."""
    return f"ssh -i {STATE / 'id_ed25519'} {SSH_OPTIONS} root@{fleet.address('web1')}"


def piped(command: str) -> bytes:
    """Standard output of a pipe of which every part must end well."""
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
    return done.stdout


def test_provisioning_installs_what_encrypts(sealed: Deployment) -> None:
    sealed.given(LIVE)
    sealed.must("provision.yml", "--limit", "web1", timeout=600)
    assert sealed.on("web1", "command -v age").strip() == "/usr/bin/age"
    assert not sealed.on("web2", "command -v age", check=False), "only the migration host takes snapshots"


def test_the_snapshot_before_an_approved_migration_is_for_its_key_alone(sealed: Deployment, key: Path) -> None:
    before = plain_dumps(sealed)
    words = approvals(sealed.refuse("deploy.yml", sha=sealed.sha(NEXT), watch=1))
    with sealed.under_load(rate=15):
        sealed.deploy(NEXT, watch=1, **words)
    kept = newest(sealed)
    path = f"/var/lib/bluegreen/orders/snapshots/{kept['file']}"
    assert path.endswith(".dump.age")
    TAKEN["id"] = kept["id"]
    assert plain_dumps(sealed) <= before, "nothing on the host is the plain dump"
    opened = f"{ssh(sealed)} cat {path} | age -d -i {key}"
    assert hashlib.sha256(piped(opened)).hexdigest() == kept["sha256"]
    listed = piped(f"{opened} | {ssh(sealed)} pg_restore --list").decode()
    assert re.search(r"TABLE DATA public orders_product ", listed), listed


def test_a_reverse_takes_one_for_the_same_key(sealed: Deployment) -> None:
    before = plain_dumps(sealed)
    sealed.must("rollback.yml", schema="reverse")
    sealed.expect_live(LIVE)
    kept = newest(sealed)
    assert kept["id"] > TAKEN["id"]
    assert kept["file"].endswith(".dump.age")
    assert plain_dumps(sealed) <= before


def test_it_is_put_back_once_who_has_the_key_hands_it_in(sealed: Deployment, key: Path) -> None:
    prices = sql(sealed, PRICES)
    sql(sealed, "update orders_product set price_cents = 0")
    before = plain_dumps(sealed)
    sealed.on("db1", 'runuser -u postgres -- psql -c "alter role orders createdb"')
    try:
        asked = sealed.refuse("restore.yml", snapshot=TAKEN["id"])
        assert "age -d -i KEY" in asked.lines[-1], asked.tail()
        refused = sealed.refuse("restore.yml", snapshot=TAKEN["id"], accept_data_loss=TAKEN["id"])
        assert "is encrypted, and the key is not on this host" in refused.lines[-3], refused.tail()
        command = refused.lines[-1].partition("next")[2].removesuffix("; then the same again")
        piped(command.replace("ssh web1 ", f"{ssh(sealed)} ").replace("KEY", str(key)))
        there = plain_dumps(sealed) - before
        assert {Path(path).name for path in there} == {f"{TAKEN['id']}-default.dump"}
        sealed.must("restore.yml", snapshot=TAKEN["id"], accept_data_loss=TAKEN["id"])
    finally:
        sealed.on("db1", 'runuser -u postgres -- psql -c "alter role orders nocreatedb"')
    assert sql(sealed, PRICES) == prices
    assert plain_dumps(sealed) <= before, "what was handed in is gone again"
    bad = sql(sealed, "select datname from pg_database where datname like 'orders\\_bad\\_%'")
    sql(sealed, f"drop database {bad}", "postgres")
