"""What visitors got, by colour: nginx's access log, read on from where the last reading ended.

A line says when a request ended, how long it took and which slot it had; which colour a slot had at that moment is in
the journal that every replacement of the route leaves (route.py). So a colour that answers nothing is blamed for it.
root opens the files; a child without privileges reads them (see privileges.py), so nobody needs a group for the log.

    find → the files with what is new in them      read → whole lines, a bounded number of bytes
    attribute → the colour of one request          tally → counts and a histogram for each colour and group of paths
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bluegreen import privileges, release, route
from bluegreen.config import COLOURS, Paths
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, bad_input, refused

Line = Mapping[str, Any]
Tally = dict[str, Any]

MARGIN = 0.05  # seconds around a rename in which nginx's clock does not say which colour it met
STEP = 1.05  # from one bucket of the histogram to the next; two of them are 10 %
CLASSES = ("ok", "client", "server", "none", "gone")
MAX_GROUPS = 20
MAX_LINE = 1 << 16
SLOT = re.compile(r"/(?:s|ws|st)([0-9]{2})$")
BETWEEN = re.compile(r", | : ")  # the tries of one request, as nginx lists them
OTHER = "other"
LINGER = 60.0  # seconds after a rotation in which a worker of nginx may still write to the file before


# which colour


@dataclasses.dataclass(frozen=True)
class Change:
    """One replacement of the route: it happened between `begun` and `at` (seconds since 1970)."""

    begun: float
    at: float
    slots: str  # the first letter of each slot's colour


def changes(paths: Paths) -> list[Change]:
    """The replacements of the route that are remembered, oldest first; without any, what the route says now."""
    found: list[Change] = []
    for entry in route.journal(paths):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            found.append(Change(float(entry["from"]), float(entry["at"]), str(entry["slots"])))
    if not found and (content := route.read(paths)):
        found.append(Change(0.0, 0.0, route.slots(content, paths)))
    return found


def colours_between(history: Sequence[Change], slot: int, begin: float, end: float) -> set[str]:
    """The colours that a slot may have had for a request that met its colour between two moments."""
    found: set[str] = set()
    until = math.inf
    for change in reversed(history):
        if until < begin:
            break
        if change.begun - MARGIN <= end and slot < len(change.slots):
            found |= {colour for colour in COLOURS if colour[0] == change.slots[slot]}
        until = change.at + MARGIN
    return found


def attribute(line: Line, history: Sequence[Change], releases: Mapping[str, str]) -> str | None:
    """The colour that a request met first; None if that cannot be known. `releases`: colour → release id.

    A request met its colour after it began and no later than its end less the time that the colour took: before lies a
    slow upload, after it a slow download. Only if the route changed in between the release's own stamp is asked.
    """
    places = tries(line["upstream_addr"])
    match = SLOT.search(places[0])
    slot = int(match[1]) if match else int(line["slot"])
    took = [number(text) for text in tries(line["upstream_response_time"])]
    end = float(line["time"]) - sum(took)
    begin = min(end, float(line["time"]) - float(line["request_time"]))
    found = colours_between(history, slot, begin, end)
    stamp = str(line.get("release") or "")
    if len(found) > 1 and stamp and len(places) == 1:
        found = {colour for colour in found if releases.get(colour) == stamp}
    elif len(found) > 1:
        # without an answer there is no download: it met the colour when the rest of its time began
        found = colours_between(history, slot, end, end)
    return found.pop() if len(found) == 1 else None


def tries(text: Any) -> list[str]:
    """The parts of a variable that nginx lists for each server it tried."""
    return BETWEEN.split(str(text))


def number(text: str) -> float:
    """Seconds; nothing or a dash is 0."""
    return float(text) if text not in ("", "-") else 0.0


# what it was


def passed_on(line: Line) -> bool:
    """Whether a visitor's request reached a colour: not a probe, not a tester, not a file that nginx served itself."""
    return line["upstream_addr"] not in ("", "-") and line.get("probe") != "1" and line.get("tester") != "1"


