"""The model's steps are the program's: ways through the model, done by the program's own functions."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen import units
from bluegreen.errors import BluegreenError
from bluegreen.errors import Code as Exit
from tests.model.protocol import CONFIRM, START, SWITCH, TAKE, Model
from tests.model.replay import Code, Mismatch, Walk, load_host_tests, ways_to_everything

WORLDS: dict[str, dict[str, Any]] = {
    "two controllers": {"hosts": 1, "controllers": 2, "late": (SWITCH, CONFIRM)},
    "two hosts": {"hosts": 2, "controllers": 1},
    "a host that was left out": {"hosts": 2, "controllers": 2, "late": (), "left_out": True},
}
SEEDS = 3 if os.environ.get("BLUEGREEN_TEST_FULL") else 1  # a killed call dies somewhere else each time


@pytest.fixture
def roots() -> Iterator[list[Path]]:
    made = [load_host_tests().make_directory() for _ in range(2)]
    yield made
    for root in made:
        shutil.rmtree(root, ignore_errors=True)


def walk(model: Model, seed: int) -> Iterator[Walk]:
    """A walk on hosts of its own."""
    roots = [load_host_tests().make_directory() for _ in range(model.hosts)]
    with pytest.MonkeyPatch.context() as patch:
        yield Walk(model, patch, roots, seed)
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)


def follow_all(model: Model, seeds: int, stop: int = 10**6) -> tuple[int, int]:
    """Go all ways. Returns how many came to their end, and how many there are."""
    ways = ways_to_everything(model)[:stop]
    reached = 0
    for number, way in enumerate(ways):
        arrived = False
        for seed in range(seeds if "killed" in way[-1].how else 1):
            for one in walk(model, 1000 * number + seed):
                arrived |= one.follow(way)
        reached += arrived
    return reached, len(ways)


@pytest.mark.parametrize(
    "world", [name if name == "two hosts" else pytest.param(name, marks=pytest.mark.full) for name in WORLDS]
)
def test_every_kind_of_step_leads_the_program_where_it_leads_the_model(world: str) -> None:
    reached, ways = follow_all(Model(every_way=True, **WORLDS[world]), SEEDS)
    # a few are only in the model: a deadline that has passed is one for `decide` too, whether the timer fired or not
    assert reached >= 0.9 * ways, f"{reached} of {ways}"


@pytest.mark.parametrize("seed", range(6))
def test_random_walks(seed: int) -> None:
    for one in walk(Model(hosts=2, controllers=2, every_way=True), seed):
        one.wander(50)
        assert one.told


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 200))
def test_many_random_walks(seed: int) -> None:
    for one in walk(Model(hosts=3, controllers=2, every_way=True), seed):
        one.wander(80)
        assert one.told


LEFT_OUT = ["deadman asks", "pending last", "boot asks", "boot arms", "provisional", "commit starts"]


@pytest.mark.parametrize(
    "rule", [*LEFT_OUT[:2], *(pytest.param(name, marks=pytest.mark.full) for name in LEFT_OUT[2:])]
)
def test_a_program_that_keeps_the_rules_is_not_a_model_without_one(rule: str) -> None:
    """The comparison can fail."""
    with pytest.raises(Mismatch):
        follow_all(Model(every_way=True, off=frozenset({rule}), **WORLDS["two hosts"]), 1)


# what the model has found in the program


def refused(code: Exit, call: Any, *arguments: Any) -> None:
    with pytest.raises(BluegreenError) as caught:
        call(*arguments)
    assert caught.value.code is code


def test_a_host_alone_refuses_whom_it_has_replaced(roots: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    code = Code(monkeypatch, roots[:1], 2, random.Random(1))
    host = code.fleet.on(code.fleet.hosts[0])
    host.configure_host(register=False)
    code.call(host, 1, TAKE, 0, "")
    code.call(host, 1, START, 1, "")
    code.forget_lease(host)
    code.call(host, 2, TAKE, 0, "")
    code.forget_lease(host)  # the second one is slow as well
    refused(Exit.STALE_FENCE, code.call, host, 1, SWITCH, 1, "")


def test_commit_is_final_also_where_the_release_does_not_come_up(
    roots: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = Code(monkeypatch, roots, 2, random.Random(1))
    h1, h2 = code.fleet.hosts
    for phase in (TAKE, START, SWITCH):
        for host in (h1, h2):
            code.call(code.fleet.on(host), 1, phase, 1, "")
    code.fleet.cut = {h1.name}
    with pytest.raises(BluegreenError):
        code.fire(code.fleet.on(h1))
    code.fleet.cut = set()
    code.call(code.fleet.on(h2), 1, CONFIRM, 1, "")
    code.expire()
    h1.system.stop(units.web_unit("orders", "green"))
    h1.system.failing = {code.names[1]: ["ImportError: no"]}
    code.call(code.fleet.on(h1), 2, TAKE, 0, "")
    register, hosts = code.observe()
    assert register.rows == (1, 0)
    assert hosts[1].live == 1
    assert hosts[0].live == 1 or hosts[0].pending == 1, "one host has confirmed it, and another has undone it for good"
