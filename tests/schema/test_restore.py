"""A snapshot put back, on a real PostgreSQL: the loss is said first, everything is verified, the bad data is kept."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bluegreen import jobs, ledger, restore, snapshot
from bluegreen.errors import BluegreenError, Code
from bluegreen.schema import shadow
from tests.schema.conftest import REPO
from tests.schema.test_deploy import Releases, releases  # noqa: F401  a fixture

DEPLOYED = {"databases": {"default": {}}}


@pytest.fixture
def shop(releases: Releases, monkeypatch: pytest.MonkeyPatch) -> Releases:  # noqa: F811
    """One release, one row."""
    run = restore.run

    def played(command: Any, head: bytes, path: Path) -> tuple[int, str, str]:
        words = list(command[command.index("--") + 1 :])
        words[2] = words[2].replace("/usr/local/bin/bluegreen", str(REPO))
        place = next(iter(releases.trees.values()))
        return run(["env", f"--chdir={place}", "DJANGO_SETTINGS_MODULE=conf", releases.python, *words[1:]], head, path)

    monkeypatch.setattr(restore, "run", played)
    releases.deploy(1, releases.make(1))
    releases.sql("INSERT INTO shop_order (number) VALUES ('then')")
    return releases


def take(shop: Releases, recipient: str = "") -> str:
    context, places = shop.host.context("deploy-1"), {"aliases": ["default"], "direct": {}}
    return str(snapshot.take(context, shop.host.live(), ["default"], places, ["a test"], recipient)["id"])


def test_the_data_goes_back_and_the_bad_one_is_kept(shop: Releases) -> None:
    identity = take(shop)
    shop.sql("DELETE FROM shop_order; INSERT INTO shop_order (number) VALUES ('bad'), ('worse')")
    shop.sql("ALTER DATABASE live SET search_path = public, extra; GRANT CONNECT ON DATABASE live TO pg_monitor")
    shop.sql("ALTER ROLE CURRENT_USER IN DATABASE live SET work_mem = '5MB'")
    rows = ledger.read(shop.host.context())
    with pytest.raises(BluegreenError, match="the loss is not accepted yet") as caught:
        shop.host.do("restore", "r1", 2, snapshot=identity)
    assert caught.value.why.startswith("default (live): everything written since 20")
    assert "public.shop_order: 2 rows now, 1 rows then" in caught.value.why
    assert caught.value.todo == f"ansible-playbook restore.yml -e snapshot={identity} -e accept_data_loss={identity}"
    with pytest.raises(BluegreenError, match="there is no snapshot 'none'"):
        shop.host.do("restore", "r1", 2, snapshot="none", accept="none")
    assert shop.sql("SELECT count(*) FROM shop_order") == "2"
    words = ["psql", "-XAtq", "-d", "live", "-c", "SELECT pg_sleep(60)"]
    with subprocess.Popen(words, env=shop.server.environment(), stderr=subprocess.DEVNULL) as visitor:
        told = shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
        assert visitor.wait(10), "its session ended with the swap"
    assert shop.sql("SELECT number FROM shop_order") == "then"
    kept = told["restored"]["default"]
    assert (
        shadow.psql(shop.server, kept, "SELECT string_agg(number, ' ' ORDER BY number) FROM shop_order").strip()
        == "bad worse"
    )
    assert (shop.sql("SHOW search_path"), shop.sql("SHOW work_mem")) == ("public, extra", "5MB")
    assert "pg_monitor=c" in shop.sql("SELECT datacl FROM pg_database WHERE datname = 'live'")
    names = "SELECT count(*) FROM pg_database WHERE datname LIKE 'live\\_%'"
    assert shop.sql(names) == "1", "nothing else is left"
    assert ledger.read(shop.host.context()) == rows


def test_nothing_is_swapped_that_is_not_whole_or_does_not_fit(shop: Releases, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = take(shop)
    name = shop.host.live()
    context = shop.host.context("deploy-1")
    with pytest.raises(BluegreenError, match="accept_data_loss names another"):
        shop.host.do("restore", "r1", 2, snapshot=identity, accept="another")
    ask = jobs.ask

    def barred(context: Any, name: str, job: str, verb: str, *more: Any, **words: Any) -> Any:
        if verb == "swap":
            raise BluegreenError(Code.CHECK_FAILED, "live could not be renamed")
        return ask(context, name, job, verb, *more, **words)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "ask", barred)
        with pytest.raises(BluegreenError, match="live could not be renamed"):
            shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    assert shop.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'live\\_%'") == "0", "the copy is gone"
    known = ledger.footprint(context, name)
    assert known is not None
    column = known["databases"]["default"]["tables"]["shop_order"]["columns"]
    column["note"] = column["number"]
    ledger.keep_footprint(context, name, known)
    with pytest.raises(BluegreenError, match="the live release does not fit the snapshot") as caught:
        shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    assert "shop_order.note" in caught.value.why
    dump = snapshot.directory(context) / f"{identity}-default.dump"
    dump.write_bytes(dump.read_bytes()[:-1])
    with pytest.raises(BluegreenError, match="is not what it was: its digest differs"):
        shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    assert shop.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'live\\_%'") == "0"
    assert shop.sql("SELECT number FROM shop_order") == "then"


@pytest.mark.skipif(not shutil.which("age"), reason="no age (Debian: age)")
def test_an_encrypted_one_is_decrypted_where_its_key_is(shop: Releases) -> None:
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    identity = take(shop, key.partition("public key: ")[2].split()[0])
    shop.sql("DELETE FROM shop_order")
    with pytest.raises(BluegreenError, match="the loss is not accepted yet") as caught:
        shop.host.do("restore", "r1", 2, snapshot=identity)
    assert "public.shop_order: 0 rows now, 1 rows then" in caught.value.why, "what is lost is known without the key"
    with pytest.raises(BluegreenError, match="is encrypted, and the key is not on this host") as refusal:
        shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    command = refusal.value.todo.removesuffix("; then the same again")
    assert command in caught.value.todo
    sealed, plain = re.findall(r"/\S+", command)
    assert (sealed.removeprefix(plain), Path(plain).exists()) == (".age", False)
    Path(plain).write_bytes(b"of another snapshot")
    with pytest.raises(BluegreenError, match=r"is not what it was: its digest differs \(hand it in again: ssh "):
        shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    words = ["age", "-d", "-i", "-", "-o", plain, sealed]
    subprocess.run(words, input=key.encode(), check=True)
    shop.host.do("restore", "r1", 2, snapshot=identity, accept=identity)
    assert shop.sql("SELECT number FROM shop_order") == "then"
    assert (Path(plain).exists(), Path(sealed).exists()) == (False, True), "what was handed in is gone again"
    Path(plain).write_bytes(b"handed in, and not used")
    snapshot.prune(shop.host.context(), 5)
    assert not Path(plain).exists()
