"""A host's program with a real release, a real PostgreSQL and a real shadow: only systemd is played."""

from __future__ import annotations

import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen import ledger, snapshot, units
from bluegreen.errors import BluegreenError
from bluegreen.schema import shadow
from tests.schema import project
from tests.schema.conftest import REPO
from tests.schema.site import ORDER, SETTINGS
from tests.unit.host.conftest import Host, make_directory, simulate

NOTE = "    note = models.TextField({})\n"


class Releases:
    """Each release of the host is a tree of files; its jobs are run here, in that tree."""

    def __init__(self, host: Host, server: shadow.Server, python: str, place: Path):
        self.host, self.server, self.python, self.place = host, server, python, place
        self.files = {
            "conf.py": SETTINGS.replace(
                '"NAME": "a"',
                f'"NAME": "live", "HOST": {server.host!r}, "PORT": {str(server.port)!r}, "USER": {server.user!r}',
            ),
            "shop/models.py": ORDER,
            "shop/migrations/0001_initial.py": project.migration(project.CREATE_ORDER, "initial = True"),
        }
        self.trees: dict[str, Path] = {}
        host.trees, host.python = self.trees, python  # type: ignore[attr-defined]
        self.jobs: list[str] = []
        host.system.jobs.append(self.job)

    def make(self, number: int, **files: str) -> str:
        """A release with these files beside those of the one before."""
        self.files |= {name.replace("__", "/", 2) + ".py": text for name, text in files.items()}
        name = self.host.release(number)
        self.trees[name] = project.write(self.place / str(number), self.files)
        return name

    def job(self, words: list[str]) -> tuple[int, str, str] | None:
        if "-c" not in words:
            return None
        called = self.host.system.calls[-1]
        described = next(word for word in called if word.startswith("--description="))
        place = self.trees[described.rsplit(" ", 1)[-1]]
        self.jobs.append(words[-1])
        # no systemd here: what the wall of the unit keeps out is the second wall's, in the process
        done = subprocess.run(
            [self.python, "-c", words[-2].replace("/usr/local/bin/bluegreen", str(REPO)), words[-1]],
            cwd=place, env={**os.environ, "DJANGO_SETTINGS_MODULE": "conf"}, input=self.host.system.stdin,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    def deploy(self, number: int, name: str, **allowed: Any) -> dict[str, Any]:
        """Plan, migrate, switch, confirm."""
        run = f"deploy-{number}"
        plan: dict[str, Any] = self.host.do("migrate", run, number, release=name, plan=True, **allowed)
        done: dict[str, Any] = self.host.do("migrate", run, number, release=name)
        self.host.do("start", run, number, release=name, alive=0)
        self.host.do("route", run, number, release=name)
        self.host.do("confirm", run, number, release=name)
        return {"plan": plan, **done}

    def sql(self, text: str) -> str:
        return shadow.psql(self.server, "live", text).strip()


def played_stream(host: Host, command: Any, stdin: str, keep: Any, timeout: float) -> tuple[int, Any, str]:
    """A job whose stdout is not text."""
    words = list(command[command.index("--") + 1 :])
    words[2] = words[2].replace("/usr/local/bin/bluegreen", str(REPO))
    place = next(iter(host.trees.values()))  # type: ignore[attr-defined]
    done = subprocess.run(
        [host.python, *words[1:]], cwd=place, env={**os.environ, "DJANGO_SETTINGS_MODULE": "conf"},  # type: ignore[attr-defined]
        input=stdin.encode(), capture_output=True, check=False, timeout=timeout,
    )  # fmt: skip
    return done.returncode, keep(io.BytesIO(done.stdout)), done.stderr.decode()


@pytest.fixture
def releases(server: shadow.Server, django: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Releases]:
    made = Host(make_directory())
    simulate(monkeypatch, made)
    monkeypatch.setattr(units, "stream", lambda *words: played_stream(made, *words))
    made.serve()
    made.do("reconcile")
    shadow.psql(server, "postgres", "CREATE DATABASE live TEMPLATE template0")
    yield Releases(made, server, django, tmp_path)
    made.close()
    names = shadow.psql(server, "postgres", "SELECT datname FROM pg_database WHERE datname ~ '^live(_|$)'").split()
    for name in names:
        shadow.psql(server, "postgres", f"DROP DATABASE {name} WITH (FORCE)")


def test_four_releases_and_the_way_back(releases: Releases) -> None:
    host = releases.host
    # the first one: nothing is live, the database is empty
    first = releases.make(1)
    told = releases.deploy(1, first)
    assert "empty" in told["plan"]["judged"]
    assert "shop.0001_initial" in told["applied"]
    releases.sql("INSERT INTO shop_order (number) VALUES ('1')")
    assert releases.jobs == ["pending", "pending", "run"]

    # additive: safe, by a shadow
    releases.jobs.clear()
    add = project.migration(
        'migrations.AddField("Order", "note", models.TextField(null=True)),',
        'dependencies = [("shop", "0001_initial")]',
    )
    second = releases.make(2, shop__models=ORDER + NOTE.format("null=True"), shop__migrations__0002_note=add)
    told = releases.deploy(2, second)
    assert (told["plan"]["verdict"], told["plan"]["method"]) == ("safe", "shadow")
    assert told["applied"] == ["shop.0002_note"]
    assert releases.jobs == ["pending", "read", "judge", "pending", "run"], "the live release is not started for it"

    # the older one still fits, so it may come back
    host.do("rollback")
    assert host.live() == first
    assert releases.jobs[5:] == ["fit"]

    # NOT NULL while live code may write NULL: refused before anything changes, with what to write instead
    tight = project.migration(
        'migrations.AlterField("Order", "note", models.TextField()),', 'dependencies = [("shop", "0002_note")]'
    )
    third = releases.make(4, shop__models=ORDER + NOTE.format(""), shop__migrations__0003_tight=tight)
    with pytest.raises(BluegreenError, match=r"shop\.0003_tight is refused: public\.shop_order\.note: ") as caught:
        releases.deploy(4, third)
    assert caught.value.why.startswith("instead, in 2 releases: ")
    assert releases.sql("SELECT count(*) FROM django_migrations WHERE name = '0003_tight'") == "0"
    assert host.live() == first

    # rows are changed: only with an approval by name
    fill = project.migration(
        'migrations.RunSQL("UPDATE shop_order SET note = number", migrations.RunSQL.noop),',
        'dependencies = [("shop", "0002_note")]',
    )
    del releases.files["shop/migrations/0003_tight.py"]
    fourth = releases.make(5, shop__models=ORDER + NOTE.format("null=True"), shop__migrations__0003_fill=fill)
    with pytest.raises(BluegreenError, match=r"shop\.0003_fill needs approval") as caught:
        releases.deploy(5, fourth)
    approve = json.loads(caught.value.todo.partition(" -e ")[2].strip("'"))["migrations_approve"]
    told = releases.deploy(6, fourth, approve=approve, by="ann", reason="one row")
    assert told["applied"] == ["shop.0003_fill"]
    assert releases.sql("SELECT note FROM shop_order") == "1"
    shot = snapshot.kept(host.context())[0]
    assert shot["databases"]["default"]["rows"]["public.shop_order"] == 1
    dump = snapshot.directory(host.context()) / shot["databases"]["default"]["file"]
    with dump.open("r+b") as stream:
        snapshot.verify(stream, shot["databases"]["default"])
        with pytest.raises(BluegreenError, match=r"public\.shop_order: 1 of 2 rows"):
            snapshot.verify(stream, {"rows": {"public.shop_order": 2}})
        stream.truncate(2000)
        with pytest.raises(BluegreenError, match="the snapshot cannot be read"):
            snapshot.verify(stream, shot["databases"]["default"])
    rows = ledger.read(host.context())
    assert [(row["name"], row["verdict"], row["outcome"]) for row in rows if row["app"] == "shop"] == [
        ("0001_initial", "safe", "applied"),
        ("0002_note", "safe", "applied"),
        ("0003_fill", "needs_approval", "applied"),
    ]

    # by hand, behind our back: what no longer fits does not come back
    releases.sql("ALTER TABLE shop_order DROP COLUMN number")
    with pytest.raises(BluegreenError, match=r"does not fit the schema any more: default: public\.shop_order\.number"):
        host.do("rollback")
    assert host.live() == fourth


@pytest.mark.full
def test_the_schema_goes_back_when_it_is_asked_to(releases: Releases) -> None:
    host = releases.host
    first = releases.make(1)
    releases.deploy(1, first)
    add = project.migration(
        'migrations.AddField("Order", "note", models.TextField(null=True)),',
        'dependencies = [("shop", "0001_initial")]',
    )
    second = releases.make(2, shop__models=ORDER + NOTE.format("null=True"), shop__migrations__0002_note=add)
    releases.deploy(2, second)
    releases.sql("INSERT INTO shop_order (number, note) VALUES ('1', 'since')")
    releases.jobs.clear()
    planned = host.do("undo", "r", 3, to=first, plan=True)
    assert (planned["release"], planned["undoes"], planned["when"]) == (second, ["shop.0002_note"], "after")
    assert planned["lines"][2].startswith("    lost: the column public.shop_order.note")
    assert releases.jobs == ["known", "read", "back"]
    host.do("rollback")
    told = host.do("undo", "r", 3, to=first)
    assert told["undone"] == ["shop.0002_note"]
    assert releases.sql("SELECT * FROM shop_order") == "1|1"
    assert snapshot.kept(host.context())[0]["before"] == ["undoing shop.0002_note"]
    # the same release may be deployed again, and brings its migration again
    assert releases.deploy(4, second)["applied"] == ["shop.0002_note"]