def class_of(line: Line, own: str = "") -> str:
    """What a visitor got: ok, client (4xx), server (5xx), none (no answer), gone (the visitor left first).

    `own`: the release of the colour that was asked first, which may have answered when it was asked again.
    """
    status, statuses = int(line["status"]), tries(line["upstream_status"])
    if len(statuses) > 1 and not (own and line.get("release") == own):
        return "none"  # the first colour gave nothing; that another one stood in is not its merit
    if status == 499:
        return "gone"
    if statuses[-1] in ("", "-") or (statuses[-1] in ("502", "504") and not line.get("release")):
        return "none"
    return "server" if status >= 500 else "client" if status >= 400 else "ok"


def bucket(seconds: float) -> int:
    """The bucket of a duration: 0 up to 1 ms, each next one 5 % wider."""
    return max(0, math.ceil(math.log(max(seconds, 0.001) * 1000, STEP) - 1e-9))


def empty() -> Tally:
    """A tally of nothing."""
    return {**dict.fromkeys(CLASSES, 0), "hist": {}}


def count(tally: Tally, line: Line, own: str) -> None:
    """Add one request. A visitor who left waited at least so long; no answer, or a websocket, has no latency."""
    kind = class_of(line, own)
    tally[kind] += 1
    if kind != "none" and line["status"] != 101:
        place = str(bucket(sum(number(text) for text in tries(line["upstream_response_time"]))))
        tally["hist"][place] = tally["hist"].get(place, 0) + 1


# groups of paths


def grouper(groups: Any) -> Callable[[str], str]:
    """What names the group of a path. `groups`: [{name, paths}], a path with ^ is an expression, else a beginning.

    Without groups: the first part of the path. Raises BluegreenError (bad input).
    """
    if not groups:
        return lambda path: "/" + path.split("/", 2)[1] if path.startswith("/") else OTHER
    rules = [(str(group["name"]), expression(entry)) for group in groups for entry in group["paths"]]

    def name(path: str) -> str:
        return next((name for name, rule in rules if rule.match(path)), OTHER)

    return name


def expression(entry: str) -> re.Pattern[str]:
    """One entry of a group's paths as a regular expression. Raises BluegreenError (bad input)."""
    try:
        return re.compile(entry if entry.startswith("^") else re.escape(entry))
    except re.error as problem:
        raise bad_input(f"judge_groups: {entry!r} is not a regular expression", str(problem)) from None


def check_groups(groups: Any) -> None:
    """Refuse groups of another shape. Raises BluegreenError (bad input)."""
    good = isinstance(groups, list) and all(
        isinstance(group, dict)
        and isinstance(group.get("name"), str)
        and group["name"]
        and isinstance(group.get("paths"), list)
        and all(isinstance(entry, str) for entry in group["paths"])
        for group in groups
    )
    if not good:
        raise bad_input("judge_groups must be a list of {name, paths}", "for example: [{name: shop, paths: [/orders]}]")
    grouper(groups)


def fold(found: dict[str, dict[str, Tally]], known: Sequence[str]) -> dict[str, dict[str, Tally]]:
    """The same with at most 20 groups: those that are known from before, then the busiest; all others are one."""
    busy: dict[str, int] = {}
    for groups in found.values():
        for name, tally in groups.items():
            busy[name] = busy.get(name, 0) + sum(tally[kind] for kind in CLASSES)
    order = [name for name in known if name != OTHER]
    order += sorted(
        (name for name in busy if name not in order and name != OTHER), key=lambda name: (-busy[name], name)
    )
    kept = set(order[:MAX_GROUPS])
    folded: dict[str, dict[str, Tally]] = {}
    for colour, groups in found.items():
        folded[colour] = {}
        for name, tally in groups.items():
            into = folded[colour].setdefault(name if name in kept else OTHER, empty())
            for kind in CLASSES:
                into[kind] += tally[kind]
            for place, many in tally["hist"].items():
                into["hist"][place] = into["hist"].get(place, 0) + many
    return folded


