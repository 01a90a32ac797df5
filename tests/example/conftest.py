"""Releases of the orders example that run beside each other, and a PostgreSQL of their own."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bluegreen.schema import shadow
from bluegreen.schema.service import call
from support import check_example
from support.common import Failure

RELEASE = Path(__file__).with_name("release.py")
REQUIRED = "BLUEGREEN_TEST_REQUIRE_POSTGRESQL"  # set: what is missing fails the tests, they do not skip


class Release:
    """A running release, asked by verb; it starts with the first question."""

    def __init__(self, name: str, tree: Path, python: Path, env: Mapping[str, str]) -> None:
        self.name, self.tree, self.python, self.env = name, tree, python, env
        self.process: subprocess.Popen[str] | None = None

    def ask(self, verb: str, **values: Any) -> Any:
        """What it answers. Fails the test if it fails."""
        if self.process is None:
            self.process = subprocess.Popen(
                [str(self.python), str(RELEASE)],
                cwd=self.tree,
                env=dict(self.env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"verb": verb, "with": values}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended when it was asked for {verb}"
        answer = json.loads(line)
        assert "error" not in answer, f"{self.name}: {verb}: {answer['error']}"
        return answer["value"]

    def stop(self) -> None:
        """No more questions."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=10)
            self.process.kill()
            self.process.wait()


class Story:
    """The releases of one line of history, on one database."""

    def __init__(self, server: shadow.Server, python: Path, trees: Path) -> None:
        self.server, self.python, self.trees = server, python, trees
        self.database = f"orders_{secrets.token_hex(4)}"
        shadow.psql(server, "postgres", f"CREATE DATABASE {self.database} TEMPLATE template0;")
        self.running: dict[str, Release] = {}

    @property
    def env(self) -> dict[str, str]:
        """What a release sees."""
        url = f"postgres://{self.server.user}@localhost:{self.server.port}/{self.database}?host={self.server.host}"
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "PG"))}
        own |= {"DJANGO_SETTINGS_MODULE": "shop.settings", "SECRET_KEY": "test", "DATABASE_URL": url, "REDIS_URL": ""}
        own["PYTHONPATH"] = str(check_example.REPO)
        return own | {"ALLOWED_HOSTS": "testserver", "HTTPS": "0", "DEBUG": "1", "LOG_LEVEL": "CRITICAL"}

    def __getitem__(self, name: str) -> Release:
        """A release, running."""
        if name not in self.running:
            tree = self.trees / name
            if not tree.exists():
                source = check_example.repository()
                words = ["git", "-C", str(source), "archive", "--format=tar", name]
                packed = subprocess.run(words, capture_output=True, check=True).stdout
                tree.mkdir()
                subprocess.run(["tar", "-x", "-C", str(tree)], input=packed, check=True)
            self.running[name] = Release(name, tree, self.python, self.env)
        return self.running[name]

    def judge(self, live: str, new: str) -> dict[str, Any]:
        """The verdict on the migrations of `new` while `live` runs, as scripts/check-migrations has it."""
        where = {"HOST": self.server.host, "PORT": str(self.server.port), "USER": self.server.user}
        order: dict[str, Any] = {
            "databases": {"default": {**where, "NAME": self.database}},
            "server": vars(self.server),
            "sizes_unknown": True,
        }
        # Asked of the releases that run already: to start another process for each is most of the work.
        order |= {"live": self[live].ask("footprint"), "bundle": self[new].ask("read")}
        return dict(call("judge", order, cwd=self[new].tree, env=self.env, python=str(self.python)))

    def expect_both_to_work(self, old: str, new: str) -> None:
        """Two releases on one schema: each does all there is to do, and both see the same, whoever did it."""
        before, after = self[old], self[new]
        done = [release.ask("order") for release in (before, after)]
        waiting = [release.ask("order", waits=True) for release in (before, before, after, after)]
        assert before.ask("confirm", number=waiting[2])  # what the new one took, the old one confirms
        assert after.ask("confirm", number=waiting[0])
        assert not before.ask("confirm", number=waiting[0]), f"{old} should see that {new} did it"
        assert not after.ask("confirm", number=waiting[2]), f"{new} should see that {old} did it"
        wanted = dict.fromkeys([*done, waiting[0], waiting[2]], "confirmed")
        wanted |= dict.fromkeys([waiting[1], waiting[3]], "waiting")
        seen = before.ask("seen")
        assert {number: seen[str(number)] for number in wanted} == wanted
        assert after.ask("seen") == seen
        for release in (before, after):
            assert set(release.ask("pages").values()) == {200}, release.name

    def stop(self) -> None:
        """Nothing runs any more."""
        for release in self.running.values():
            release.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[shadow.Server]:
    """A throwaway PostgreSQL."""
    place = shadow.find_binaries()
    if not place:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("no PostgreSQL server programs (Debian: postgresql)")
    with shadow.cluster(place) as made:
        yield made


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of the example, with its packages."""
    try:
        return check_example.environment() / "bin" / "python"
    except Failure as problem:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(str(problem))


def told(server: shadow.Server, python: Path, trees: Path) -> Iterator[Story]:
    """A story, ended at the end."""
    story = Story(server, python, trees)
    yield story
    story.stop()


@pytest.fixture(scope="module")
def story(server: shadow.Server, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Releases on a database of their own."""
    yield from told(server, python, tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="module")
def other_story(server: shadow.Server, python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The same for another line of history."""
    yield from told(server, python, tmp_path_factory.mktemp("others"))
