"""What a run with a fault is judged by. Pure functions: no host is asked, nothing is started."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

SLOW = ("slow", "upload")  # kinds of requests that take long by intention: they say nothing about the moment
T = TypeVar("T")

GRACE = 1.0  # seconds beyond the time-to-live within which a fleet must be whole
SIGHT = 0.5  # seconds by which our own look at the hosts may be late


# --- traffic ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One request of a visitor. Times are on the monotonic clock; `release` is "" if the answer named none."""

    host: str
    sent: float
    answered: float
    ok: bool
    release: str
    quick: bool = True
    detail: str = ""


@dataclass(frozen=True)
class Traffic:
    """What visitors of some hosts saw in a stretch of time. Times in seconds."""

    requests: int
    failed: int
    gap: float
    mixed: float
    failures: tuple[str, ...] = ()


def answer_of(line: Mapping[str, Any], hosts: Mapping[str, str]) -> Answer:
    """An answer from one line of the load's log. `hosts`: URL → name."""
    answered = float(line["monotonic"])
    return Answer(
        hosts[str(line["target"])],
        answered - float(line["ms"]) / 1000,
        answered,
        bool(line["ok"]),
        str(line["release"]),
        line["kind"] not in SLOW,
        f"{line['method']} {line['path']}: {line.get('detail', '')}" if not line["ok"] else "",
    )


def traffic(answers: Iterable[Answer], start: float, end: float, hosts: Sequence[str]) -> Traffic:
    """Requests sent from `start` to `end` on these hosts; the rest of them is what a fault may hurt."""
    chosen = sorted(
        (one for one in answers if one.host in hosts and start <= one.sent <= end), key=lambda one: one.answered
    )
    failed = [one for one in chosen if not one.ok]
    details = tuple(f"{one.host} {one.detail}" for one in failed[:5])
    gap = max((longest_gap(chosen, host, start, end) for host in hosts), default=0.0)
    return Traffic(len(chosen), len(failed), gap, mixed_window(chosen), details)


def longest_gap(answers: Iterable[Answer], host: str, start: float, end: float) -> float:
    """The longest time without a good answer of a host. Answers come in the order in which they ended."""
    times = [min(one.answered, end) for one in answers if one.host == host and one.ok]
    marks = [start, *times, end]
    return max(after - before for before, after in itertools.pairwise(marks))


def mixed_window(answers: Iterable[Answer]) -> float:
    """The longest stretch in which the hosts did not all answer with one release."""
    current: dict[str, str] = {}
    since: float | None = None
    longest = 0.0
    for one in answers:
        if not one.release or not one.quick:
            continue
        current[one.host] = one.release
        if len(set(current.values())) > 1:
            since = one.answered if since is None else since
            longest = max(longest, one.answered - since)
        else:
            if since is not None:
                longest = max(longest, one.answered - since)
            since = None
    return longest


# --- hosts --------------------------------------------------------------------------------------------------------

# Cheap enough to be asked several times a second: reads files, starts nothing of ours.
LOOK = r"""
cd /var/lib/bluegreen/{app}
for each in active pending; do
  printf '{{"%s": ' $each; cat $each.json 2>/dev/null || printf null; printf '}}\0'
done
printf '{{"timers": "%s"}}\0' "$(ls /run/systemd/transient 2>/dev/null | grep '^bluegreen-.*timer$' | tr '\n' ' ')"
printf '{{"busy": "%s"}}\0' "$(pgrep -cf '[b]in/bluegreen (batch|revert|reconcile)')"
"""


@dataclass(frozen=True)
class Look:
    """What a host holds at a moment."""

    live: str | None
    sha: str | None
    pending: str | None
    timers: tuple[str, ...] = ()
    busy: bool = False
    deadline: float | None = None  # of the pending switch, on the clock that counts from boot


def look_of(text: str) -> Look | None:
    """From the output of LOOK; None if the host did not answer properly."""
    found: dict[str, Any] = {}
    for part in text.split("\0"):
        if part.strip():
            try:
                found |= json.loads(part)
            except ValueError:
                return None
    if not {"active", "pending", "timers", "busy"} <= set(found):
        return None
    active, pending = found["active"] or {}, found["pending"] or {}
    timers = tuple(name for name in found["timers"].split() if name.startswith("bluegreen-deadman"))
    busy = found["busy"] not in ("", "0")
    deadline = pending.get("deadline_at")
    return Look(active.get("release"), active.get("sha"), pending.get("release"), timers, busy, deadline)