# the log


@dataclasses.dataclass(frozen=True)
class Part:
    """An open log file, and from where on it is new."""

    descriptor: int
    inode: int
    offset: int
    rotated: float = 0.0  # when it was first seen under another name (seconds since 1970); 0: nginx writes to it


def find(log: Path, cursor: Mapping[str, Any] | None) -> tuple[list[Part], bool]:
    """The files with what came after the cursor, oldest first, opened; and whether something was lost in between.

    Raises OSError. After a rotation the file before is read on too: nginx's workers reopen theirs a moment later.
    """
    parts: list[Part] = []
    lost = False
    current = open_log(log)
    inode, size = os.fstat(current).st_ino, os.fstat(current).st_size
    if cursor is None:
        return [Part(current, inode, size)], False
    offset = int(cursor["offset"]) if cursor["inode"] == inode else 0
    if offset > size:
        offset, lost = 0, True  # emptied by a rotation with copytruncate: what stood behind the cursor is gone
    earlier = [{"inode": cursor["inode"], "offset": cursor["offset"]}] if cursor["inode"] != inode else []
    now = time.time()
    for before in [*(cursor.get("before") or []), *earlier]:
        rotated = rotated_log(log, int(before["inode"]))
        if rotated is None:
            lost = lost or before in earlier
        else:
            since = float(before.get("rotated") or now)
            parts.append(Part(rotated, int(before["inode"]), int(before["offset"]), since))
    return [*parts, Part(current, inode, offset)], lost


