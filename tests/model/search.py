"""Walks through every state of a model, breadth-first, so that what is found first is found on a shortest way."""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections import deque
from collections.abc import Callable, Iterable

from tests.model.protocol import END, HALF, TAKE, Cell, Model, Run, State, Step, replaced

ENDED = Run(END, failed=True)


@dataclasses.dataclass
class Result:
    """What a search has found. `wrong` is empty if every promise held; then `way` is too."""

    states: int
    steps: int
    depth: int
    wrong: str = ""
    way: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.states:,} states, {self.steps:,} steps, depth {self.depth}"
        if not self.wrong:
            return text
        return "\n".join((text, self.wrong + ":", *(f"{number:3} {line}" for number, line in enumerate(self.way, 1))))


def search(model: Model, wrong: Callable[[Model, State], str] = Model.broken, limit: int = 2_000_000) -> Result:
    """Every state that can be reached; then whether every one of them ends well when no more goes wrong.

    `wrong` says which promise a state breaks. Stops at the first one.
    """
    gc.disable()  # a million tuples, none of which ever becomes garbage
    try:
        return _search(model, wrong, limit)
    finally:
        gc.enable()


def _search(model: Model, judge: Callable[[Model, State], str], limit: int) -> Result:
    first = canonical(model, model.first())
    number: dict[State, int] = {first: 0}
    states, parents, depths, steps = [first], [-1], [0], 0
    ends: tuple[list[list[int]], list[list[int]]] = ([], [])
    last = f"controller {model.controllers}"
    for here, state in enumerate(states):  # it grows
        calm: list[int] = []  # where the hosts' timers alone lead
        again: list[int] = []  # where hosts, time and the last controller lead while nothing goes wrong
        for step in model.moves(state):
            steps += 1
            after = canonical(model, step.state)
            wrong = step.wrong or judge(model, after)
            if wrong:
                way = told(model, [*trail(states, parents, here), after], step.wrong)
                return Result(len(states), steps, depths[here] + 1, wrong, way)
            there = number.setdefault(after, len(states))
            if there == len(states):
                states.append(after)
                parents.append(here)
                depths.append(depths[here] + 1)
                assert there < limit, f"more than {limit:,} states"
            if not step.fault and step.who in ("host", "time", last):
                again.append(there)
                if step.who == "host":
                    calm.append(there)
        ends[0].append(calm)
        ends[1].append(again)
    result = Result(len(states), steps, max(depths))
    if not model.loses:
        result.wrong, stuck = ending(model, states, *ends)
        result.way = told(model, trail(states, parents, stuck), "") if result.wrong else ()
    return result


def ending(model: Model, states: list[State], calm: list[list[int]], again: list[list[int]]) -> tuple[str, int]:
    """What does not end well though nothing more goes wrong, and the first state from which it does not."""
    good = [here for here, state in enumerate(states) if not calm[here] and model.calm(state)]
    stuck = cannot_reach(calm, good)
    if stuck is not None:
        return "the hosts never agree, though nothing more goes wrong", stuck
    good = [here for here, state in enumerate(states) if all(c.host.live == model.controllers for c in state.cells)]
    stuck = cannot_reach(again, good, (here for here, state in enumerate(states) if fresh(state)))
    if stuck is not None and not model.brief:
        return "the next run cannot succeed, though nothing more goes wrong", stuck
    return "", 0


def canonical(model: Model, state: State) -> State:
    """One state for all that behave alike: hosts have no names, and what nobody can use any more is cleared."""
    register, cells, runs, confirmed, aborted, lost = state
    over: tuple[int, ...] = ()  # the controllers of which nothing more is to come
    for me, run in enumerate(runs):
        if run.phase == END and all(cell.late[me] == END for cell in cells):
            over = (*over, me + 1)
            if run is not ENDED:
                runs = replaced(runs, me, ENDED)
    # a copy of the lease lets in whom the register names: asking instead lets in the same, or nobody
    needless = register.holder
    if not model.register or model.breaks or model.jumps or model.off & {"copy ends first", "renewal asks"}:
        needless = 0
    tidy = sorted([tidied(cell, over, needless) for cell in cells])
    return State(register, tuple(tidy), runs, confirmed, aborted, lost)


@functools.cache
def tidied(cell: Cell, over: tuple[int, ...], needless: int) -> Cell:
    host = cell.host
    if host.idle and not host.pending and (host.idle == HALF or host.idle in over):
        host = host._replace(idle=0, runs=False)
    if needless and host.copy == needless:
        host = host._replace(copy=0)
    return cell._replace(host=host)


def fresh(state: State) -> bool:
    """Whether the last controller has not begun, and may: another one came first."""
    run = state.runs[-1]
    came = len(state.runs) == 1 or any(cell.host.newest for cell in state.cells)
    return (
        came and run.phase == TAKE and not run.failed and not run.fence and all(cell.todo[-1] for cell in state.cells)
    )


def cannot_reach(edges: list[list[int]], goal: Iterable[int], among: Iterable[int] | None = None) -> int | None:
    """The first state (of `among`) from which no way leads to the goal."""
    back: list[list[int]] = [[] for _ in edges]
    for here, ends in enumerate(edges):
        for there in ends:
            back[there].append(here)
    good = bytearray(len(edges))
    queue = deque(goal)
    for here in queue:
        good[here] = 1
    while queue:
        for before in back[queue.popleft()]:
            if not good[before]:
                good[before] = 1
                queue.append(before)
    return next((here for here in (range(len(edges)) if among is None else among) if not good[here]), None)


def trail(states: list[State], parents: list[int], here: int) -> list[State]:
    """The states from the first one to this one."""
    found = []
    while here >= 0:
        found.append(states[here])
        here = parents[here]
    return found[::-1]


def told(model: Model, way: list[State], wrong: str) -> tuple[str, ...]:
    """A way in words. The hosts get their names back: each step is made again without sorting."""
    state, lines = model.first(), []
    for index, target in enumerate(way[1:], 1):
        ending = wrong and index == len(way) - 1  # the step itself broke a promise: another may lead to the same state
        step = next(
            step
            for step in model.moves(state)
            if canonical(model, step.state) == target and (not ending or wrong == step.wrong)
        )
        lines.append(line(step))
        state = step.state
    return tuple(lines)


def line(step: Step) -> str:
    where = "" if step.where is None else f"h{step.where + 1}"
    who = where if step.who == "host" else " ".join(filter(None, (step.who, "→ " + where if where else "")))
    return f"{who:20} {step.words}"