def whole(looks: Mapping[str, Look | None]) -> bool:
    """Whether these hosts serve one confirmed release and nothing is pending."""
    known = [look for look in looks.values() if look is not None]
    return (
        bool(known)
        and len(known) == len(looks)
        and len({look.live for look in known}) == 1
        and all(look.live and not look.pending for look in known)
    )


def at_work(looks: Iterable[Look | None]) -> bool:
    """Whether a call of the host tool still runs: a dead controller's last one may, and may yet change something."""
    return any(look is None or look.busy for look in looks)


def armed(looks: Iterable[Look | None], ttl: float, offset: float) -> float | None:
    """When the last of these pending switches was armed, on the monotonic clock; None if none is pending.

    offset: what the clock that counts from boot is ahead of the monotonic one. The hosts share this machine's kernel.
    """
    found = [look.deadline - ttl - offset for look in looks if look and look.deadline is not None]
    return max(found, default=None)


# What must not be left behind: one line each, on standard output.
LEFTOVERS = r"""
cd /srv/{app}
list="systemctl list-units --plain --no-legend --no-pager"
$list --all 'bluegreen-*' | awk '$1 != "bluegreen-reconcile.service" {{print "unit " $1 " " $3}}'
$list --state=failed '{app}*' | awk '{{print "failed " $1}}'
find /srv/{app} /var/lib/bluegreen /run/bluegreen /etc/systemd/system -xdev -name '.tmp-*' \
  ! -path '/srv/{app}/images/*/*' ! -path '*/data/*' -printf 'temporary %p\n'
find inbox -type f -printf 'upload %f\n'
for home in releases/*/; do [ -e "$home" ] && [ ! -e "$home.complete" ] && echo "incomplete $home"; done
needed=$(for home in releases/*/; do [ -e "$home.complete" ] && readlink -f "$home"app; done)
for target in $(findmnt -rn -o TARGET -t squashfs | grep "^/srv/{app}/images/"); do
  case "$needed" in *"$target/"*) ;; *) echo "mount $target";; esac
done
for image in images/*.squashfs; do
  [ -e "$image" ] || continue
  [ -e "${{image%.squashfs}}.json" ] || echo "image $image"
done
true
"""


def leftovers(listing: str, status: Mapping[str, Any]) -> list[str]:
    """What is left behind on a host, in words: the output of LEFTOVERS, and what `bluegreen status` says."""
    found = [line.strip() for line in listing.splitlines() if line.strip()]
    if status.get("pending"):
        found.append(f"pending {status['pending'].get('release')}")
    if status.get("lease"):
        found.append(f"lease {status['lease'].get('deploy_id', status['lease'])}")
    register = status.get("register")
    if isinstance(register, Mapping) and register.get("lease"):
        found.append(f"register lease {register['lease'].get('deploy_id', register['lease'])}")
    if isinstance(register, Mapping) and register.get("error"):
        found.append(f"register {register['error']}")
    return found + [f"drift: {line}" for line in status.get("drift") or []]


def stays(leftover: str) -> bool:
    """Whether a leftover of one run would be found again after the next one: a file, not a state."""
    kind = leftover.partition(": ")[2].partition(" ")[0]
    return kind in ("temporary", "upload", "incomplete", "mount", "image")


# --- points -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One task of a run without a fault: its number from 1, its play, and the seconds it took."""

    number: int
    play: str
    name: str
    seconds: float


def tasks_of(timeline: str) -> list[Task]:
    """The tasks of a timeline that the callback wrote."""
    events = [json.loads(line) for line in timeline.splitlines() if line.strip()]
    marks = [event for event in events if event["event"] in ("task", "end")]
    return [
        Task(event["number"], event["play"], event["task"], after["at"] - event["at"])
        for event, after in itertools.pairwise(marks)
        if event["event"] == "task"
    ]


def moment_of(timeline: str, event: str) -> float | None:
    """When something happened, on the monotonic clock."""
    found = [line for line in map(json.loads, filter(str.strip, timeline.splitlines())) if line["event"] == event]
    return float(found[0]["at"]) if found else None


