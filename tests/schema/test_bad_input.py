"""What a database refuses or cannot do, on a real PostgreSQL: one clear line, no password in it, nothing changed."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import shadow
from tests.schema.site import Site
from tests.schema.test_runner import first, site  # noqa: F401  fixtures

PASSWORD = "hunter2 it's"


def role(where: Site, name: str, options: str, *memberships: str) -> dict[str, Any]:
    """A role of the server, and the site's database as that role reaches it."""
    more = "".join(f"; GRANT {other} TO {name}" for other in memberships)
    where.sql(f"CREATE ROLE {name} LOGIN {options}{more}")
    return {"default": {**where.order["databases"]["default"], "USER": name}}


@pytest.fixture
def name(site: Site) -> Iterator[str]:  # noqa: F811
    """A name for a role that is gone afterwards."""
    made = f"role_{secrets.token_hex(3)}"
    yield made
    site.sql(f"DROP OWNED BY {made}; DROP ROLE {made}")


def refusal(where: Site, verb: str, **order: Any) -> str:
    """The one line that a verb ends with."""
    with pytest.raises(BluegreenError) as caught:
        where.call(verb, **order)
    said = str(caught.value)
    assert "\n" not in said
    return said


def databases(where: Site) -> str:
    return where.sql("SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database")


def test_a_wrong_password_is_never_printed(site: Site, name: str) -> None:  # noqa: F811
    rules = Path(site.server.host) / "data/pg_hba.conf"
    rules.write_text(f"local all {name} scram-sha-256\n{rules.read_text()}")
    places = role(site, name, "PASSWORD 'another'")
    site.sql("SELECT pg_reload_conf()")
    places["default"]["PASSWORD"] = PASSWORD
    wanted = "the database 'default' cannot be reached: OperationalError: .*password authentication failed"
    for verb in ("pending", "read"):
        said = refusal(site, verb, databases=places)
        assert re.match(wanted, said), said
        assert "hunter2" not in said


def test_a_role_that_may_not_read_is_told_so(site: Site, name: str) -> None:  # noqa: F811
    said = refusal(site, "pending", databases=role(site, name, ""))
    assert "the database 'default' cannot be read: ProgrammingError: permission denied for table" in said
    assert said.endswith("(may its role read every table?)")


def test_a_role_without_the_right_to_create_databases(site: Site, name: str) -> None:  # noqa: F811
    places = role(site, name, "NOCREATEDB", site.server.user)
    before = databases(site)
    site.migration("0002_raw", 'migrations.RunSQL("ANALYZE shop_order", migrations.RunSQL.noop),')
    told = site.call("plan", databases=places, methods=["scratch", "static"])
    assert (told["method"], told["verdict"]) == ("static", "needs_approval"), "raw SQL is not safe without a shadow"
    assert told["why_not_better"] == [
        "scratch: psql failed: psql:<stdin>:1: ERROR:  permission denied to create database"
    ]
    assert "there is no shadow" in refusal(site, "plan", databases=places, methods=["scratch"])
    assert site.call("compare", databases=places)["may"] is False, "a restore is refused before it begins"
    assert databases(site) == before


def test_a_database_that_others_use_keeps_its_name(site: Site, name: str) -> None:  # noqa: F811
    # ended sessions come back, and one of another role cannot be ended at all
    places = role(site, name, "CREATEDB")
    new = f"{site.name}_restored"
    site.sql(f"CREATE DATABASE {new} OWNER {name}")
    site.sql(f"ALTER DATABASE {site.name} OWNER TO {name}")
    holder = site.hold("SELECT 1")
    before = databases(site)
    try:
        said = refusal(site, "swap", databases=places, new=new, kept="bad")
        assert said.startswith(f"{site.name} could not be renamed: ")
        assert f'database "{site.name}" is being accessed by other users' in said
        assert "nothing was changed; end the sessions of other roles" in said
        assert databases(site) == before
        assert site.call("drop", databases=places, new=new) == {"dropped": new}
    finally:
        holder.communicate("COMMIT;\n")
        site.sql(f"ALTER DATABASE {site.name} OWNER TO {site.server.user}")


def test_a_second_run_waits_for_the_backend_of_one_that_was_killed(site: Site) -> None:  # noqa: F811
    # the server notices that nobody listens any more, and lets go of the lock: never two at work
    site.migration("0002_slow", 'migrations.RunSQL("SELECT pg_sleep(60)", migrations.RunSQL.noop),')
    site.migration("0003_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    steps = site.steps()
    child = site.start(steps)
    sleeps = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{site.name}' AND wait_event = 'PgSleep'"
    until = time.monotonic() + 60
    while shadow.psql(site.server, "postgres", sleeps).strip() != "1":
        assert time.monotonic() < until, "it never began"
        assert child.poll() is None
        time.sleep(0.05)
    child.kill()
    child.communicate()
    (site.place / "shop/migrations/0002_slow.py").write_text(
        (site.place / "shop/migrations/0002_slow.py").read_text().replace("pg_sleep(60)", "1")
    )
    answer = site.run()
    assert [one["name"] for one in answer["applied"]] == ["0002_slow", "0003_note"]
    assert site.sql("SELECT count(*) FROM django_migrations WHERE app = 'shop'") == "3"
    assert shadow.psql(site.server, "postgres", sleeps).strip() == "0"


@pytest.mark.skipif(not shutil.which("pgbouncer"), reason="no pgbouncer (Debian: pgbouncer)")
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_pooler_in_transaction_mode_is_refused(site: Site, tmp_path: Path, mode: str) -> None:  # noqa: F811
    place = Path(site.server.host)
    (place / "users").write_text(f'"{site.server.user}" ""\n')
    settings = {
        "listen_addr": "", "listen_port": "6432", "unix_socket_dir": place, "auth_type": "any", "pool_mode": mode,
        "auth_file": place / "users", "ignore_startup_parameters": "extra_float_digits",
    }  # fmt: skip
    text = "".join(f"{key} = {value}\n" for key, value in settings.items())
    link = f"* = host={place} port={site.server.port} user={site.server.user}\n"
    (place / "pgbouncer.ini").write_text(f"[databases]\n{link}[pgbouncer]\n{text}")
    words = ["pgbouncer", "-q", str(place / "pgbouncer.ini")]
    runner = shadow.as_somebody(place) if place.owner() == "postgres" else []
    site.migration("0002_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    steps = site.steps()
    with subprocess.Popen([*runner, *words], stderr=subprocess.DEVNULL) as pooler:
        try:
            through = {"default": {**site.order["databases"]["default"], "PORT": "6432"}}
            until = time.monotonic() + 20
            while not (place / ".s.PGSQL.6432").exists():
                assert pooler.poll() is None
                assert time.monotonic() < until
                time.sleep(0.02)
            if mode == "session":
                assert [one["name"] for one in site.run(steps, databases=through)["applied"]] == ["0002_note"]
            else:
                said = refusal(site, "run", steps=steps, databases=through)
                assert "is reached through a pooler in transaction mode" in said
                assert "migrations_databases: {default: {host: 192.0.2.31, port: 5432}}" in said
                assert site.sql("SELECT count(*) FROM django_migrations WHERE name = '0002_note'") == "0"
                beside = {"default": {"host": str(place), "port": site.server.port}}
                done = site.run(steps, databases=through, direct=beside)
                assert [one["name"] for one in done["applied"]] == ["0002_note"]
        finally:
            pooler.terminate()
