"""Migrations that run once the new release is confirmed: named, judged so, run then, with what it takes before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bluegreen import gate, ledger
from bluegreen.errors import BluegreenError, Code
from tests.unit.host import test_migrations as made
from tests.unit.host.test_migrations import Release, item, played, reason, words

BRIDGE = 'ALTER TABLE "shop_order" ALTER COLUMN "note" SET DEFAULT \'\';'
DROP, PLAIN = "0002_drop", "0003_plain"
__all__ = ["played"]


class Dropping(Release):
    """The new release drops a column that the live one reads, and adds another."""

    def __init__(self, host: Any):
        super().__init__(host)
        self.pending = [DROP, PLAIN]
        self.needs: dict[str, list[str]] = {}
        self.once_live = "safe"  # the verdict on the drop, if it runs late
        self.possible = True

    def do_pending(self, order: dict[str, Any]) -> dict[str, Any]:
        found = super().do_pending(order)
        for one in found["pending"]:
            one["needs"] = self.needs.get(one["name"], [])
        return found

    def do_judge(self, order: dict[str, Any]) -> dict[str, Any]:
        late = "shop." + DROP in order.get("late", [])
        verdict = self.once_live if late else "refused"
        why = [reason(verdict, "live code reads it")] if verdict != "safe" else []
        more = {"late": late, "late_possible": self.possible, "bridge": [BRIDGE]}
        self.items[DROP] = item(DROP, verdict, *why, **more)
        return super().do_judge(order)

    def do_run(self, order: dict[str, Any]) -> dict[str, Any]:
        bridged = [{**one, "seconds": 0.1} for one in order["later"] if one["bridge"]]
        return super().do_run(order) | {"bridged": bridged}


@pytest.fixture
def drops(host: Any, monkeypatch: pytest.MonkeyPatch) -> Dropping:
    monkeypatch.setattr(made.snapshot, "verify", lambda path, told: None)
    return Dropping(host)


def late(*names: str) -> dict[str, Any]:
    return {"late": [f"shop.{name}" for name in names or (DROP,)]}


def switched(host: Any, name: str, number: int) -> None:
    """The rest of a deploy."""
    host.do("start", "d2", number, release=name, alive=0)
    host.do("route", "d2", number, release=name)
    host.do("confirm", "d2", number, release=name)


def test_the_code_first_and_the_migration_once_it_is_confirmed(host: Any, drops: Dropping) -> None:
    before = host.deploy(1, 1)
    name = host.release(2)
    plan = host.do("migrate", "d2", 2, release=name, plan=True, **late())
    assert (plan["late"], plan["before"]) == (["shop." + DROP], host.record(before).sha)
    assert f"shop.{DROP}: safe, late" in plan["lines"]
    done = host.do("migrate", "d2", 2, release=name, **late())
    assert (done["applied"], done["pending"], done["bridged"]) == (["shop." + PLAIN], ["shop." + DROP], [BRIDGE])
    assert not done["snapshot"]
    with pytest.raises(BluegreenError, match=f"{name} is not confirmed here") as caught:
        host.do("migrate", "d2", 2, release=name, moment="late", **late())
    assert caught.value.code is Code.REFUSED
    switched(host, name, 2)
    host.do("drain", "d2", 2, cold=True)
    done = host.do("migrate", "d2", 2, release=name, moment="late", **late())
    assert (done["applied"], bool(done["snapshot"])) == (["shop." + DROP], True), "the data first, approved or not"
    rows = [(row["name"], row["outcome"], bool(row.get("late"))) for row in ledger.read(host.context())]
    assert rows == [(PLAIN, "applied", False), (DROP, "bridged", True), (DROP, "applied", True)]
    assert host.do("migrate", "d3", 3, release=name, plan=True, **late())["pending"] == [], "the same again works"
    assert host.do("migrate", "d3", 3, release=name, moment="late", **late())["applied"] == []
    assert host.record(before).cold


def test_what_the_schema_leaves_behind_is_never_started_or_fallen_back_to(host: Any, drops: Dropping) -> None:
    before = host.deploy(1, 1)
    name = host.deploy(2, 2)
    host.do("drain", "d3", 3, cold=True)
    assert host.do("status")["idle"]["running"] is False
    host.do("reconcile")
    assert host.do("status")["idle"]["running"] is False
    drops.misfits = ["default: public.shop_order.note: it is gone"]
    drops.pending = []
    host.do("migrate", "d3", 3, release=name, plan=True)
    with pytest.raises(BluegreenError, match=f"whether {before} fits the schema is not known"):
        host.do("rollback", "d4", 4)
    assert host.live() == name


def test_a_late_one_that_fails_leaves_the_new_release_and_runs_with_the_same_again(host: Any, drops: Dropping) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    host.do("migrate", "d2", 2, release=name, plan=True, **late())
    host.do("migrate", "d2", 2, release=name, **late())
    switched(host, name, 2)
    drops.fails = DROP
    with pytest.raises(BluegreenError, match="it failed"):
        host.do("migrate", "d2", 2, release=name, moment="late", **late())
    assert host.live() == name
    assert host.do("status")["late"]["migrations"] == ["shop." + DROP]
    drops.fails = ""
    assert host.do("migrate", "d3", 3, release=name, plan=True, **late())["late"] == ["shop." + DROP]
    assert host.do("migrate", "d3", 3, release=name, moment="late", **late())["applied"] == ["shop." + DROP]


def test_what_ran_while_its_controller_was_dead_is_known_to_the_next_plan(host: Any, drops: Dropping) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    host.do("migrate", "d2", 2, release=name, plan=True, **late())
    host.do("migrate", "d2", 2, release=name, **late())
    switched(host, name, 2)
    drops.pending.clear()
    plan = host.do("migrate", "d3", 3, release=name, plan=True, **late())
    assert (plan["pending"], plan["late"]) == ([], [])
    assert [row["name"] for row in ledger.read(host.context()) if row["outcome"] == "applied"] == [PLAIN, DROP]


def test_a_late_one_that_waits_is_named_with_the_command_that_runs_it(host: Any, drops: Dropping) -> None:
    host.deploy(1, 1)
    name, after = host.release(2), host.release(3)
    drops.once_live = "needs_approval"
    with pytest.raises(BluegreenError, match="needs approval"):
        host.do("migrate", "d2", 2, release=name, plan=True, **late())
    allowed = words(gate.token(drops.items[DROP], name))
    host.do("migrate", "d2", 2, release=name, plan=True, **late(), **allowed)
    host.do("migrate", "d2", 2, release=name, **late(), **allowed)
    assert host.do("status")["late"] is None, "the release before is live"
    switched(host, name, 2)
    told = host.do("status")["late"]
    command, _, given = told["next"].partition(" -e '")
    assert command == f"ansible-playbook deploy.yml -e sha={host.record(name).sha[:12]}"
    assert json.loads(given.removesuffix("'")) == {
        "migrations_late": ["shop." + DROP],
        "migrations_approve": allowed["approve"],
        "migrations_approved_by": allowed["by"],
        "migrations_approve_reason": allowed["reason"],
    }
    host.do("migrate", "d3", 3, release=after, plan=True, **late(), **words(gate.token(drops.items[DROP], after)))
    assert host.do("status")["late"] == told, "another commit was planned and did not come through"
    host.do("migrate", "d4", 4, release=name, plan=True, **late(), **allowed)
    host.do("migrate", "d4", 4, release=name, moment="late", **late(), **allowed)
    assert host.do("status")["late"] is None


def test_one_that_loses_data_is_approved_as_ever(host: Any, drops: Dropping) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    drops.once_live = "needs_approval"
    with pytest.raises(BluegreenError, match=f"shop.{DROP} needs approval"):
        host.do("migrate", "d2", 2, release=name, plan=True, **late())
    allowed = words(gate.token(drops.items[DROP], name))
    host.do("migrate", "d2", 2, release=name, plan=True, **late(), **allowed)
    host.do("migrate", "d2", 2, release=name, **late(), **allowed)
    switched(host, name, 2)
    host.do("migrate", "d2", 2, release=name, moment="late", **late(), **allowed)
    row = ledger.read(host.context())[-1]
    assert (row["name"], row["approved"]["by"], bool(row["snapshot"])) == (DROP, "ann", True)


def test_a_refusal_says_that_late_is_a_way(host: Any, drops: Dropping) -> None:
    host.deploy(1, 1)
    with pytest.raises(BluegreenError) as caught:
        host.do("migrate", release=host.release(2), plan=True)
    assert json.loads(caught.value.todo.partition(" -e ")[2].strip("'")) == {"migrations_late": ["shop." + DROP]}
    drops.possible = False
    with pytest.raises(BluegreenError) as caught:
        host.do("migrate", release=host.release(2), plan=True)
    assert "migrations_late" not in caught.value.todo


@pytest.mark.parametrize(
    ("names", "more", "code", "says"),
    [
        (["0009_x"], {}, Code.BAD_INPUT, "migrations_late: shop.0009_x is not pending"),
        ([DROP], {"needs": {PLAIN: ["shop." + DROP]}}, Code.REFUSED, f"shop.{PLAIN} depends on shop.{DROP}, .* late"),
        ([DROP], {"possible": False}, Code.REFUSED, f"shop.{DROP} cannot run late: the new release does not work"),
        ([DROP], {"once_live": "refused"}, Code.REFUSED, f"shop.{DROP} is refused, also once the new release is live"),
        ([DROP], {"wall": False}, Code.REFUSED, f"shop.{DROP} cannot run late: .* not known without a shadow"),
        ([DROP], {"unjudged": ["default: SQLite"]}, Code.REFUSED, f"shop.{DROP} cannot run late: not judged: SQLite"),
    ],
    ids=["not pending", "depended on", "needed by the code", "refused", "no shadow", "not judged"],
)
def test_what_cannot_run_late_is_refused_before_anything_changes(
    host: Any, drops: Dropping, names: list[str], more: dict[str, Any], code: Code, says: str
) -> None:
    host.deploy(1, 1)
    vars(drops).update(more)
    with pytest.raises(BluegreenError, match=says) as caught:
        host.do("migrate", release=host.release(2), plan=True, **late(*names))
    assert caught.value.code is code
    assert "run" not in drops.verbs()


def test_nothing_is_late_where_nothing_is_live(host: Any, drops: Dropping) -> None:
    with pytest.raises(BluegreenError, match="cannot run late: nothing is live yet"):
        host.do("migrate", release=host.release(1), plan=True, **late())
