"""Every state of the protocol for one, two and three hosts; and what the checker says when a rule is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.model.protocol import ABORT, RULES, SWITCH, Model
from tests.model.search import search

Show = Callable[[str], None]

WORLDS: dict[str, dict[str, Any]] = {
    "one host without a register": {"hosts": 1, "controllers": 2, "register": False},
    "one host": {"hosts": 1, "controllers": 2},
    "two hosts, one controller, and a person who breaks its lease": {"hosts": 2, "breaks": True, "late": (SWITCH,)},
    "three hosts, one controller": {"hosts": 3, "late": (SWITCH,)},
    "three hosts, one of which was left out": {"hosts": 3, "controllers": 2, "late": (), "left_out": True},
}
LONG: dict[str, dict[str, Any]] = {
    "two hosts, and PostgreSQL's clock jumps": {"hosts": 2, "controllers": 2, "late": (), "brief": True, "jumps": True},
    "two hosts, two controllers": {"hosts": 2, "controllers": 2, "late": ()},
    "two hosts, two controllers, calls that arrive late": {"hosts": 2, "controllers": 2, "late": (SWITCH,)},
    "three hosts, and a second run that settles what the first left": {
        "hosts": 3, "controllers": 2, "late": (), "brief": True
    },
}  # fmt: skip


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """Print past pytest: how much was searched is part of the result."""

    def write(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    return write


@pytest.mark.parametrize("world", WORLDS)
def test_every_promise_holds_in_every_state(world: str, show: Show) -> None:
    result = search(Model(**WORLDS[world]))
    show(f"{world}: {result}")
    assert not result.wrong, str(result)


@pytest.mark.full
@pytest.mark.parametrize("world", LONG)
def test_every_promise_holds_in_larger_worlds(world: str, show: Show) -> None:
    result = search(Model(**LONG[world]))
    show(f"{world}: {result}")
    assert not result.wrong, str(result)


TWO: dict[str, Any] = {"hosts": 2, "late": ()}
ALONE: dict[str, Any] = {"hosts": 1, "controllers": 2, "register": False}
ONE: dict[str, Any] = {"hosts": 1, "controllers": 2}
OUTCOMES = "was confirmed on one host and aborted for good on another"
# rule that is left out → (a small world that needs it, what must be found there)
NEEDED: dict[str, tuple[dict[str, Any], str]] = {
    "confirm asks": (TWO, OUTCOMES),
    "first writer wins": (TWO, OUTCOMES),
    "commit needs lease": ({**TWO, "breaks": True}, "COMMIT of 1 was written while another had the lease"),
    "deadman asks": (TWO, OUTCOMES),
    "revert asks": (TWO, OUTCOMES),
    "boot asks": (TWO, OUTCOMES),
    "resume asks": ({**TWO, "controllers": 2, "brief": True}, OUTCOMES),
    "provisional": (TWO, OUTCOMES),
    "fence": (ALONE, "controller 1 changed a host that had accepted a newer one"),
    "take raises fence": (ALONE, "controller 1 changed a host that had accepted a newer one"),
    "copy ends first": (ONE, "controller 1 was let in while the register names another one"),
    "renewal asks": (ONE, "controller 1 was let in while the register names another one"),
    "arm first": (TWO, "the hosts never agree"),
    "boot arms": (TWO, "the hosts never agree"),
    "provisional asks on": (TWO, "the hosts never agree"),
    "commit starts": (TWO, "the hosts never agree"),
    "commit is final": ({**TWO, "controllers": 2, "brief": True}, OUTCOMES),
    "pending last": (TWO, OUTCOMES),
    "outdated after revert": (
        {**TWO, "controllers": 2, "left_out": True},
        "of which it knows that it is older than the fleet's",
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_can_be_left_out(rule: str, show: Show) -> None:
    world, wanted = NEEDED[rule]
    result = search(Model(off=frozenset({rule}), **world))
    show(f"If {RULES[rule]}: {result}")
    assert wanted in result.wrong, str(result)
    assert result.way


@pytest.mark.parametrize("world", list({str(world): world for world, _ in NEEDED.values()}.values()), ids=str)
def test_the_same_worlds_are_well_with_every_rule(world: dict[str, Any]) -> None:
    result = search(Model(**world))
    assert not result.wrong, str(result)


# a database that fails over to a copy which lacks the last decision


@pytest.mark.parametrize(("decision", "name"), [(1, "COMMIT"), (ABORT, "ABORT")])
def test_a_lost_decision_makes_two_outcomes(decision: int, name: str, show: Show) -> None:
    result = search(Model(loses=decision, **TWO))
    show(f"If an asynchronous failover loses {name}: {result}")
    assert OUTCOMES in result.wrong, str(result)
    assert any(f"failover: {name} of 1 is lost" in line for line in result.way)


@pytest.mark.parametrize("decision", [1, ABORT])
def test_two_outcomes_are_seen_in_the_status(decision: int) -> None:
    def unseen(model: Model, state: Any) -> str:
        wrong = model.broken(state)
        return wrong + ", and status shows nothing" if wrong and not model.detected(state) else ""

    result = search(Model(loses=decision, **TWO), unseen)
    assert not result.wrong, str(result)
