"""What the runner decides without a database; tests/schema/test_runner.py has the rest."""

from __future__ import annotations

import re
import sys
import types
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import runner


@pytest.mark.parametrize(
    ("state", "atomic", "committed", "sound"),
    [
        ("55P03", True, 3, True),  # all of it was undone
        ("40P01", True, 0, True),
        ("55P03", False, 0, True),  # nothing of it stays
        ("55P03", False, 1, False),  # what stays would be done twice
        ("57014", True, 0, False),  # its statement took too long: it will again
        ("23505", True, 0, False),
        ("", True, 0, False),
    ],
)
def test_it_is_tried_again_only_where_that_is_sound(state: str, atomic: bool, committed: int, sound: bool) -> None:
    assert runner.may_retry(state, atomic, committed) is sound


def test_pauses_grow_are_of_random_length_and_have_an_end() -> None:
    longest = [runner.pause(attempt, lambda low, high: high) for attempt in range(1, 10)]
    assert longest == sorted(longest)
    assert (longest[0], longest[-1]) == (2.0, runner.LONGEST_PAUSE)
    assert runner.pause(9, lambda low, high: low) == 0.0


@pytest.mark.parametrize(
    ("sql", "relaxed"),
    [
        (["CREATE INDEX CONCURRENTLY a ON b (c)"], True),
        (["drop index concurrently a"], True),
        (["ALTER TABLE a VALIDATE CONSTRAINT b"], True),
        (["SET lock_timeout = 0", "CREATE INDEX CONCURRENTLY a ON b (c)"], True),
        (["CREATE INDEX CONCURRENTLY a ON b (c)", "ALTER TABLE b ADD d int"], False),
        (['ALTER TABLE "my"."t" VALIDATE CONSTRAINT "of it";'], True),
        (["ALTER TABLE a VALIDATE CONSTRAINT b, ADD COLUMN c int"], False),
        (["CREATE INDEX CONCURRENTLY a ON b (c); DROP INDEX d"], False),
        (["ALTER TABLE a ADD CONSTRAINT validate CHECK (true)"], False),
        (["CREATE INDEX concurrently_a ON b (c)"], False),
        (["-- CONCURRENTLY\nCREATE INDEX a ON b (c)"], False),
        ([], False),
    ],
)
def test_only_what_blocks_nobody_may_take_as_long_as_it_needs(sql: list[str], relaxed: bool) -> None:
    assert runner.Step({"database": "default", "app": "a", "name": "1", "sql": sql}).relaxed is relaxed


def test_each_application_and_database_has_a_lock_of_its_own() -> None:
    keys = {runner.lock_key(app, base) for app in ("orders", "notes") for base in ("a", "b")}
    assert len(keys) == 4
    assert all(-(2**63) <= key < 2**63 for key in keys)


def test_a_wrapped_error_still_tells_its_code() -> None:
    inner: Any = ValueError("x")
    inner.sqlstate = "55P03"
    outer = RuntimeError("y")
    outer.__cause__ = inner
    assert runner.sqlstate(outer) == "55P03"
    assert runner.sqlstate(RuntimeError("z")) == ""


@pytest.mark.parametrize(
    ("truth", "state", "atomic", "says"),
    [
        ({}, "55P03", True, "nothing of it stays; try again when"),
        ({}, "22012", True, "nothing of it stays; correct the migration"),
        ({"half_done": ["UPDATE a SET b = 1"]}, "22012", True, "nothing of it stays"),
        ({"half_done": ["UPDATE a", "DROP b"]}, "", False, r"undo by hand what stays \(UPDATE a and 1 more\)"),
        ({"invalid_indexes": [["public.t", 'o"dd']]}, "", False, r'\(public.t\): DROP INDEX CONCURRENTLY "o""dd"'),
    ],
)
def test_what_to_do_follows_from_what_is_true(truth: dict[str, Any], state: str, atomic: bool, says: str) -> None:
    step = runner.Step({"database": "default", "app": "shop", "name": "0002"})
    todo = runner.what_to_do(step, {"invalid_indexes": [], "half_done": [], **truth}, state, atomic)
    assert re.search(says, todo)
    assert "\n" not in todo


class Pooled:
    """A connection through a pooler: it says a process id of its own, and gives backends as its mode is."""

    alias = "default"

    def __init__(self, told: int, backends: list[int]):
        self.settings_dict = {"NAME": "live"}
        self.connection = types.SimpleNamespace(info=types.SimpleNamespace(backend_pid=told))
        self.backends = backends

    def cursor(self) -> Pooled:
        return self

    def __enter__(self) -> Pooled:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass

    def execute(self, sql: str, params: Any = None) -> None:
        self.row = (self.backends.pop(0),) if "pg_backend_pid" in sql else ()

    def fetchall(self) -> list[Any]:
        return [self.row]

    def fetchone(self) -> Any:
        return self.row


@pytest.mark.parametrize(
    ("told", "own", "other", "refused"),
    [
        (7, [7], [], False),  # the server itself
        (99, [7, 7], [8], False),  # session mode: a backend stays with its client
        (99, [7, 8], [7], True),  # transaction mode: the second client got ours
        (99, [7, 9], [8], True),
    ],
)
def test_a_pooler_that_keeps_no_session_is_refused(
    monkeypatch: pytest.MonkeyPatch, told: int, own: list[int], other: list[int], refused: bool
) -> None:
    second = Pooled(98, other)
    connections = types.SimpleNamespace(create_connection=lambda alias: second)
    monkeypatch.setitem(sys.modules, "django.db", types.SimpleNamespace(connections=connections))
    session = runner.Session(Pooled(told, own), {"app": "orders"})
    if not refused:
        session.refuse_pooler()
        return
    with pytest.raises(BluegreenError, match="a pooler in transaction mode") as caught:
        session.refuse_pooler()
    assert "migrations_databases" in caught.value.todo