def open_log(path: Path) -> int:
    """A descriptor of a log file: of a plain file, never of what a link names. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a file")
    return descriptor


def rotated_log(log: Path, inode: int) -> int | None:
    """A descriptor of the file that was the log before, wherever a rotation has put it beside the log."""
    for entry in os.scandir(log.parent):
        if entry.name.startswith(log.name) and entry.inode() == inode:
            with contextlib.suppress(OSError):
                return open_log(Path(entry.path))
    return None


def tail(part: Part, limit: int) -> Part:
    """The same file from at most `limit` bytes before its end, at the beginning of a line."""
    offset = max(0, part.offset - limit)
    if offset:
        head = os.pread(part.descriptor, MAX_LINE, offset)
        offset += head.find(b"\n") + 1
    return dataclasses.replace(part, offset=offset)


def read(parts: Sequence[Part], limit: int) -> tuple[list[bytes], dict[str, Any], int]:
    """The new whole lines, at most `limit` bytes; the cursor behind them, and the bytes that are left.

    A last line without its end waits for its rest.
    """
    lines: list[bytes] = []
    before: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    left = 0
    for part in parts:
        size = os.fstat(part.descriptor).st_size
        content = pread(part.descriptor, min(limit, size - part.offset), part.offset)
        end = content.rfind(b"\n") + 1
        if not end and len(content) >= MAX_LINE:
            end = len(content)  # no line is that long: it would block the way
        lines += content[:end].splitlines()
        limit -= len(content)
        offset = part.offset + end
        left += max(0, size - offset - (len(content) - end))
        if not part.rotated:
            cursor = {"inode": part.inode, "offset": offset}
        elif end or left or time.time() - part.rotated < LINGER:
            before.append({"inode": part.inode, "offset": offset, "rotated": part.rotated})
    return lines, cursor | ({"before": before[-2:]} if before else {}), left


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """So many bytes of a file, fewer only at its end."""
    found = b""
    while len(found) < size and (more := os.pread(descriptor, size - len(found), offset + len(found))):
        found += more
    return found


def parse(lines: Iterable[bytes]) -> Iterator[Line | None]:
    """What each line says; None for one that is not of our log."""
    for text in lines:
        try:
            line = json.loads(text)
            float(line["time"]), float(line["request_time"]), int(line["status"]), int(line["slot"] or 0)
            [number(part) for part in tries(line["upstream_response_time"])]
            yield (
                line
                if isinstance(line["path"], str) and "upstream_addr" in line and "upstream_status" in line
                else None
            )
        except (ValueError, TypeError, KeyError):
            yield None


def tally(
    lines: Iterable[bytes],
    since: float,
    history: Sequence[Change],
    releases: Mapping[str, str],
    name: Callable[[str], str],
) -> dict[str, Any]:
    """What the lines say: {colours, garbage, apart, ambiguous, first, last}, without requests older than `since`."""
    found: dict[str, dict[str, Tally]] = {colour: {} for colour in COLOURS}
    garbage = apart = ambiguous = 0
    times: list[float] = []
    for line in parse(lines):
        if line is None:
            garbage += 1
        elif not passed_on(line):
            apart += 1
        elif float(line["time"]) - sum(number(text) for text in tries(line["upstream_response_time"])) >= since:
            colour = attribute(line, history, releases)
            if colour is None:
                ambiguous += 1
                continue
            times.append(float(line["time"]))
            count(found[colour].setdefault(name(line["path"]), empty()), line, releases.get(colour, ""))
    return {
        "colours": found,
        "garbage": garbage,
        "apart": apart,
        "ambiguous": ambiguous,
        "first": min(times, default=None),
        "last": max(times, default=None),
    }


# the verb


def measure(context: Context, params: Mapping[str, Any]) -> dict[str, Any]:
    """What visitors got since the cursor; without one, since the route was replaced last, or in the last `window` s.

    Answers {colours: {colour: {group: {ok, client, server, none, gone, hist}}}, cursor, seconds, …}, or {unreadable} if
    the log cannot be read, which is an error with `strict`. Raises BluegreenError.
    """
    check_groups(params["groups"])
    log, started = context.paths.log, time.monotonic()
    if params["during"] > 0 and not context.dry_run:
        time.sleep(params["during"])
    cursor = params["cursor"]
    try:
        if cursor is not None:
            cursor = {"inode": int(cursor["inode"]), "offset": int(cursor["offset"]), "before": cursor.get("before")}
        parts, lost = find(log, cursor)
    except (KeyError, TypeError, ValueError):
        raise bad_input("cursor is not one that measure gave", f"it is {cursor!r}") from None
    except OSError as problem:
        why = f"{log}: {problem.strerror or problem}"
        if params["strict"]:
            raise refused("nginx's log cannot be read", why, "ansible-playbook provision.yml") from None
        return {"unreadable": why}
    history = changes(context.paths)
    since = 0.0
    if cursor is None:
        parts = [tail(parts[0], params["max_bytes"])]
        since = beginning(context, history, params["window"])
    releases = {colour: release.resolved(context.paths, colour) or "" for colour in COLOURS}

    def work() -> dict[str, Any]:
        lines, behind, left = read(parts, params["max_bytes"])
        found = tally(lines, since, history, releases, grouper(params["groups"]))
        found["colours"] = fold(found["colours"], params["known"])
        return {**found, "cursor": behind, "rest": left, "lines": len(lines)}

    found: dict[str, Any]
    try:
        found = privileges.call(work, timeout=30)
    except BluegreenError as problem:
        if params["strict"]:
            raise
        return {"unreadable": str(problem)}  # a verdict is missing then; the run goes on
    finally:
        for part in parts:
            os.close(part.descriptor)
    found |= {"lost": lost, "since": since, "until": time.time(), "seconds": round(time.monotonic() - started, 3)}
    return found


def beginning(context: Context, history: Sequence[Change], window: float) -> float:
    """From when on requests count (seconds since 1970): the last replacement of the route, or the last `window` s.

    The route is replaced for the first release too, though its colour had all slots since provisioning.
    A window ends where the live release was confirmed: what its colour did before was another release's work.
    """
    if window <= 0:
        return history[-1].begun if history else 0.0
    live, begin = context.state.live(), time.time() - window
    if live:
        import datetime  # slow to import

        with contextlib.suppress(ValueError):
            begin = max(begin, datetime.datetime.fromisoformat(live.since).timestamp())
    return begin
