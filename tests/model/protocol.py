"""A model of the multi-host protocol: controllers, hosts and the register, with every fault at every step.

It is small enough to be searched exhaustively. `Model.moves` gives every step that is possible in a state;
`search` walks breadth-first through all states, so that a violated promise comes with a shortest way to it.

How the world is seen
  time         is abstract: a dead-man's timer may fire at any moment after arming, the lease may expire at any moment.
               A copy of the lease on a host ends before the register's, so one step ends both. Giving the lease back
               leaves less than its expiry does, and needs no step of its own.
  controllers  may stop for ever at any step (none of their steps is forced), be frozen and come back (anything may
               happen between two of their steps), give up on a host, and have a call arrive after they gave up on it.
  cuts         a host that is cut off from a controller: the call fails, or is done and its answer is lost.
               A host that is cut off from the register: it gets no answer, though what it asked for may be written.
  crashes      a verb may be killed between any two of its writes; a power cut takes what runs, timers and the lease.
               A host that is down takes no step: power cut, boot and reconcile are one step, taken when it is back.

`off` names rules that are left out, one at a time: the checker must find what each of them is there for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

NO_ROW, ABORT = 0, -1  # of a decision; a COMMIT is written as its generation, which is above 0
T = TypeVar("T")

HALF = -1  # what the idle colour holds while a release is being made there
TAKE, START, SWITCH, CONFIRM, REVERT, END = range(6)
PHASES = ("preflight", "start", "switch", "confirm", "revert", "end")

# Every rule of the protocol that can be left out: name → what happens then.
RULES = {
    "confirm asks": "confirm does not ask the register",
    "first writer wins": "a later COMMIT replaces an ABORT",
    "commit needs lease": "COMMIT is written whoever holds the lease",
    "deadman asks": "the dead-man reverts without writing ABORT",
    "revert asks": "the controller's revert does not write ABORT",
    "boot asks": "reconcile reverts without asking",
    "resume asks": "the next run undoes what it finds without asking",
    "provisional": "a host that gets no answer reverts for good",
    "fence": "an older generation is not refused",
    "take raises fence": "taking the lease of a host alone leaves the host's generation as it is",
    "copy ends first": "a host's copy of the lease outlives the register's",
    "renewal asks": "an ended copy is renewed without asking whom the register names",
    "arm first": "the timer is armed after the switch",
    "boot arms": "reconcile arms no timer for a switch that stays open",
    "provisional asks on": "a provisional revert ends the timer",
    "commit starts": "COMMIT is followed only where the release still runs",
    "pending last": "pending.json is removed before active.json is written",
    "commit is final": "a COMMIT whose release does not come up here is undone by the next run",
    "outdated after revert": "a revert does not look whether the fleet is ahead",
}  # fmt: skip


class Host(NamedTuple):
    """One host. Deploys have numbers; 0 is the release of before."""

    live: int = 0  # active.json
    pending: int = 0  # pending.json: the deploy whose switch is open here
    provisional: bool = False  # pending.json says that the visitors went back and the register is still being asked
    forward: bool = False  # where the route leads: to the open switch's release, else to the live one
    idle: int = 0  # the deploy whose release the idle colour holds, or HALF
    runs: bool = False  # whether it runs there
    timer: bool = False  # the dead-man's timer, or its service that goes on asking
    fence: int = 0
    copy: int = 0  # who has the lease according to lease.json, while that is not expired
    outdated: bool = False  # nginx is down: what is live here is older than the fleet's release
    newest: int = 0  # not in the code: the newest run that was accepted here
    told: bool = False  # not in the code: it has learned that what is live here is older than the fleet's


class Register(NamedTuple):
    """The database: who has the lease, and a decision for each deploy."""

    holder: int = 0
    expired: bool = False
    generation: int = 0
    rows: tuple[int, ...] = ()


class Run(NamedTuple):
    """A controller; its number is that of its deploy."""

    phase: int = TAKE
    fence: int = 0
    failed: bool = False  # nothing more depends on how calls go


class Cell(NamedTuple):
    """A host, and what each controller still wants from it: the call of its phase, and one it gave up on."""

    host: Host
    todo: tuple[bool, ...]
    late: tuple[int, ...]  # a phase, or END for none


class State(NamedTuple):
    """Everything. `confirmed` and `aborted` remember which deploys had that final outcome on any host."""

    register: Register
    cells: tuple[Cell, ...]
    runs: tuple[Run, ...]
    confirmed: frozenset[int] = frozenset()
    aborted: frozenset[int] = frozenset()
    lost: bool = False  # a failover has lost a decision


class Done(NamedTuple):
    """One way a step on a host can go."""

    words: str
    host: Host
    register: Register
    ok: bool = True
    fault: bool = False
    fence: int = 0  # the generation that `lease take` answers
    wrong: str = ""  # the promise that this very step breaks
    how: str = ""  # what went wrong: silent, cut (silent from the second verb on), lost, killed; or nothing


class Step(NamedTuple):
    """A step of the whole: what happened where (a place in `cells`, or None), and the state after it."""

    who: str
    where: int | None
    words: str
    fault: bool
    state: State
    wrong: str = ""
    ok: bool = True
    how: str = ""


@dataclasses.dataclass(eq=False)
class Model:
    """Which world is searched."""

    hosts: int = 2
    controllers: int = 1
    off: frozenset[str] = frozenset()  # the rules that are left out
    register: bool = True  # off: one host alone, whose own commit point decides
    late: tuple[int, ...] = (START, SWITCH, CONFIRM, REVERT)  # calls that may arrive after the controller gave up
    breaks: bool = False  # a person may break the lease
    jumps: bool = False  # PostgreSQL's clock may jump: the lease expires there before the hosts' copies do
    loses: int = NO_ROW  # COMMIT (1) or ABORT: a decision that one asynchronous failover may lose
    brief: bool = False  # controllers after the first end when they have settled what the first left open
    every_way: bool = False  # also tell apart what has one effect: an answer that is lost, a call that is killed
    left_out: bool = False  # it begins with a deploy by all hosts but the last one, which was down

    def on(self, rule: str) -> bool:
        assert rule in RULES, rule
        return rule not in self.off

    def first(self) -> State:
        """Where it begins."""
        runs = (Run(),) * self.controllers
        rows = (NO_ROW,) * self.controllers
        cells = (Cell(Host(), (True,) * self.controllers, (END,) * self.controllers),) * self.hosts
        register = Register(rows=rows)
        if self.left_out:
            # deploy 1 is done and its lease is free: only the controllers from 2 on are to come
            register = Register(generation=1, rows=(1, *rows[1:]))
            runs = (Run(END, failed=True), *runs[1:])
            todo = (False, *(True,) * (self.controllers - 1))
            done, missed = Host(live=1, fence=1, newest=1), Host(outdated=True, told=True)
            cells = tuple(
                Cell(missed if place == self.hosts - 1 else done, todo, cells[0].late) for place in range(self.hosts)
            )
        return State(register, cells, runs)

    # the register, as a host asks it

    def ask(
        self, register: Register, deploy: int, wanted: int, known: bool = False
    ) -> list[tuple[int | None, Register, str]]:
        """Write a decision if there is none, and read it: (what was read or None, the register, what went wrong).

        COMMIT (1) is written only for the deploy that has the lease; otherwise NO_ROW is read. `known`: the host has
        confirmed it, and writes it again should it be gone.
        """
        if not self.register:
            return [(wanted, register, "")]
        row = register.rows[deploy - 1]
        if row == NO_ROW or (wanted > 0 and row == ABORT and not self.on("first writer wins")):
            mine = known or register.holder == deploy or not self.on("commit needs lease")
            if wanted == ABORT or mine:
                row = ABORT if wanted == ABORT else max(1, register.generation)
        rows = replaced(register.rows, deploy - 1, row)
        written = register._replace(rows=rows)
        answers: list[tuple[int | None, Register, str]] = [(row, written, ""), (None, register, "silent")]
        if written != register:
            answers += [(None, written, "lost"), (None, written, "killed")]
        return answers

    # what verbs do on a host: the states they pass through; a crash leaves any of them

    def follow(self, host: Host) -> list[Host]:
        """Finish the confirmation of the open switch: COMMIT was read."""
        deploy = host.pending
        way = []
        if host.live != deploy:
            if host.idle != deploy or (not host.runs and not self.on("commit starts")):
                return self.back(host)  # it cannot: the visitors stay on the live release, and it asks again
            started = host._replace(runs=True)
            way = [started, started._replace(forward=True, outdated=False)]
        committed = Host(deploy, deploy, host.provisional, True, timer=host.timer, fence=host.fence, copy=host.copy,
                         newest=host.newest)  # fmt: skip
        if not self.on("pending last"):
            committed = host._replace(pending=0, provisional=False, forward=False)
        done = committed._replace(live=deploy, pending=0, provisional=False, forward=False)
        return [*way, committed, done, done._replace(timer=False)]

    def back(self, host: Host) -> list[Host]:
        """Revert provisionally: the visitors go back, the question stays open."""
        back = host._replace(forward=False, outdated=host.told and self.on("outdated after revert"))
        return [back, back._replace(provisional=True, timer=host.timer and self.on("provisional asks on"))]

    def drop(self, host: Host) -> list[Host]:
        """Revert for good: ABORT was read."""
        back = host._replace(forward=False, outdated=host.told and self.on("outdated after revert"))
        gone = back._replace(pending=0, provisional=False)
        return [back, gone, gone._replace(timer=False)]

    def resolve(self, host: Host, register: Register, asks: bool, words: str) -> Iterator[Done]:
        """Ask about the open switch, writing ABORT if there is no row, and follow the answer."""
        if host.pending == host.live:  # the commit point was reached before
            yield from ways(words + ", which was committed: finished", self.follow(host), register)
            return
        for row, after, how in self.ask(register, host.pending, ABORT) if asks else [(ABORT, register, "")]:
            if how == "killed":
                yield Done(f"{words} [killed when it was written]", host, after, False, True, how=how)
            elif row is None and self.on("provisional"):
                yield from ways(f"{words}: no answer, back provisionally", self.back(host), after, how)
            elif row is not None and row > 0:
                yield from ways(f"{words}: reads COMMIT, follows", self.follow(host), after)
            else:
                said = "no answer" if row is None else "reads ABORT" if asks else "asks nobody"
                yield from ways(f"{words}: {said}, back for good", self.drop(host), after, how)

    # steps that hosts take by themselves

    @functools.cache  # noqa: B019  a model lives as long as its search
    def alone(self, host: Host, register: Register) -> tuple[Done, ...]:
        """The dead-man's timer, and a power cut with the boot after it."""
        found = [checked(done, host) for done in (*self.deadman(host, register), *self.reboot(host, register))]
        if not self.every_way:
            found = [done for done in found if (done.host, done.register) != (host, register)]
        return self.distinct(found, True)

    def deadman(self, host: Host, register: Register) -> Iterator[Done]:
        if host.timer and not host.pending:
            yield Done("dead-man: nothing to do", host._replace(timer=False), register)
        elif host.timer:
            yield from self.resolve(host, register, self.on("deadman asks"), f"dead-man of {host.pending}")

    def reboot(self, host: Host, register: Register) -> Iterator[Done]:
        cut = host._replace(timer=False, copy=0, runs=False, forward=False, outdated=host.told)
        if not host.pending:
            newest = max(register.rows)
            if self.left_out and newest > (register.rows[host.live - 1] if host.live else 0):
                yield Done("power cut, boot: outdated", cut._replace(outdated=True, told=True), register, fault=True)
            elif cut != host:
                yield Done("power cut, boot", cut, register, fault=True)
            return
        armed = cut._replace(timer=self.on("boot arms"))
        for done in self.resolve(armed, register, self.on("boot asks"), f"power cut, boot with {host.pending} open"):
            if done.how != "killed":  # reconcile is repeated until it ends
                yield done._replace(fault=True)

    # calls of a controller

    @functools.cache  # noqa: B019
    def call(self, me: int, run: Run, phase: int, host: Host, register: Register) -> tuple[Done, ...]:
        """Every way in which the call of a phase can go on a host, also that its answer is lost."""
        verb = (self.take, self.start, self.switch, self.confirm, self.revert)[phase]
        found = []
        for done in verb(me, run.fence, host, register):
            done = self.judged(checked(done, host), me, phase, run.fence, host)
            found.append(done)
            if done.ok and not run.failed:
                lost = done.words + " [answer lost]"
                found.append(done._replace(words=lost, ok=False, fault=True, fence=0, how="deaf"))
        return self.distinct(found, run.failed)

    def distinct(self, found: list[Done], failed: bool) -> tuple[Done, ...]:
        """Of those that make no difference to anybody, one: the one that needs no fault if there is one."""
        if self.every_way:
            return tuple(dict.fromkeys(found))
        kept: dict[tuple[object, ...], Done] = {}
        for done in sorted(found, key=lambda done: done.fault):
            kept.setdefault((done.host, done.register, failed or done.ok, done.fence, done.wrong), done)
        return tuple(kept.values())

    def judged(self, done: Done, me: int, phase: int, fence: int, before: Host) -> Done:
        """Mark what a controller may not do: change a host that has accepted a newer one."""
        owned = ("live", "pending", "idle", "forward", "provisional")
        changed = any(getattr(before, name) != getattr(done.host, name) for name in owned)
        # whoever was just given the lease is the newest
        if changed and phase != TAKE and fence < before.newest and before.pending != me:
            return done._replace(wrong=f"controller {me} changed a host that had accepted a newer one")
        return done

    def take(self, me: int, fence: int, host: Host, register: Register) -> Iterator[Done]:
        """`lease take`, then `resume`: settle what an earlier run has left open."""
        if not self.register:
            if host.copy not in (0, me):
                return
            taken, generation = register, host.fence + 1
            if self.on("take raises fence"):
                raised = host._replace(fence=generation)
                yield Done("lease: generation raised, not taken [killed]", raised, register, False, True, how="killed")
        else:
            if register.holder not in (0, me) and not register.expired:
                return  # held by another: refused, nothing changes; it may wait
            new = register.holder != me
            generation = max(register.generation + new, host.fence + 1)
            taken = register._replace(holder=me, expired=False, generation=generation)
            yield Done("lease: no answer", host, register, False, True, how="silent")
            yield Done("lease: taken in the register, no answer", host, taken, False, True, how="lost")
        mine = host._replace(copy=me, newest=generation)
        if self.on("take raises fence") and not self.register:
            mine = mine._replace(fence=generation)
        if host.pending in (0, me):
            yield Done(f"lease: generation {generation}", mine, taken, fence=generation)
            return
        yield Done("lease, no resume [killed]", mine, taken, False, True, how="killed")
        asks = self.on("resume asks") and self.register
        for done in self.resolve(mine, taken, asks, f"lease, resume of {host.pending}"):
            if done.how in ("silent", "lost") and not host.provisional:
                done = done._replace(host=mine)  # no answer: resume refuses and leaves it to the dead-man
            yield done._replace(fence=generation, how="cut" if done.how == "silent" else done.how)
        if not self.on("commit is final") and taken.rows[host.pending - 1] > 0 and not host.forward:
            gone = mine._replace(pending=0, provisional=False, timer=False)
            yield Done(f"lease, resume of {host.pending}: COMMIT, but it does not come up: undone", gone, taken, True,
                       True, generation)  # fmt: skip

    def let_in(self, me: int, fence: int, host: Host) -> Host | None:
        """The host after a call's generation was accepted; None if that is an older one."""
        if fence < host.fence and self.on("fence"):
            return None
        return host._replace(fence=max(host.fence, fence), newest=max(host.newest, fence))

    def authority(self, me: int, fence: int, host: Host, register: Register) -> Iterator[tuple[Done, bool]]:
        """May this call change the host? The lease is renewed; or the call is refused, and nothing else changes."""
        accepted = None if host.copy not in (0, me) else self.let_in(me, fence, host)
        if accepted is None:
            yield Done("refused", host, register, False), False
            return
        mine = accepted._replace(copy=me)
        if host.copy == me or not self.register or not self.on("renewal asks"):
            wrong = ""
            if self.register and register.holder != me and not (self.breaks or self.jumps):
                wrong = f"controller {me} was let in while the register names another one"
            yield Done("", mine if self.register else accepted, register, wrong=wrong), True
            return
        refused = "refused: the lease cannot be renewed, no answer"
        yield Done(refused, accepted, register, False, True, how="silent"), False
        if register.holder == me:
            renewed = register._replace(expired=False)
            yield Done(refused, accepted, renewed, False, True, how="lost"), False
            yield Done("", mine, renewed), True
        else:
            yield Done("refused: the lease is another's", accepted, register, False), False

    def start(self, me: int, fence: int, host: Host, register: Register) -> Iterator[Done]:
        """Make the release and start it on the idle colour."""
        for done, allowed in self.authority(me, fence, host, register):
            if not allowed:
                yield done
            elif done.host.pending:
                yield done._replace(words="start: refused, a switch is open", ok=False)
            elif done.host.live == me:
                yield done._replace(words="start: it is live here")
            else:
                half = done.host._replace(idle=HALF, runs=False)
                ready = half._replace(idle=me, runs=True)
                yield from ways("start", [done.host, half, ready], done.register, wrong=done.wrong)
                yield Done("start: it does not come up", half, done.register, False, True, wrong=done.wrong, how="bad")

    def switch(self, me: int, fence: int, host: Host, register: Register) -> Iterator[Done]:
        """Arm the timer, write pending.json, replace the route."""
        for done, allowed in self.authority(me, fence, host, register):
            now = done.host
            if not allowed:
                yield done
            elif now.live == me and not now.pending:
                yield done._replace(words="switch: it is live here")
            elif now.pending not in (0, me) or now.idle != me or not now.runs or now.provisional:
                yield done._replace(words="switch: refused", ok=False)
            else:
                armed = now._replace(timer=True)
                opened = armed._replace(pending=me)
                moved = opened._replace(forward=True, outdated=False)
                way = [now, armed, opened, moved]
                if not self.on("arm first"):
                    way = [now, now._replace(pending=me), now._replace(pending=me, forward=True), moved]
                yield from ways("switch", way, done.register, wrong=done.wrong)

    def confirm(self, me: int, fence: int, host: Host, register: Register) -> Iterator[Done]:
        """`decide` COMMIT, which needs the register's word only, then `confirm`, which changes the host."""
        accepted = self.let_in(me, fence, host)
        if accepted is None:
            yield Done("decide: refused", host, register, False)
        elif host.live == me:
            for row, after, how in self.ask(register, me, 1, known=True):
                if how or row == ABORT:
                    words = "decide: no answer" if how else "decide: reads ABORT of what is confirmed here"
                    yield Done(words, accepted, after, False, bool(how), how=how)
                else:
                    yield from self.finish(me, fence, accepted, after, "")
        elif host.pending != me:
            yield Done("decide: no switch is open", accepted, register, False)
        elif not host.forward and not host.provisional:
            yield Done("decide: refused, the visitors are not there", accepted, register, False)
        elif not self.register or not self.on("confirm asks"):
            yield from self.finish(me, fence, accepted, register, "")
        else:
            yield from self.decide(me, fence, accepted, register, 1, "")
            yield from self.decide(me, fence, accepted, register, ABORT, " (its time has passed)")

    def decide(self, me: int, fence: int, host: Host, register: Register, wanted: int, late: str) -> Iterator[Done]:
        for row, after, how in self.ask(register, me, wanted):
            if how:
                yield Done(f"decide: no answer{late}", host, after, False, True, how=how)
            elif row == NO_ROW:
                yield Done("decide: refused, the lease is another's", host, after, False)
            elif row == ABORT:
                yield from ways(f"decide: reads ABORT, back for good{late}", self.drop(host), after, good=False)
            else:
                wrong = ""
                if after != register and register.holder != me:
                    wrong = f"COMMIT of {me} was written while another had the lease"
                yield Done("decide: COMMIT [killed]", host, after, False, True, wrong=wrong, how="killed")
                yield from self.finish(me, fence, host, after, wrong)

    def finish(self, me: int, fence: int, host: Host, register: Register, wrong: str) -> Iterator[Done]:
        for done, allowed in self.authority(me, fence, host, register):
            if allowed and not host.pending:
                yield done._replace(words="decide, confirm: confirmed before", wrong=wrong or done.wrong)
            elif allowed:
                yield from ways(
                    "decide COMMIT, confirm", self.follow(done.host), done.register, wrong=wrong or done.wrong
                )
            else:
                how = "cut" if done.how == "silent" else done.how
                yield done._replace(words="decide COMMIT; confirm: " + done.words, how=how)

    def revert(self, me: int, fence: int, host: Host, register: Register) -> Iterator[Done]:
        """The way back needs no lease, but it must not be of an older generation."""
        accepted = self.let_in(me, fence, host)
        if accepted is None:
            yield Done("revert: refused", host, register, False)
        elif host.pending:
            yield from self.resolve(accepted, register, self.on("revert asks"), "revert")
        else:
            yield Done("revert: nothing is open", accepted, register)

    # steps of the whole

    def moves(self, state: State) -> Iterator[Step]:
        """Every step that is possible."""
        register = state.register
        for place, cell in enumerate(state.cells):
            for done in self.alone(cell.host, register):
                yield self.step(state, "host", place, done, cell)
            for number, run in enumerate(state.runs):
                yield from self.calls(state, number, run, place, cell)
        yield from self.world(state)

    def calls(self, state: State, number: int, run: Run, place: int, cell: Cell) -> Iterator[Step]:
        """What a controller can do at one host now."""
        me, who = number + 1, f"controller {number + 1}"
        if cell.late[number] != END:
            free = cell._replace(late=replaced(cell.late, number, END))
            for done in self.call(me, run._replace(failed=True), cell.late[number], cell.host, state.register):
                done = done._replace(words=f"[arrives late] {done.words}", fault=True, how=done.how + " late")
                yield self.step(state, who, place, done, free)
        if not cell.todo[number] or (me > 1 and not state.register.generation and self.register):
            return
        if me > 1 and not self.register and not cell.host.newest:
            return  # the first one comes first
        asked = cell._replace(todo=replaced(cell.todo, number, False))
        for done in self.call(me, run, run.phase, cell.host, state.register):
            after = Run(run.phase, max(run.fence, done.fence), run.failed or not done.ok)
            yield from self.answered(state, number, after, self.step(state, who, place, done, asked))
        gone = Done(f"{PHASES[run.phase]}: unreachable", cell.host, state.register, False, True, how="unreachable")
        failed = run._replace(failed=True)
        yield from self.answered(state, number, failed, self.step(state, who, place, gone, asked))
        if run.phase in self.late and cell.late[number] == END:
            gone = gone._replace(words=f"{PHASES[run.phase]}: given up, still on its way")
            waiting = asked._replace(late=replaced(cell.late, number, run.phase))
            yield from self.answered(state, number, failed, self.step(state, who, place, gone, waiting))

    def answered(self, before: State, number: int, run: Run, step: Step) -> Iterator[Step]:
        """The barrier: when every host has answered, the next phase begins."""
        cells = step.state.cells
        if any(cell.todo[number] for cell in cells):
            runs = before.runs if run == before.runs[number] else replaced(before.runs, number, run)
            yield step._replace(state=State(step.state.register, cells, runs, *step.state[3:]))
            return
        follows: tuple[tuple[int, str], ...]
        if run.phase == SWITCH and not run.failed:
            follows = ((CONFIRM, "; the watch passes"), (REVERT, "; the watch fails"))
        elif run.phase in (SWITCH, CONFIRM) and run.failed:
            follows = ((REVERT, ""),)
        elif run.failed or run.phase in (CONFIRM, REVERT) or (self.brief and number):
            follows = ((END, ""),)
        else:
            follows = ((run.phase + 1, ""),)
        for phase, words in follows:
            todo = phase != END
            again = tuple(cell._replace(todo=replaced(cell.todo, number, todo)) for cell in cells)
            runs = replaced(before.runs, number, Run(phase, run.fence, phase in (REVERT, END)))
            yield step._replace(
                words=step.words + words,
                fault=step.fault or phase == REVERT,
                state=step.state._replace(cells=again, runs=runs),
            )

    def world(self, state: State) -> Iterator[Step]:
        """Time, a person, and the database."""
        register = state.register
        if self.register and register.holder and not register.expired:
            cells = state.cells
            if self.on("copy ends first") and not self.jumps:
                cells = tuple(
                    cell._replace(host=cell.host._replace(copy=0)) if cell.host.copy == register.holder else cell
                    for cell in cells
                )
            yield Step("time", None, "the lease expires", False,
                       state._replace(register=register._replace(expired=True), cells=cells))  # fmt: skip
        if not self.register:
            for place, cell in enumerate(state.cells):
                if cell.host.copy:
                    ended = Done("the lease expires", cell.host._replace(copy=0), register)
                    yield self.step(state, "time", place, ended, cell)
        if self.breaks and register.holder:
            broken = register._replace(holder=0, expired=False, generation=register.generation + 1)
            for place, cell in enumerate(state.cells):
                host = cell.host._replace(copy=0, fence=broken.generation)
                yield self.step(state, "person", place, Done("breaks the lease here", host, broken), cell)
        if self.loses and not state.lost:
            for number, row in enumerate(register.rows):
                if row and (row > 0) == (self.loses > 0):
                    rewound = register._replace(rows=replaced(register.rows, number, NO_ROW))
                    words = f"failover: {'COMMIT' if row > 0 else 'ABORT'} of {number + 1} is lost"
                    yield Step("database", None, words, True, state._replace(register=rewound, lost=True))

    def step(self, state: State, who: str, place: int, done: Done, cell: Cell) -> Step:
        """The state after something was done on one host; `cell` is that host's cell, the host itself excepted."""
        before = state.cells[place].host
        confirmed, aborted = state.confirmed, state.aborted
        if done.host.live != before.live:
            confirmed |= {done.host.live}
        if before.pending and not done.host.pending and done.host.live != before.pending:
            aborted |= {before.pending}
        cells = replaced(state.cells, place, Cell(done.host, cell.todo, cell.late))
        after = State(done.register, cells, state.runs, confirmed, aborted, state.lost)
        return Step(who, place, done.words, done.fault, after, done.wrong, done.ok, done.how)

    # what must hold

    def broken(self, state: State) -> str:
        """The promise that a state breaks, or nothing."""
        both = state.confirmed & state.aborted
        if both:
            return f"deploy {min(both)} was confirmed on one host and aborted for good on another"
        return ""

    def calm(self, state: State) -> bool:
        """Whether nothing is open any more and all hosts that serve, serve one release."""
        hosts = [cell.host for cell in state.cells]
        serving = {host.live for host in hosts if not host.outdated}
        return len(serving) == 1 and not any(host.pending or host.timer for host in hosts)

    def detected(self, state: State) -> bool:
        """Whether `status` shows a decision that was lost.

        A host's live deploy reads ABORT; or a host has an older release than the newest COMMIT, and nothing open.
        """
        rows = state.register.rows
        newest = max(rows)
        for cell in state.cells:
            host = cell.host
            mine = rows[host.live - 1] if host.live else 0
            if mine == ABORT or (newest > 0 and mine < newest and not host.pending and mine >= 0):
                return True
        return False


def ways(words: str, way: list[Host], register: Register, how: str = "", good: bool = True,
         wrong: str = "") -> Iterator[Done]:  # fmt: skip
    """A verb that passes through the states of `way`: done, or killed after one of its writes."""
    end = way[-1]
    yield Done(words, end, register, good and not end.provisional, bool(how), wrong=wrong, how=how)
    for number, host in enumerate(dict.fromkeys(way[:-1])):
        if host != end:
            killed = f"{words} [killed, {number}]"
            yield Done(killed, host, register, False, True, wrong=wrong, how="killed")


def checked(done: Done, before: Host) -> Done:
    """Mark a step after which a host serves what it must not."""
    host = done.host
    if host.forward and host.pending != host.live and (host.idle != host.pending or not host.runs):
        return done._replace(wrong="visitors are led to a release that is not whole or does not run")
    if host.told and not host.outdated and not host.forward and host.live == before.live:
        return done._replace(wrong="a host serves a release of which it knows that it is older than the fleet's")
    return done


def replaced(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """A tuple with one value changed."""
    return (*values[:place], value, *values[place + 1 :])
