"""The schema goes back on its host: when it may, what is asked first, what is written down. The releases are played."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen import backwards, ledger
from bluegreen.errors import BluegreenError, Code
from bluegreen.schema import backwards as rules
from bluegreen.schema.facts import Catalog, Column, Table
from tests.unit.host.test_migrations import Release

FITS = {"start": [], "way": [], "end": []}
LACKS = "default: public.shop_order.note: it is not there"


def step(name: str, *costs: str) -> dict[str, Any]:
    return {
        "database": "default", "app": "shop", "name": name, "failed": "", "sql": [], "file_sha256": "f", "atomic": True,
        "tables": ["public.shop_order"], "costs": list(costs),
    }  # fmt: skip


class Older(Release):
    """Two releases: what the newer one has applied, and what undoing it does."""

    def __init__(self, host: Any):
        super().__init__(host)
        self.applied = ["0001_initial", "0002_note", "0003_size"]
        self.stuck: list[str] = []
        self.older: dict[str, list[str]] = dict(FITS)
        self.newer: dict[str, list[str]] = {**FITS, "end": [LACKS]}
        self.left: list[str] = []

    def do_known(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"known": [["shop", "0001_initial"]], "apps": ["shop"]}

    def do_read(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"databases": {"default": {"applied": [["shop", name] for name in self.applied]}}}

    def do_back(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["methods"] == ["cluster"] and not self.wall:
            raise BluegreenError(Code.CHECK_FAILED, "there are no server programs here")
        ours = [name for _, _, name in order["ours"]]
        steps = [step(name, f"lost: {name}") for name in reversed(self.applied) if name in ours]
        return {"steps": steps, "problems": self.stuck, "older": self.older, "newer": self.newer, "method": "cluster"}

    def do_undo(self, order: dict[str, Any]) -> dict[str, Any]:
        done: list[dict[str, Any]] = []
        failed = None
        for one in order["steps"]:
            key = {name: one[name] for name in ("database", "app", "name")}
            if one["name"] == self.fails:
                failed = {
                    **key,
                    "what": f"shop.{one['name']} failed",
                    "why": "because",
                    "next": "do",
                    "finished": False,
                }
                break
            self.applied.remove(one["name"])
            done.append({**key, "seconds": 0.1, "attempts": 1, "waited": 0.0})
        return {"undone": done, "failed": failed, "left": self.left, "output": []}


@pytest.fixture
def two(host: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Older, str, str]:
    """A release, and a newer one that is live and has run two migrations."""
    monkeypatch.setattr("bluegreen.snapshot.verify", lambda path, told: None)
    made = Older(host)
    older = host.deploy(1, 1)
    newer = host.deploy(2, 2)
    context = host.context("deploy-2")
    rows = [
        {"database": "default", "app": "shop", "name": name, "outcome": "applied", "release": newer, "number": number}
        for number, name in enumerate(made.applied[1:])
    ]
    ledger.write(context, rows)
    return made, older, newer


def test_the_plan_names_everything_first_and_changes_nothing(host: Any, two: tuple[Older, str, str]) -> None:
    made, older, newer = two
    told = host.do("undo", "r1", 3, to=older, plan=True)
    assert (told["release"], told["undoes"], told["when"]) == (newer, ["shop.0003_size", "shop.0002_note"], "after")
    assert told["lines"] == [
        "undoes 2 migrations, once visitors are on the older release:",
        "  shop.0003_size", "    lost: 0003_size", "  shop.0002_note", "    lost: 0002_note",
    ]  # fmt: skip
    assert made.verbs() == ["known", "footprint", "read", "back"]
    with pytest.raises(BluegreenError, match="visitors must be on the older release first"):
        host.do("undo", "r1", 3, to=older)
    assert len(made.applied) == 3


def test_after_the_switch_they_are_undone_from_the_newer_release(host: Any, two: tuple[Older, str, str]) -> None:
    made, older, _ = two
    made.wall = False  # then in a scratch database beside the live one, never predicted
    host.do("rollback")
    made.asked.clear()
    told = host.do("undo", "r1", 3, to=older)
    assert told["undone"] == ["shop.0003_size", "shop.0002_note"]
    assert made.verbs() == ["known", "footprint", "read", "back", "back", "dump", "undo"]
    assert [order["methods"] for verb, order in made.asked if verb == "back"] == [["cluster"], ["scratch"]]
    rows = ledger.read(host.context())
    assert ledger.applied(rows) == {}
    assert {row["snapshot"] for row in rows if row["outcome"] == "undone"} == {told["snapshot"]}
    again = host.do("undo", "r2", 4, to=older)
    assert (again["undoes"], again["undone"]) == ([], []), "the same again finds nothing to do"


def test_one_that_cannot_be_undone_stops_all_with_the_ways_out(host: Any, two: tuple[Older, str, str]) -> None:
    made, older, _ = two
    made.stuck = ["shop.0002_note cannot be undone: Raw SQL operation"]
    with pytest.raises(BluegreenError, match=r"the schema cannot go back: shop\.0002_note cannot be undone") as caught:
        host.do("undo", "r1", 3, to=older, plan=True)
    assert caught.value.code is Code.REFUSED
    for way in ("roll back the code only", "deploy a corrected commit", "restore it"):
        assert way in caught.value.todo
    assert "undo" not in made.verbs()


def test_a_failure_midway_is_written_down(host: Any, two: tuple[Older, str, str]) -> None:
    made, older, _ = two
    made.fails = "0002_note"
    host.do("rollback")
    with pytest.raises(BluegreenError, match=r"shop\.0002_note failed") as caught:
        host.do("undo", "r1", 3, to=older)
    assert "1 before it stay undone; snapshot " in caught.value.why
    assert list(ledger.applied(ledger.read(host.context()))) == ["shop.0002_note"]
    made.fails = ""
    assert host.do("undo", "r2", 4, to=older)["undone"] == ["shop.0002_note"]


@pytest.mark.parametrize(
    ("older", "newer", "live", "moment"),
    [
        (FITS, {**FITS, "end": [LACKS]}, False, "after"),  # the usual: what was added is in nobody's way
        ({**FITS, "start": [LACKS]}, FITS, False, "before"),  # what was dropped comes back first
        ({**FITS, "start": [LACKS]}, {**FITS, "way": [LACKS]}, False, "never"),  # somebody would always fail
        ({**FITS, "start": [LACKS]}, {**FITS, "end": [LACKS]}, True, "after"),  # it serves already, and lacks it
        ({**FITS, "end": [LACKS]}, FITS, False, "never"),
        ({**FITS, "end": [LACKS]}, FITS, True, "never"),
    ],
)
def test_a_release_that_serves_fits_all_the_way(older: Any, newer: Any, live: bool, moment: str) -> None:
    found, why_not = backwards.when({"older": older, "newer": newer}, live)
    assert found == moment
    assert bool(why_not) == (moment == "never")


def test_what_is_undone_follows_from_the_ledger_and_from_what_the_older_release_knows() -> None:
    applied = [("shop", "1"), ("shop", "2"), ("gone", "1"), ("new", "1"), ("shop", "3"), ("shop", "1_2")]
    known = {("shop", "1"), ("shop", "2")}
    squash = {("shop", "1_2"): [("shop", "1"), ("shop", "2")]}
    ours = [("new", "1"), ("shop", "3")]
    assert rules.chosen(applied, known, {"shop"}, ours, squash) == (ours, [])
    assert rules.chosen(applied, known, {"shop"}, [], squash) == ([], [("shop", "3")]), "nobody knows who ran it"


def test_the_last_goes_first_unless_another_depends_on_it() -> None:
    ran = [("a", "1"), ("b", "1"), ("a", "2")]
    assert rules.ordered(ran, {}) == [("a", "2"), ("b", "1"), ("a", "1")]
    assert rules.ordered(ran, {("b", "1"): {("a", "2")}}) == [("b", "1"), ("a", "2"), ("a", "1")]


def test_what_a_reverse_loses_and_invents_is_named() -> None:
    def table(*columns: Column) -> Catalog:
        return Catalog({"public.t": Table("public.t", columns={one.name: one for one in columns})})

    before = table(Column("kept", "character varying(90)"), Column("new", "text"))
    after = table(Column("kept", "character varying(20)", True), Column("old", "text", True))
    added = ['ALTER TABLE "t" ADD COLUMN "old" text DEFAULT \'?\' NOT NULL']
    assert rules.costs(before, after, {"public.t": 80}, added) == [
        "lost: the column public.t.new (about 80 rows)",
        "invented: the column public.t.old comes back with '?' in about 80 rows",
        "may fail: public.t.kept becomes character varying(20) again, and values of character varying(90) may not fit",
        "may fail: public.t.kept becomes NOT NULL again, and it may hold NULL",
    ]
    both = Catalog({**before.tables, "public.u": Table("public.u")})
    assert rules.costs(both, before, {}, []) == ["lost: the table public.u with rows that were not counted"]
    assert rules.costs(before, both, {}, []) == ["invented: the table public.u comes back empty"]