def place_of(timeline: str) -> tuple[str, int, str] | None:
    """Where a fault happened in truth: before or during a task, its number and its play; None if it never did.

    A moment chosen within a task can come after it: tasks do not always take the time that they took before.
    """
    events = [json.loads(line) for line in timeline.splitlines() if line.strip()]
    for before, event in itertools.pairwise(events):
        if event["event"] == "hit":
            return "before" if before["event"] == "task" else "during", int(event["number"]), str(event["play"])
    return None


def state_at(when: str, play: str) -> str:
    """What a fault met: which part of the promise such a run says something about."""
    if (when, play) == ("before", "Confirm") or (play == "Watch"):
        return "the switch pending"
    if play in ("Switch", "Confirm"):
        return "before the switch" if when == "before" else {"Switch": "switching", "Confirm": "confirming"}[play]
    return "all done" if play in ("Revert", "Settle", "Outcome") else "before the switch"


@dataclass(frozen=True)
class Point:
    """Where the controller is hurt: before or during a task of deploy or rollback."""

    command: str
    when: str
    task: Task
    delay: float = 0.0
    whom: str = "all"
    then: str = "wait"  # for the dead-man, or: rerun at once

    @property
    def text(self) -> str:
        """For people."""
        late = f" + {self.delay:.2f} s" if self.when == "during" else ""
        return f"{self.command}, {self.when} task {self.task.number} ({self.task.play}){late}, {self.whom}, {self.then}"


def points(command: str, tasks: Sequence[Task], seed: int, during: bool) -> list[Point]:
    """Before every task; and during those that take their time, at a moment that the seed chooses."""
    chance = random.Random(f"{seed} {command}")  # noqa: S311  repeatable, not secret
    found = []
    for task in tasks:
        for when in ("before", "during") if during and task.seconds > 0.2 else ("before",):
            delay = round(chance.uniform(0, task.seconds), 3) if when == "during" else 0.0
            whom, then = chance.choice(("all", "parent")), chance.choice(("wait", "rerun"))
            found.append(Point(command, when, task, delay, whom, then))
    return found


def sample(items: Sequence[T], count: int | None, seed: int) -> list[T]:
    """`count` of the items, chosen by the seed, in their order; all of them without a count."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), count))]  # noqa: S311


# System calls with which the host tool changes something, and those with which it calls another program.
CHANGING = (
    *("rename", "renameat2", "link", "symlink", "unlink", "rmdir", "mkdir", "write", "pwrite64", "sendfile"),
    *("copy_file_range", "fsync", "fdatasync", "ftruncate", "fchmod", "fchown", "chmod", "chown", "sync"),
    *("mount", "umount2", "openat"),
)
CALLING = ("vfork", "fork", "clone", "clone3")
CALL = re.compile(r"^(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)$")


def calls_of(log: str) -> list[tuple[str, int, str]]:
    """(system call, which one of its kind, what it was about) from strace's log, for those that change something."""
    found = []
    counts: dict[str, int] = {}
    for line in log.splitlines():
        match = CALL.match(line)
        if not match:
            continue
        name, rest = match.groups()
        counts[name] = counts.get(name, 0) + 1
        if name == "openat" and "O_CREAT" not in rest:
            continue
        if name in CHANGING or name in CALLING:
            found.append((name, counts[name], rest[:100]))
    return found


def struck(log: str) -> bool:
    """Whether strace's log of a hurt call shows that the fault happened."""
    return "killed by SIGKILL" in log or "INJECTED" in log


def thin(items: Sequence[tuple[str, int, str]], seed: int) -> list[tuple[str, int, str]]:
    """The same calls without the bulk: of a row of one kind the first two, one that the seed chooses, and the last."""
    chance = random.Random(seed)  # noqa: S311
    found = []
    for _, group in itertools.groupby(items, lambda item: item[0]):
        row = list(group)
        found += row if len(row) <= 4 else [*row[:2], chance.choice(row[2:-1]), row[-1]]
    return found


# --- verdict ------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """One run with one fault. Times in seconds; `problems` is empty if every promise was kept."""

    case: str
    fault: str
    point: str
    seed: int
    requests: int = 0
    failed: int = 0
    gap: float = 0.0
    mixed: float = 0.0
    whole: float | None = None
    ended: str = ""
    rerun: int | None = None
    rerun_seconds: float | None = None
    leftovers: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        return {
            key: round(value, 3) if isinstance(value, float) else value
            for key, value in asdict(self).items()
            if value not in (None, [], "")
        }


