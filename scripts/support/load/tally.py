"""What is counted, and the report."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from support.load.answers import APART, FAILURES
from support.load.shapes import LONG, Target

KEPT_FAILURES = 50


def quantile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank quantile of an ordered sequence; 0.0 if it is empty."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


@dataclass
class Moment:
    """A point in time on both clocks, in seconds."""

    wall: float = 0.0
    monotonic: float = 0.0

    def as_json(self) -> dict[str, object]:
        """For the report."""
        at = datetime.fromtimestamp(self.wall, UTC).isoformat(timespec="milliseconds")
        return {"at": at, "wall": round(self.wall, 4), "monotonic": round(self.monotonic, 4)}


@dataclass
class Seen:
    """When one release answered. `last_quick` leaves out kinds that are slow by intention; the others, websockets."""

    answers: int
    first: Moment
    last: Moment
    last_quick: Moment | None = None
    last_sent: Moment | None = None  # when the latest request that it answered was sent


@dataclass
class _Kind:
    requests: int = 0
    failed: int = 0
    refused: int = 0
    closed: int = 0
    times: array[float] = field(default_factory=lambda: array("d"))


@dataclass
class _Place:
    requests: int = 0
    failed: int = 0
    last_success: float = 0.0
    longest_gap: float = 0.0
    longest_gap_from: float = 0.0


class Tally:
    """Counts and times of everything that was sent; not thread-safe for writing, safe to read from elsewhere."""

    def __init__(self, targets: Sequence[Target], clock: Callable[[], Moment]) -> None:
        self._clock = clock
        self.ended: Moment | None = None
        self.requests = 0
        self.failed = 0
        self.classes = dict.fromkeys(FAILURES, 0)
        self.apart = dict.fromkeys(APART, 0)
        self.kinds: dict[str, _Kind] = {}
        self.places = {target.url: _Place() for target in targets}
        self.releases: dict[str, Seen] = {}
        self.releases_by_target: dict[str, dict[str, Seen]] = {target.url: {} for target in targets}
        self.failures: list[dict[str, object]] = []
        self.connections = 0
        self.replaced = 0
        self.late = 0
        self.start()

    def start(self) -> None:
        """Marks the beginning: silence before the first answer counts as a gap from here."""
        self.started = self._clock()
        for place in self.places.values():
            place.last_success = self.started.monotonic

    def add(self, record: Record) -> None:
        """Counts one finished request."""
        self.requests += 1
        kind = self.kinds.setdefault(record.kind, _Kind())
        place = self.places[record.target]
        kind.requests += 1
        place.requests += 1
        if record.failure:
            self.failed += 1
            self.classes[record.failure] += 1
            kind.failed += 1
            place.failed += 1
            if len(self.failures) < KEPT_FAILURES:
                self.failures.append(record.as_json())
        elif record.apart:
            self.apart[record.apart] += 1
            setattr(kind, record.apart, getattr(kind, record.apart) + 1)
        else:
            kind.times.append(record.ms)
            self._gap(place, record.answered.monotonic)
        if record.release:
            self._saw(self.releases, record)
            self._saw(self.releases_by_target[record.target], record)

    @staticmethod
    def _gap(place: _Place, now: float) -> None:
        if now - place.last_success > place.longest_gap:
            place.longest_gap, place.longest_gap_from = now - place.last_success, place.last_success
        place.last_success = max(place.last_success, now)

    @staticmethod
    def _saw(releases: dict[str, Seen], record: Record) -> None:
        seen = releases.get(record.release)
        if seen is None:
            seen = releases[record.release] = Seen(0, record.answered, record.answered)
        seen.answers += 1
        if record.kind == "websocket":
            return  # it stays with its release by intention, also after a switch
        seen.last = record.answered
        if record.kind not in LONG:
            seen.last_quick = record.answered
        if seen.last_sent is None or record.sent.monotonic > seen.last_sent.monotonic:
            seen.last_sent = record.sent

    def end(self) -> None:
        """Marks the end, so that silence up to it counts as a gap."""
        self.ended = self._clock()
        for place in self.places.values():
            self._gap(place, self.ended.monotonic)

    def report(self) -> dict[str, Any]:
        """Everything, ready for JSON. Times in seconds, latencies in milliseconds."""
        ended = self.ended or self._clock()
        seconds = ended.monotonic - self.started.monotonic
        return {
            "format": 1,
            "started": self.started.as_json(),
            "ended": ended.as_json(),
            "seconds": round(seconds, 3),
            "requests": self.requests,
            "failed": self.failed,
            **self.apart,
            "per_second": round(self.requests / seconds, 1) if seconds > 0 else 0.0,
            "failed_by_class": {name: count for name, count in self.classes.items() if count},
            "kinds": {name: _kind_report(kind) for name, kind in sorted(self.kinds.items())},
            "targets": {url: self._place_report(place) for url, place in self.places.items()},
            "releases": {name: _seen_report(seen) for name, seen in self.releases.items()},
            "releases_by_target": {
                url: {name: _seen_report(seen) for name, seen in found.items()}
                for url, found in self.releases_by_target.items()
            },
            "connections": {"opened": self.connections, "closed_while_idle": self.replaced},
            "sent_late": self.late,
            "failures": self.failures,
        }

    def _place_report(self, place: _Place) -> dict[str, object]:
        return {
            "requests": place.requests,
            "failed": place.failed,
            "longest_gap_seconds": round(place.longest_gap, 3),
            "longest_gap_from_second": round(max(0.0, place.longest_gap_from - self.started.monotonic), 3),
        }


def _kind_report(kind: _Kind) -> dict[str, object]:
    ordered = sorted(kind.times)
    return {
        "requests": kind.requests,
        "failed": kind.failed,
        "refused": kind.refused,
        "closed": kind.closed,
        "p50_ms": round(quantile(ordered, 0.50), 1),
        "p95_ms": round(quantile(ordered, 0.95), 1),
        "p99_ms": round(quantile(ordered, 0.99), 1),
        "max_ms": round(ordered[-1], 1) if ordered else 0.0,
    }


def _seen_report(seen: Seen) -> dict[str, object]:
    def moment(value: Moment | None) -> dict[str, object] | None:
        return value.as_json() if value else None

    return {
        "answers": seen.answers,
        "first": moment(seen.first),
        "last": moment(seen.last),
        "last_quick": moment(seen.last_quick),
        "last_sent": moment(seen.last_sent),
    }


@dataclass
class Record:
    """One finished request, as it is counted and logged."""

    target: str
    kind: str
    method: str
    path: str
    sent: Moment
    answered: Moment
    status: int = 0
    release: str = ""
    size: int = 0
    nth: int = 1  # which request on its connection
    failure: str = ""
    apart: str = ""  # refused or closed: neither failed nor answered
    detail: str = ""

    @property
    def ms(self) -> float:
        """From the sending of the request (or the start of connecting) to its complete answer, in milliseconds."""
        return (self.answered.monotonic - self.sent.monotonic) * 1000

    def as_json(self) -> dict[str, object]:
        """One line of the log. `sent` and `answered` are wall clock, `monotonic` is that of the answer."""
        line: dict[str, object] = {
            "sent": round(self.sent.wall, 4),
            "answered": round(self.answered.wall, 4),
            "monotonic": round(self.answered.monotonic, 4),
            "target": self.target,
            "kind": self.kind,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "ms": round(self.ms, 1),
            "release": self.release,
            "bytes": self.size,
            "nth_on_connection": self.nth,
            "ok": not self.failure and not self.apart,
        }
        if self.failure:
            line |= {"failure": self.failure, "detail": self.detail}
        if self.apart:
            line |= {"apart": self.apart, "detail": self.detail}
        return line


def clock() -> Moment:
    """Now, on both clocks."""
    return Moment(time.time(), time.monotonic())
