"""Migrations on their host: judged, allowed by name, run once, written down. The release's side is played."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from bluegreen import gate, jobs, ledger, snapshot
from bluegreen.errors import BluegreenError, Code

PRINT = {"format": 1, "databases": {"default": {"tables": {}}}, "known": {"default": []}, "drift": []}
DUMP = "the bytes of pg_dump\n"
UNIT = "bluegreen-migrate-orders.service"


def reason(verdict: str, why: str, instead: str = "", **more: Any) -> dict[str, Any]:
    return {
        "rule": "some-rule", "verdict": verdict, "table": None, "column": None, "why": why, "instead": instead,
        "releases": 1, "line": 3, **more,
    }  # fmt: skip


def item(name: str, verdict: str = "safe", *reasons: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "database": "default", "app": "shop", "name": name, "verdict": verdict, "reasons": list(reasons),
        "sql": [f"ALTER {name}"], "tables": [{"name": "public.shop_order", "rows": 5, "bytes": 8192}],
        "reversible": True, "late_possible": False, "bridge": [], "atomic": True, "file": "/secret/place.py",
        "file_sha256": f"file {name}", "sql_sha256": f"sql {name}", "approval": f"shop.{name}@sha256:{'ab' * 32}",
        **more,
    }  # fmt: skip


class Release:
    """The release's side of every job: what is pending, how it is judged, what running it does."""

    def __init__(self, host: Any):
        self.host = host
        self.pending: list[str] = []
        self.items: dict[str, dict[str, Any]] = {}
        self.problems: list[dict[str, Any]] = []
        self.unjudged: list[str] = []
        self.empty = False
        self.wall = True  # a throwaway server can be made
        self.fails, self.why = "", "because"
        self.misfits: list[str] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        host.system.jobs.append(self.answer)

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.asked]

    def answer(self, words: list[str]) -> tuple[int, str, str] | None:
        if words[-3:-1] == ["--no-input", "--no-color"] or "migrate" in words:
            self.pending.clear()
            return 0, "OK\n", ""
        if "-c" not in words or "bluegreen.schema.service" not in words[-2]:
            return None
        order = json.loads(self.host.system.stdin)
        self.asked.append((words[-1], order))
        if words[-1] == "dump":
            return 0, json.dumps({"rows": {"public.shop_order": 5}, "bytes": 8192, "at": "then"}) + "\n" + DUMP, ""
        try:
            return 0, json.dumps(getattr(self, "do_" + words[-1])(order)), "noise\n"
        except BluegreenError as problem:
            return int(problem.code), json.dumps({"error": problem.as_dict(words[-1])}), ""

    def do_pending(self, order: dict[str, Any]) -> dict[str, Any]:
        pending = [{"database": "default", "app": "shop", "name": name} for name in self.pending]
        found = {"pending": pending, "plan": ["..."] if pending else [], "problems": self.problems, "format": 1}
        return {**found, "unjudged": self.unjudged, "empty": self.empty, "footprint": None if self.unjudged else PRINT}

    def do_read(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"databases": {"default": {}}}

    def do_judge(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["methods"] == ["cluster"] and not self.wall:
            raise BluegreenError(Code.CHECK_FAILED, "there are no server programs here")
        items = [self.items.get(name, item(name)) for name in self.pending]
        worst = next((v for v in ("refused", "needs_approval") if v in {one["verdict"] for one in items}), "safe")
        method = "shadow" if self.wall else "static"
        return {
            "verdict": worst, "method": method, "method_detail": "", "why_not_better": [], "problems": [],
            "migrations": items, "footprint": PRINT, "seconds": 1.0,
        }  # fmt: skip

    def do_run(self, order: dict[str, Any]) -> dict[str, Any]:
        done: list[dict[str, Any]] = []
        for step in order["steps"]:
            if step["name"] not in self.pending:
                continue
            key = {"database": "default", "app": "shop", "name": step["name"]}
            if step["name"] == self.fails:
                told = {"what": "it failed", "why": self.why, "next": "do this", "recorded": False, "attempts": 1}
                return {"applied": done, "failed": {**key, **told}, "known": {}, "output": ["..."]}
            self.pending.remove(step["name"])
            done.append({**key, "seconds": 0.1, "attempts": 1, "waited": 0.0})
        return {"applied": done, "failed": None, "known": {"default": []}, "output": []}

    def do_footprint(self, order: dict[str, Any]) -> dict[str, Any]:
        return PRINT

    def do_fit(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"fits": dict.fromkeys(order["kept"], self.misfits)}


@pytest.fixture
def played(host: Any, monkeypatch: pytest.MonkeyPatch) -> Release:
    monkeypatch.setattr(snapshot, "verify", lambda path, told: None)  # tests/schema does it with a real dump
    return Release(host)


def words(*approvals: str) -> dict[str, Any]:
    return {"approve": list(approvals), "by": "ann", "reason": "the table is small"}


def test_nothing_pending_is_one_call(host: Any, played: Release) -> None:
    live = host.deploy(1, 1)
    name = host.release(2)
    assert host.do("migrate", release=name, plan=True)["pending"] == []
    assert played.verbs() == ["pending"]
    assert ledger.footprint(host.context(), name) is not None, "a later rollback asks what it expects"
    assert ledger.footprint(host.context(), live) is None


def test_what_is_wrong_with_nothing_pending_ends_the_deploy(host: Any, played: Release) -> None:
    played.problems = [reason("refused", "the database is ahead")]
    with pytest.raises(BluegreenError, match="cannot be trusted: the database is ahead"):
        host.do("migrate", release=host.release(1), plan=True)


def test_safe_ones_run_without_asking_and_stand_in_the_ledger(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_note", "0003_tax"]
    plan = host.do("migrate", release=name, plan=True)
    assert (plan["pending"], plan["verdict"]) == (["shop.0002_note", "shop.0003_tax"], "safe")
    assert "file" not in plan["migrations"][0]
    assert played.verbs() == ["pending", "footprint", "read", "judge"]
    judged = next(call for call in host.system.calls if "--unit=bluegreen-judge-orders" in call)
    assert "--property=PrivateNetwork=yes" in judged
    assert not [word for word in judged if word.startswith("--property=ReadWritePaths")]
    done = host.do("migrate", "d2", release=name)
    assert done["applied"] == ["shop.0002_note", "shop.0003_tax"]
    assert played.asked[-1][1]["steps"][0]["tables"] == ["public.shop_order"]
    assert host.do("migrate", "d2", release=name)["applied"] == []
    rows = ledger.read(host.context())
    assert [(row["name"], row["outcome"], row["verdict"], row["release"]) for row in rows] == [
        ("0002_note", "applied", "safe", name),
        ("0003_tax", "applied", "safe", name),
    ]
    assert ledger.applied(rows)["shop.0002_note"] == "file 0002_note"
    assert "migrate" in [entry["event"] for entry in host.do("history")["entries"]]


def test_a_refused_one_ends_the_deploy_with_what_to_write_instead(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_drop"]
    no = reason(
        "refused", "live code reads it", "take it out\nof the code first", releases=2, table="shop", column="note"
    )
    played.items["0002_drop"] = item("0002_drop", "refused", no)
    with pytest.raises(BluegreenError) as caught:
        host.do("migrate", release=name, plan=True)
    error = caught.value
    assert error.code is Code.REFUSED
    assert error.what == "shop.0002_drop is refused: shop.note: live code reads it"
    assert error.why == "instead, in 2 releases: take it out", "the lines have the rest"
    assert "deploy a new commit" in error.todo
    assert error.details["migrations"][0]["verdict"] == "refused"
    assert "  shop.note: live code reads it" in error.details["lines"]  # type: ignore[operator]
    with pytest.raises(BluegreenError, match=r"shop\.0002_drop is refused"):
        host.do("migrate", release=name)
    approval = gate.token(played.items["0002_drop"], name)
    with pytest.raises(BluegreenError, match=r"shop\.0002_drop is refused"):
        host.do("migrate", release=name, plan=True, **words(approval))
    assert "run" not in played.verbs()


def test_an_approval_is_bound_to_the_file_the_sql_and_the_release(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name, another = host.release(2), host.release(3)
    played.pending = ["0002_fill"]
    asks = reason("needs_approval", "it changes rows")
    one = played.items["0002_fill"] = item("0002_fill", "needs_approval", asks)
    with pytest.raises(BluegreenError, match=r"shop\.0002_fill needs approval: it changes rows") as caught:
        host.do("migrate", release=name, plan=True)
    told = json.loads(caught.value.todo.partition(" -e ")[2].strip("'"))
    approval = told["migrations_approve"][0]
    assert approval == gate.token(one, name) != gate.token(one, another)
    wrong = {
        "for another release": (words(gate.token(one, another)), "is not for this deploy"),
        "of the pull request": (words(one["approval"]), "is not for this deploy"),
        "nothing pending": (words(approval.replace("0002_fill", "0009_x")), "shop.0009_x names nothing pending"),
        "not one": (words("shop.0002_fill"), "is not an approval"),
        "without a name": ({**words(approval), "by": " "}, "migrations_approved_by is missing"),
        "without a reason": ({**words(approval), "reason": ""}, "migrations_approve_reason is missing"),
    }
    for given, says in wrong.values():
        with pytest.raises(BluegreenError, match=says) as caught:
            host.do("migrate", release=name, plan=True, **given)
        assert caught.value.code is Code.BAD_INPUT
    host.do("migrate", "d2", release=name, plan=True, **words(approval))
    assert host.do("migrate", "d2", release=name)["applied"] == ["shop.0002_fill"]
    assert played.verbs()[-2:] == ["dump", "run"], "the data first"
    row = ledger.read(host.context())[0]
    shot = host.do("snapshots")["snapshots"][0]
    assert (row["snapshot"], shot["before"], shot["release"]) == (shot["id"], ["shop.0002_fill"], name)
    file = snapshot.directory(host.context()) / shot["databases"]["default"]["file"]
    assert (file.read_text(), file.stat().st_mode & 0o777) == (DUMP, 0o600)
    assert shot["databases"]["default"]["sha256"] == hashlib.sha256(DUMP.encode()).hexdigest()
    assert (row["approval"], row["approved"]) == (approval, {"by": "ann", "reason": "the table is small"})
    assert host.do("migrate", release=name, plan=True, **words(approval))["pending"] == [], "the same again works"
    with pytest.raises(BluegreenError, match="names nothing pending"):
        host.do("migrate", release=another, plan=True, **words(approval))


def approved(host: Any, played: Release, **more: Any) -> dict[str, Any]:
    """Try to run one migration that was approved."""
    name = host.release(2)
    played.pending = ["0002_fill"]
    played.items["0002_fill"] = item("0002_fill", "needs_approval", reason("needs_approval", "it changes rows"))
    allowed = words(gate.token(played.items["0002_fill"], name))
    host.do("migrate", release=name, plan=True, **allowed)
    done: dict[str, Any] = host.do("migrate", release=name, **allowed, **more)
    return done


def test_without_a_snapshot_nothing_runs(host: Any, played: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    host.deploy(1, 1)
    host.configure_host(min_free_mb=1)
    with monkeypatch.context() as nearly:
        nearly.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9 << 20, 8 << 20, 1 << 20))  # type: ignore[attr-defined]
        with pytest.raises(BluegreenError, match="no room for the snapshot: 1 MB free, up to 1 MB needed"):
            approved(host, played)
    monkeypatch.setattr(snapshot, "verify", full)  # it had room, and somebody else took it
    with pytest.raises(OSError, match="No space left"):
        approved(host, played)
    assert list(snapshot.directory(host.context()).iterdir()) == []
    assert "run" not in played.verbs()


def full(path: Any, told: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_snapshot_that_does_not_hold_what_it_should_is_none(
    host: Any, played: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.deploy(1, 1)

    def wrong(path: Any, told: Any) -> None:
        raise BluegreenError(Code.CHECK_FAILED, "it does not hold all rows")

    monkeypatch.setattr(snapshot, "verify", wrong)
    with pytest.raises(BluegreenError, match="does not hold all rows"):
        approved(host, played)
    assert list(snapshot.directory(host.context()).iterdir()) == []
    assert "run" not in played.verbs()


@pytest.mark.skipif(not shutil.which("age"), reason="no age (Debian: age)")
def test_with_a_recipient_nothing_of_a_snapshot_can_be_read_without_its_key(
    host: Any, played: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.deploy(1, 1)
    place = snapshot.directory(host.context())
    named: list[str] = []
    monkeypatch.setattr(snapshot, "verify", lambda dump, told: named.extend(path.name for path in place.iterdir()))
    key = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    recipient = key.partition("public key: ")[2].split()[0]
    with pytest.raises(BluegreenError, match="migrations_snapshot_recipient is not a key of age"):
        approved(host, played, recipient=recipient[:-1])
    approved(host, played, recipient=recipient)
    assert named == [], "while it is plain it has no name that what dies could leave"
    shot = host.do("snapshots")["snapshots"][0]
    kept = shot["databases"]["default"]
    assert sorted(path.name for path in place.iterdir()) == [f"{shot['id']}-default.dump.age", f"{shot['id']}.json"]
    sealed = place / kept["file"]
    assert sealed.stat().st_mode & 0o777 == 0o600
    assert DUMP.encode() not in sealed.read_bytes()
    words = ["age", "-d", "-i", "-", str(sealed)]
    plain = subprocess.run(words, input=key.encode(), capture_output=True, check=True).stdout
    assert (plain.decode(), hashlib.sha256(plain).hexdigest()) == (DUMP, kept["sha256"])
    with monkeypatch.context() as without:
        without.setenv("PATH", str(place))
        with pytest.raises(BluegreenError, match="age is not installed") as caught:
            approved(host, played, recipient=recipient)
    assert "provision.yml" in caught.value.todo


def test_only_the_newest_snapshots_stay(host: Any, played: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    host.deploy(1, 1)
    names = iter(("1", "2", "3"))
    monkeypatch.setattr(snapshot, "identity", lambda now, name: next(names))
    for _ in range(3):
        approved(host, played, snapshots=2)
    assert [one["id"] for one in host.do("snapshots")["snapshots"]] == ["3", "2"]
    assert sorted(path.name for path in snapshot.directory(host.context()).iterdir()) == [
        "2-default.dump", "2.json", "3-default.dump", "3.json",
    ]  # fmt: skip


def test_the_rows_of_a_dump_are_counted() -> None:
    lines = [
        b"COPY public.shop_order (id, note) FROM stdin;\n", b"1\tCOPY public.x (\n", b"2\t\\N\n", b"\\.\n", b"\n",
        b'COPY "my.schema"."Odd ""name" (id) FROM stdin;\n', b"\\.\n", b"SELECT 1;\n",
    ]  # fmt: skip
    found = snapshot.rows_of(lines)
    assert found == {"public.shop_order": 2, 'my.schema.Odd "name': 0}
    assert snapshot.differences({"public.shop_order": 2, "public.gone": 1}, found) == ["public.gone: 0 of 1 rows"]


def test_without_a_throwaway_server_another_way_is_taken_and_told(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    played.pending, played.wall = ["0002_note"], False
    plan = host.do("migrate", release=host.release(2), plan=True)
    assert plan["method"] == "static"
    assert plan["why_not_better"] == ["cluster: there are no server programs here"]
    assert [order.get("methods") for verb, order in played.asked if verb == "judge"] == [
        ["cluster"],
        ["scratch", "static"],
    ]


@pytest.mark.parametrize(("unjudged", "empty", "says"), [(["default: SQLite"], False, "SQLite"), ([], True, "empty")])
def test_what_cannot_be_judged_runs_as_ever_and_says_so(
    host: Any, played: Release, unjudged: list[str], empty: bool, says: str
) -> None:
    name = host.release(1)
    played.pending, played.unjudged, played.empty = ["0001_initial"], unjudged, empty
    assert says in host.do("migrate", release=name, plan=True)["judged"]
    assert played.verbs() == ["pending"]
    assert host.do("migrate", release=name)["applied"] == ["shop.0001_initial"]
    assert ("run" in played.verbs()) == empty


def test_a_failure_keeps_what_was_applied_and_says_what_to_do(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending, played.fails = ["0002_note", "0003_tax"], "0003_tax"
    with pytest.raises(BluegreenError, match=r"it failed: because; 1 before it stay applied \(do this\)") as caught:
        host.do("migrate", release=name)
    assert caught.value.details["applied"] == ["shop.0002_note"]
    assert [row["outcome"] for row in ledger.read(host.context())] == ["applied", "failed"]
    played.fails = ""
    assert host.do("migrate", release=name)["applied"] == ["shop.0003_tax"]
    assert set(ledger.applied(ledger.read(host.context()))) == {"shop.0002_note", "shop.0003_tax"}


def test_what_a_failing_migration_says_is_kept_without_the_secrets_in_it(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2, secrets={"KEY": "hunter2-key"})
    played.pending, played.fails, played.why = ["0002_note"], "0002_note", "because of hunter2-key"
    with pytest.raises(BluegreenError, match=r"because of \*\*\*"):
        host.do("migrate", release=name)
    kept = json.dumps([ledger.read(host.context()), host.do("history")["entries"]])
    assert kept.count("because of ********") == 2
    assert "hunter2" not in kept


@pytest.mark.parametrize("verdict", ["needs_approval", "refused"])
def test_what_a_migration_says_on_the_shadow_is_told_without_the_secrets_in_it(
    host: Any, played: Release, verdict: str
) -> None:
    host.deploy(1, 1)
    name = host.release(2, secrets={"KEY": "hunter2-key"})
    played.pending = ["0002_note"]
    played.items["0002_note"] = item("0002_note", verdict, reason(verdict, "it raised hunter2-key"))
    with pytest.raises(BluegreenError, match=r"it raised \*\*\*") as caught:
        host.do("migrate", release=name, plan=True)
    assert "hunter2" not in json.dumps(caught.value.as_dict("migrate")) + json.dumps(caught.value.details)


def test_a_run_whose_caller_died_is_written_down_by_the_next(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_note"]
    host.do("migrate", release=name, plan=True)
    played.pending = []  # it ran, and nobody heard of it
    assert host.do("migrate", release=name)["applied"] == []
    assert list(ledger.applied(ledger.read(host.context()))) == ["shop.0002_note"]


def test_a_run_that_dies_is_written_down_as_far_as_it_came(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_note", "0003_tax"]

    def die(order: dict[str, Any]) -> dict[str, Any]:
        played.pending.remove("0002_note")
        raise BluegreenError(Code.BUSY, "killed")

    played.do_run = die  # type: ignore[method-assign]
    with pytest.raises(BluegreenError, match="killed"):
        host.do("migrate", release=name)
    assert list(ledger.applied(ledger.read(host.context()))) == ["shop.0002_note"]


def test_an_approval_ends_with_its_deploy(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_fill"]
    one = played.items["0002_fill"] = item("0002_fill", "needs_approval", reason("needs_approval", "it changes rows"))
    host.do("migrate", "d1", release=name, plan=True, **words(gate.token(one, name)))
    with pytest.raises(BluegreenError, match="needs approval"):
        host.do("migrate", "d2", release=name)
    assert "run" not in played.verbs()


def test_a_job_that_dies_without_an_answer_is_told(host: Any) -> None:
    host.system.jobs.append(lambda words: (1, "not json", "Traceback\n  File x\nImportError: no psycopg\n"))
    with pytest.raises(BluegreenError, match=r"ended with status 1 and no answer: ImportError: no psycopg"):
        host.do("migrate", release=host.release(1), plan=True)


def test_a_release_that_the_schema_has_left_behind_does_not_come_back(host: Any, played: Release) -> None:
    a, b = host.release(1), host.release(2)
    host.do("migrate", release=a, plan=True)
    host.deploy(1, 1)
    host.do("migrate", release=b, plan=True)
    host.deploy(2, 2)
    played.misfits = ["default: shop_order.note: it is gone"]
    assert host.do("fits")["fits"] == {a: played.misfits, b: played.misfits}
    with pytest.raises(BluegreenError, match=rf"{a} does not fit the schema any more: .*it is gone") as caught:
        host.do("rollback")
    assert caught.value.code is Code.REFUSED
    assert host.live() == b
    played.misfits = []
    host.do("rollback")
    assert host.live() == a


def test_a_way_back_does_not_depend_on_a_database_that_is_down(host: Any, played: Release) -> None:
    a = host.release(1)
    host.do("migrate", release=a, plan=True)
    host.deploy(1, 1)
    host.deploy(2, 2)

    def down(order: dict[str, Any]) -> dict[str, Any]:
        raise BluegreenError(Code.CHECK_FAILED, "the database 'default' cannot be reached")

    played.do_fit = down  # type: ignore[method-assign]
    assert "cannot be reached" in host.do("fits")["why"]
    host.do("rollback")
    assert host.live() == a


@pytest.mark.parametrize("ends", [True, False])
def test_a_migration_that_an_earlier_run_left_at_work(
    host: Any, played: Release, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """It is waited for, not started again."""
    name = host.release(1)
    played.pending = ["0002_price"]
    unit = host.system.unit(UNIT)
    unit.active, unit.description = "active", f"bluegreen: job of release {name}"
    looks = []

    def rest(seconds: float) -> None:
        looks.append(seconds)
        if ends and len(looks) == 3:
            played.pending.clear()
            unit.active = "inactive"

    monkeypatch.setattr(jobs.time, "sleep", rest)
    if not ends:
        with pytest.raises(BluegreenError, match=r"bluegreen-migrate-orders.service did not end within 0 s"):
            host.do("migrate", release=name, timeout=0.0)
        return
    answer = host.do("migrate", release=name)
    assert (answer["attached"], answer["applied"], answer["pending"]) == (True, [], [])
    assert host.do("migrate", release=name)["attached"] is False
    assert "run" not in played.verbs()


def test_a_migration_of_another_release_is_not_disturbed(host: Any) -> None:
    a, b = host.release(1), host.release(2)
    unit = host.system.unit(UNIT)
    unit.active, unit.description = "activating", f"bluegreen: job of release {a}"
    with pytest.raises(BluegreenError, match=f"at work for another release: .* {a} .*wait for it") as caught:
        host.do("migrate", release=b)
    assert caught.value.code is Code.BUSY
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lock_timeout": 0.0}, "lock_timeout must be more than 0 seconds"),
        ({"approve": [1]}, "approve must be a list of texts"),
        ({"databases": {"default": {"port": 1, "password": "x"}}}, "migrations_databases: default is"),
    ],
)
def test_options_that_cannot_be(host: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(BluegreenError, match=says) as caught:
        host.do("migrate", release=host.release(1), plan=True, **given)
    assert caught.value.code is Code.BAD_INPUT