def judge(run: Run, ttl: float | None, bounded: bool = True) -> list[str]:
    """Which promises were not kept.

    ttl: the time-to-live, which bounds how long a fleet is mixed; None where that cannot be said. bounded: it also
    bounds the time until the fleet is whole, because no controller lives that could take longer.
    """
    found = []
    if run.failed:
        found.append(f"{run.failed} of {run.requests} requests failed")
    if not run.requests:
        found.append("there was no traffic to judge")
    if run.whole is None:
        found.append("the fleet never became whole")
    elif ttl is not None and bounded and run.whole > ttl + GRACE + SIGHT:
        found.append(f"whole after {run.whole:.2f} s, more than {ttl:g} + {GRACE:g} s")
    if ttl is not None and run.mixed > ttl + GRACE:
        found.append(f"mixed for {run.mixed:.2f} s, more than {ttl:g} + {GRACE:g} s")
    if run.rerun not in (None, 0):
        found.append(f"the re-run ended with status {run.rerun}")
    return found + [f"left behind: {line}" for line in run.leftovers]


def upper_bound(bad: int, runs: int) -> float:
    """The share of bad ones that is not exceeded with 95 % confidence: 3/n if there was none (rule of three)."""
    if not runs:
        return 1.0
    if not bad:
        return min(1.0, 3 / runs)
    low, high = bad / runs, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(bad, runs, middle) > 0.05 else (low, middle)
    return high


def binomial_cdf(successes: int, tries: int, chance: float) -> float:
    """The probability of at most so many successes."""
    if chance >= 1:
        return float(successes >= tries)
    term = (1 - chance) ** tries
    total = term
    for number in range(1, successes + 1):
        term *= (tries - number + 1) / number * chance / (1 - chance)
        total += term
    return min(1.0, total)


# --- results ------------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    """A bound for people: few digits, never rounded down to nothing."""
    return f"< {share * 100:.2g} %" if share < 1 else "–"


def row(fault: str, runs: Sequence[Mapping[str, Any]], command: str) -> str:
    """One line of the table."""
    requests = sum(run.get("requests", 0) for run in runs)
    failed = sum(run.get("failed", 0) for run in runs)
    bad = sum(1 for run in runs if run.get("problems"))
    wholes = [run["whole"] for run in runs if "whole" in run]
    seeds = ", ".join(str(seed) for seed in sorted({run["seed"] for run in runs}))
    cells = [
        fault,
        f"{len(runs)}",
        f"{bad}",
        f"{failed} of {requests}",
        f"{max((run.get('gap', 0.0) for run in runs), default=0.0):.2f} s",
        f"{max((run.get('mixed', 0.0) for run in runs), default=0.0):.2f} s",
        f"{max(wholes):.2f} s" if wholes else "–",
        f"runs {percent(upper_bound(bad, len(runs)))}, requests {percent(upper_bound(failed, requests))}",
        seeds,
        f"`{command}`",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = (
    "| fault | runs | broken promises | failed requests | longest gap | longest mix | whole after (longest) "
    "| 95 % bound | seed | again |\n|---|---|---|---|---|---|---|---|---|---|"
)


def table(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as a Markdown table: a line for each kind of fault of each case."""
    lines = [HEAD]
    for case in cases.values():
        faults = list(dict.fromkeys(run["fault"] for run in case["runs"]))
        lines += [
            row(fault, [run for run in case["runs"] if run["fault"] == fault], case["command"]) for fault in faults
        ]
    return "\n".join(lines)


def broken(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every promise that was not kept, one line each."""
    return [
        f"{run['fault']}: {run['point']}: {'; '.join(run['problems'])}"
        for case in cases.values()
        for run in case["runs"]
        if run.get("problems")
    ]


CRITICAL = ("switching", "the switch pending", "confirming")


def not_met(cases: Mapping[str, Mapping[str, Any]], known: Sequence[str]) -> str:
    """What no run has shown yet, for the page: cases that were never run, and states that no controller died in."""
    runs = [run for case in cases.values() for run in case["runs"]]
    lines = [f"- `{name}` was never run" for name in known if name not in {run["case"] for run in runs}]
    for command in ("deploy", "rollback"):
        for state in CRITICAL:
            waited = f"{command}, {state}"
            if not any(run["case"] == "controller-kill" and run["fault"].endswith(waited) for run in runs):
                lines.append(f"- no controller died in a {waited}, with the hosts left to themselves")
    return "\n".join(lines) or "Every case was run, and controllers died in every state."
