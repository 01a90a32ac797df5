"""A load client that hides nothing: steady mixed HTTP traffic, every answer judged, no retries.

It speaks HTTP/1.1 itself over plain asyncio transports, because common client libraries reconnect and repeat
requests silently, and exactly those requests are the ones a careless deploy loses.

Use it as a program (`scripts/load`), inside an event loop (`await Load(...).run(...)`), or beside other work
(`with LoadThread(Load(...)) as traffic: ...; report = traffic.stop()`).

What counts as failed: an answer whose status was not expected, a reset or an empty answer (also on a reused
connection), a body shorter than announced, an answer that is not HTTP, a timeout, a refused connection.
What does not: a kept-alive connection that the server closed while it was idle. It is noticed before the next
request is sent on it, and replaced; no client can lose a request that way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import json
import math
import re
import select
import signal
import socket
import ssl
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import urlsplit

from support.common import Failure

RELEASE_HEADER = b"x-bluegreen-release"
PROBE_HEADER = "X-Bluegreen-Probe"

FAILURES = ("status", "reset", "truncated", "malformed", "timeout", "connect")
KINDS = ("get", "post", "fresh", "slow", "upload", "asset")

MAX_HEAD = 65536
KEPT_FAILURES = 50
UPLOAD_PIECES = 16
GROWTH = 8  # so many times the wanted connections may stay open after a busy moment


class BadInput(Failure):
    """An input the user must correct; its text is the one line to print."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)


# --- what to send -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One kind of request in the mix.

    kind: `get`, `post` (kept-alive), `fresh` (a new connection each), `slow` (kept-alive, expected to take long),
    `upload` (a body sent in pieces), `asset` (a page is read, then one static file that it names).
    body: text, or for an upload the number of bytes. weight: its share of the mix. expect: statuses that are right;
    empty means every 2xx and 3xx.
    """

    kind: str
    path: str
    method: str = "GET"
    body: str | int = ""
    content_type: str = "application/x-www-form-urlencoded"
    weight: float = 1.0
    expect: tuple[int, ...] = ()
    seconds: float = 0.5  # how long an upload takes to send

    def expected(self, status: int) -> bool:
        """Whether this status is a right answer."""
        return status in self.expect if self.expect else 200 <= status < 400


def parse_profile(data: object) -> tuple[Shape, ...]:
    """The mix of requests from decoded JSON: a list of {kind, path, method, body, weight, expect, …}.

    Raises BadInput, naming the entry.
    """
    if not isinstance(data, list) or not data:
        raise BadInput('a load profile is a list with at least one request: [{"kind": "get", "path": "/"}]')
    return tuple(_parse_shape(entry, f"load profile, entry {number}") for number, entry in enumerate(data, 1))


def _parse_shape(entry: object, where: str) -> Shape:
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: must be an object with kind and path, not {type(entry).__name__}")
    known = ("kind", "path", "method", "body", "content_type", "weight", "expect", "seconds")
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise BadInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    kind, path = entry.get("kind"), entry.get("path")
    if kind not in KINDS:
        raise BadInput(f"{where}: kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if not isinstance(path, str) or not re.fullmatch(r"/[!-~]*", path):
        raise BadInput(f"{where}: path is {path!r}; it must begin with / and hold no blanks")
    posts = kind in ("post", "upload")
    method = entry.get("method", "POST" if posts else "GET")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise BadInput(f"{where}: method is {method!r}; it must be GET, POST, PUT, PATCH or DELETE")
    body = entry.get("body", 262144 if kind == "upload" else "")
    if isinstance(body, bool) or not isinstance(body, str if kind != "upload" else (str, int)):
        raise BadInput(f"{where}: body must be text" + (" or a number of bytes" if kind == "upload" else ""))
    weight, seconds = entry.get("weight", 1), entry.get("seconds", 0.5)
    for name, value in (("weight", weight), ("seconds", seconds)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BadInput(f"{where}: {name} is {value!r}; it must be a number above 0")
    expect = entry.get("expect", [])
    expect = [expect] if isinstance(expect, int) else expect
    if not isinstance(expect, list) or not all(isinstance(code, int) and 100 <= code <= 599 for code in expect):
        raise BadInput(f"{where}: expect is {expect!r}; it must be an HTTP status or a list of them")
    content_type = entry.get("content_type", "application/octet-stream" if kind == "upload" else Shape.content_type)
    if not isinstance(content_type, str) or not re.fullmatch(r"[ -~]+", content_type):
        raise BadInput(f"{where}: content_type must be one line of text")
    return Shape(kind, path, method, body, content_type, float(weight), tuple(expect), float(seconds))


DEFAULT_PROFILE = (
    Shape("get", "/", weight=70),
    Shape("fresh", "/", weight=30),
)


class Mix:
    """Hands out shapes so that every stretch of the stream has the same mixture (smooth weighted round robin)."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self._shapes = tuple(shapes)
        self._total = sum(shape.weight for shape in shapes)
        self._credit = [0.0] * len(self._shapes)

    def next(self) -> Shape:
        """The next shape to send."""
        for index, shape in enumerate(self._shapes):
            self._credit[index] += shape.weight
        best = max(range(len(self._shapes)), key=self._credit.__getitem__)
        self._credit[best] -= self._total
        return self._shapes[best]


@dataclass(frozen=True)
class Target:
    """One address that is sent traffic; `host` is what goes into the Host header."""

    url: str
    scheme: str
    address: str
    port: int
    host: str


def parse_target(url: str, host: str = "") -> Target:
    """A target from its base URL. Only loopback and private addresses: this program is for one's own test hosts.

    Raises BadInput.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise BadInput(f"{url!r} is not a URL: {error}; give for example http://10.0.0.11") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"{url!r} is not a base URL; give for example http://10.0.0.11 or https://127.0.0.1:8443")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise BadInput(f"{url!r}: give only the base URL; paths belong in the load profile")
    if host and not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", host):
        raise BadInput(f"--host {host!r} is not a host name; give for example orders.example.org")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(f"{url}: {parts.hostname} has no address ({error.strerror or error})") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        known = ipaddress.ip_address(address.partition("%")[0])
        if not (known.is_loopback or known.is_private):
            raise BadInput(f"{url}: {address} is a public address; only loopback and private addresses are loaded")
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown += f":{parts.port}" if parts.port is not None else ""
    return Target(f"{parts.scheme}://{shown}", parts.scheme, addresses[0], port, host or shown)


# --- one connection ---------------------------------------------------------------------------------------------


class Failed(Exception):
    """A request that failed; `category` is one of FAILURES."""

    def __init__(self, category: str, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.category = category
        self.status = status


@dataclass
class Answer:
    """A complete answer. `body` is kept only where it was asked for."""

    status: int
    release: str
    size: int
    body: bytes
    keep: bool


class Connection(asyncio.Protocol):
    """One TCP (or TLS) connection and the incremental parser of the one answer that is awaited on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.used = 0
        self.pooled = False
        self._poll: select.poll | None = None
        self._waiter: asyncio.Future[Answer] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._reset()

    def _reset(self) -> None:
        self._buffer = bytearray()
        self._state = "head"
        self._left = 0  # bytes of the body or chunk still to come; -1: until the connection closes
        self._status = 0
        self._release = ""
        self._keep = True
        self._size = 0
        self._body: bytearray | None = None
        self._method = "GET"

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll = select.poll()
            self._poll.register(raw.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._waiter is None or self._waiter.done():
            self.close()  # nothing was asked: the server announces its own end (408), or is broken
            return
        self._buffer += data
        try:
            self._parse()
        except Failed as failure:
            self._fail(failure)

    def eof_received(self) -> bool:
        self._ended(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended(exc)
        self._writable.set()

    def _ended(self, exc: Exception | None) -> None:
        self.closed = True
        if self._waiter is None or self._waiter.done():
            return
        how = f"{type(exc).__name__}" if exc else "closed by the server"
        if self._state == "head":
            if self._buffer:
                self._fail(Failed("truncated", f"{how} within the header"))
            else:
                used = f"after {self.used - 1} earlier requests" if self.used > 1 else "on a new connection"
                self._fail(Failed("reset", f"{how} before any answer, {used}"))
        elif self._left == -1 and exc is None:
            self._done()
        else:
            self._fail(Failed("truncated", f"{how} after {self._size} bytes of the body", self._status))

    def _fail(self, failure: Failed) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(failure)
        self.close()

    def _done(self) -> None:
        keep = self._keep and not self.closed and not self._buffer
        body = bytes(self._body) if self._body is not None else b""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(Answer(self._status, self._release, self._size, body, keep))
        if not keep:
            self.close()

    # -- parser

    def _parse(self) -> None:
        """Reads what has arrived; each step says whether the next one can go on with what is there."""
        steps = {
            "head": self._read_head,
            "body": self._read_body,
            "chunk-size": self._read_chunk_size,
            "chunk": self._read_chunk,
            "trailer": self._read_trailer,
        }
        while steps[self._state]():
            pass

    def _line(self, end: bytes) -> bytes | None:
        """Takes what comes before `end` from the buffer; None if `end` has not arrived."""
        found = self._buffer.find(end)
        if found < 0:
            if len(self._buffer) > MAX_HEAD:
                raise Failed("malformed", "a header without end", self._status)
            return None
        line = bytes(self._buffer[:found])
        del self._buffer[: found + len(end)]
        return line

    def _read_head(self) -> bool:
        head = self._line(b"\r\n\r\n")
        if head is not None:
            self._parse_head(head)
        return head is not None

    def _read_body(self) -> bool:
        if self._left == -1:
            self._take(len(self._buffer))
            return False
        self._left -= self._take(self._left)
        if not self._left:
            self._done()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._line(b"\r\n")
        if line is None:
            return False
        text = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", text):
            raise Failed("malformed", f"chunk size {text[:20]!r}", self._status)
        self._left = int(text, 16)
        self._state = "chunk" if self._left else "trailer"
        return True

    def _read_chunk(self) -> bool:
        self._left -= self._take(self._left)
        if self._left or len(self._buffer) < 2:
            return False
        if self._line(b"\r\n") != b"":
            raise Failed("malformed", "a chunk longer than announced", self._status)
        self._state = "chunk-size"
        return True

    def _read_trailer(self) -> bool:
        line = self._line(b"\r\n")
        if line == b"":
            self._done()
        return bool(line)

    def _take(self, most: int) -> int:
        count = min(most, len(self._buffer))
        if self._body is not None:
            self._body += self._buffer[:count]
        del self._buffer[:count]
        self._size += count
        return count

    def _parse_head(self, head: bytes) -> None:
        """Reads one header; an interim (1xx) answer is passed over."""
        lines = head.split(b"\r\n")
        match = re.fullmatch(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?", lines[0])
        if not match:
            raise Failed("malformed", f"not an HTTP answer: {lines[0][:40]!r}")
        self._status = int(match[2])
        if 100 <= self._status < 200:
            return
        length, chunked, connection = b"", False, b""
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name == b"content-length":
                length = value.strip()
            elif name == b"transfer-encoding":
                chunked = value.strip().lower().endswith(b"chunked")
            elif name == b"connection":
                connection = value.strip().lower()
            elif name == RELEASE_HEADER:
                self._release = value.strip().decode("latin-1")
        self._keep = connection != b"close" and (match[1] == b"1" or connection == b"keep-alive")
        if self._method == "HEAD" or self._status in (204, 304):
            self._state, self._left = "body", 0
        elif chunked:
            self._state = "chunk-size"
        elif length:
            if not length.isdigit():
                raise Failed("malformed", f"Content-Length {length[:20]!r}", self._status)
            self._state, self._left = "body", int(length)
        else:
            self._state, self._left, self._keep = "body", -1, False

    # -- use

    def usable(self) -> bool:
        """Whether the server still holds this idle connection open, as far as anyone can know before sending."""
        if self.closed or self.transport is None or self.transport.is_closing():
            return False
        # The end may wait in the socket's buffer without the event loop having looked yet.
        return not (self._poll is not None and self._poll.poll(0))

    def close(self) -> None:
        """Closes the connection; nothing is awaited."""
        self.closed = True
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, head: bytes, pieces: Iterable[bytes], pause: float, keep_body: bool, method: str) -> Answer:
        """Sends one request and gives its answer. pause: seconds between the pieces of the body. Raises Failed."""
        assert self.transport is not None
        self._reset()
        self._method = method
        self._body = bytearray() if keep_body else None
        self.used += 1
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(head)
        try:
            for piece in pieces:
                if self._waiter.done():  # the server answered early; what it said counts
                    break
                if pause:
                    await asyncio.sleep(pause)
                await self._writable.wait()
                if not self.transport.is_closing():
                    self.transport.write(piece)
            else:
                return await self._waiter
            answer = await self._waiter
            answer.keep = False
            self.close()
            return answer
        finally:
            self._waiter = None


# --- what is counted --------------------------------------------------------------------------------------------


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
    """When one release answered. `last_quick` leaves out kinds that are slow by intention (slow, upload)."""

    answers: int
    first: Moment
    last: Moment
    last_quick: Moment | None = None
    last_sent: Moment | None = None  # when the latest request that it answered was sent


@dataclass
class _Kind:
    requests: int = 0
    failed: int = 0
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
        seen.last = record.answered
        if record.kind not in ("slow", "upload"):
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
            "ok": not self.failure,
        }
        if self.failure:
            line |= {"failure": self.failure, "detail": self.detail}
        return line


def clock() -> Moment:
    """Now, on both clocks."""
    return Moment(time.time(), time.monotonic())


# --- the load ---------------------------------------------------------------------------------------------------


class _Pool:
    """The idle kept-alive connections to one target, used in turn so that all of them stay in use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = 0
        self.idle: deque[Connection] = deque()


class Load:
    """Steady traffic on several targets.

    rate: requests per second over all targets together. connections: kept-alive connections held per target.
    timeout: seconds for one whole request. probe_token: sent as X-Bluegreen-Probe, so that answers name their release.
    log: an open text file for one JSON line per request.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        *,
        profile: Sequence[Shape] = DEFAULT_PROFILE,
        rate: float = 50.0,
        connections: int = 8,
        timeout: float = 30.0,
        probe_token: str = "",
        most_in_flight: int = 500,
        log: TextIO | None = None,
    ) -> None:
        if not targets:
            raise BadInput("no target; give at least one base URL, for example http://10.0.0.11")
        if not 0 < rate <= 5000:
            raise BadInput(f"rate is {rate:g}; it must be above 0 and at most 5000 requests a second")
        if probe_token and not re.fullmatch(r"[!-~]+", probe_token):
            raise BadInput("the probe token must be one word without blanks")
        self.targets = tuple(targets)
        self.rate = rate
        self.timeout = timeout
        self.tally = Tally(self.targets, clock)
        self._mixes = {target.url: Mix(profile) for target in self.targets}
        self._pools = {target.url: _Pool(connections) for target in self.targets}
        self._probe_token = probe_token
        self._room = most_in_flight
        self._turn = 0
        self._log = log
        self._heads: dict[tuple[str, Shape], bytes] = {}
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped_early = False
        self._tls = ssl.create_default_context()
        # Test hosts have certificates of their own; what is measured here is availability, not identity.
        self._tls.check_hostname = False
        self._tls.verify_mode = ssl.CERT_NONE

    def stop(self) -> None:
        """Ends the traffic: nothing new is sent, what is in flight is awaited. Callable from any thread."""
        self._stopped_early = True
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)

    async def run(self, seconds: float | None = None, until: Callable[[], bool] | None = None) -> dict[str, Any]:
        """Sends until `seconds` have passed, `until` gives true or stop() is called; then gives the report."""
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        if self._stopped_early:
            self._stop.set()
        self.tally.start()
        started = self.tally.started.monotonic
        tasks: set[asyncio.Task[None]] = set()
        due, looked, turn = started, started, 0
        while not self._stop.is_set():
            now = time.monotonic()
            if seconds is not None and now - started >= seconds:
                break
            if until is not None and now - looked >= 0.2:
                looked = now
                if until():
                    break
            if now < due:
                await asyncio.sleep(min(due - now, 0.2))
                continue
            due = self._next_due(due, now)
            if len(tasks) >= self._room:
                self.tally.late += 1
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=0.2)
                continue
            target = self.targets[turn % len(self.targets)]
            turn += 1
            task = self._loop.create_task(self._one(target, self._mixes[target.url].next()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=2 * self.timeout + 5)
        self.tally.end()
        for pool in self._pools.values():
            while pool.idle:
                pool.idle.popleft().close()
        return self.tally.report()

    def _next_due(self, due: float, now: float) -> float:
        if now - due > 1.0:  # a stalled machine must not be followed by a burst
            self.tally.late += int((now - due) * self.rate)
            due = now
        return due + 1 / self.rate

    async def _one(self, target: Target, shape: Shape) -> None:
        if shape.kind == "asset":
            await self._asset(target, shape)
        else:
            await self._request(target, shape, keep_body=False)

    async def _asset(self, target: Target, shape: Shape) -> None:
        """Reads the page, then one of the static files it names, as a browser does."""
        body = await self._request(target, shape, keep_body=True)
        found = re.findall(rb"""(?:href|src)=["'](/[!-~]+?\.(?:css|js|svg|png|ico|woff2))["']""", body)
        if found:
            self._turn += 1  # so that all of a page's files are read
            path = found[self._turn % len(found)].decode("latin-1")
            await self._request(target, Shape("asset", path), keep_body=False)

    async def _request(self, target: Target, shape: Shape, keep_body: bool) -> bytes:
        sent = clock()
        record = Record(target.url, shape.kind, shape.method, shape.path, sent, sent)
        body = b""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._connection(target, fresh=shape.kind == "fresh")
                record.nth = connection.used + 1
                head, pieces, pause = self._encode(target, shape)
                # No await between the look at an idle connection and the sending on it.
                answer = await connection.ask(head, pieces, pause, keep_body, shape.method)
            record.status, record.release, record.size, body = answer.status, answer.release, answer.size, answer.body
            if not shape.expected(answer.status):
                record.failure, record.detail = "status", f"status {answer.status}"
            self._give_back(target, connection, answer.keep)
            connection = None
        except Failed as failure:
            record.failure, record.detail, record.status = failure.category, str(failure), failure.status
        except TimeoutError:
            record.failure, record.detail = "timeout", f"no complete answer within {self.timeout:g} s"
        finally:
            if connection is not None:
                self._give_back(target, connection, keep=False)
        record.answered = clock()
        self.tally.add(record)
        if self._log is not None:
            self._log.write(json.dumps(record.as_json()) + "\n")
        return body

    async def _connection(self, target: Target, fresh: bool) -> Connection:
        pool = self._pools[target.url]
        if not fresh and pool.open >= pool.size:
            while pool.idle:
                connection = pool.idle.popleft()
                if connection.usable():
                    return connection
                connection.close()
                pool.open -= 1
                self.tally.replaced += 1
        assert self._loop is not None
        pool.open += 0 if fresh else 1
        try:
            _, connection = await self._loop.create_connection(
                Connection,
                target.address,
                target.port,
                ssl=self._tls if target.scheme == "https" else None,
                server_hostname=target.host.partition(":")[0] if target.scheme == "https" else None,
            )
        except (OSError, asyncio.CancelledError) as error:
            pool.open -= 0 if fresh else 1
            if isinstance(error, OSError) and not isinstance(error, TimeoutError):
                raise Failed("connect", str(error)) from error
            raise
        self.tally.connections += 1
        connection.pooled = not fresh
        return connection

    def _give_back(self, target: Target, connection: Connection, keep: bool) -> None:
        pool = self._pools[target.url]
        if keep and connection.pooled and not connection.closed and pool.open <= GROWTH * pool.size:
            pool.idle.append(connection)
        else:
            connection.close()
            pool.open -= 1 if connection.pooled else 0

    def _encode(self, target: Target, shape: Shape) -> tuple[bytes, Iterable[bytes], float]:
        """The request's header, the pieces of a body that is sent slowly, and the seconds between them."""
        head = self._heads.get((target.url, shape))
        text = shape.body if isinstance(shape.body, str) else ""
        length = shape.body if isinstance(shape.body, int) else len(text.encode())
        if head is None:
            lines = [f"{shape.method} {shape.path} HTTP/1.1", f"Host: {target.host}", "User-Agent: bluegreen-load"]
            lines += ["Accept: */*", f"Connection: {'close' if shape.kind == 'fresh' else 'keep-alive'}"]
            if self._probe_token:
                lines.append(f"{PROBE_HEADER}: {self._probe_token}")
            if length or shape.method != "GET":
                lines += [f"Content-Type: {shape.content_type}", f"Content-Length: {length}"]
            head = "\r\n".join([*lines, "", ""]).encode()
            if shape.kind != "upload":
                head += text.encode()
            if len(self._heads) < 1000:
                self._heads[target.url, shape] = head
        if shape.kind != "upload":
            return head, (), 0.0
        size = max(1, math.ceil(length / UPLOAD_PIECES))
        data = text.encode() or b"x" * length
        pieces = [data[start : start + size] for start in range(0, length, size)]
        return head, pieces, shape.seconds / max(1, len(pieces))


class LoadThread:
    """The same load in a thread with its own event loop, beside a program that does something else."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self._report: dict[str, Any] | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="load", daemon=True)

    def _main(self) -> None:
        try:
            self._report = asyncio.run(self.load.run())
        except BaseException as error:  # noqa: BLE001  handed to the caller of stop()
            self._error = error

    def start(self) -> LoadThread:
        """Starts the traffic."""
        self._thread.start()
        return self

    def stop(self) -> dict[str, Any]:
        """Ends the traffic, waits for what is in flight, gives the report."""
        self.load.stop()
        self._thread.join(self.load.timeout + 10)
        if self._error is not None:
            raise self._error
        if self._report is None:
            raise RuntimeError("the load did not end")
        return self._report

    def __enter__(self) -> LoadThread:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.load.stop()
            self._thread.join(self.load.timeout + 10)


# --- the program ------------------------------------------------------------------------------------------------


def summary(report: dict[str, Any]) -> str:
    """The report for people: some lines of plain text."""
    by_class = ", ".join(f"{count} {name}" for name, count in report["failed_by_class"].items())
    lines = [
        f"{report['requests']} requests in {report['seconds']:.1f} s, {report['failed']} failed"
        + (f" ({by_class})" if by_class else "")
    ]
    lines.append(f"{'kind':10}{'requests':>10}{'failed':>8}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}")
    for name, kind in report["kinds"].items():
        lines.append(
            f"{name:10}{kind['requests']:>10}{kind['failed']:>8}{kind['p50_ms']:>9}{kind['p95_ms']:>9}"
            f"{kind['p99_ms']:>9}{kind['max_ms']:>9}"
        )
    for url, place in report["targets"].items():
        lines.append(
            f"{url}: {place['requests']} requests, {place['failed']} failed, "
            f"longest time without an answer {place['longest_gap_seconds']:.2f} s"
        )
    for name, seen in report["releases"].items():
        lines.append(f"{name}: {seen['answers']} answers, from {seen['first']['at']} to {seen['last']['at']}")
    for failure in report["failures"][:5]:
        lines.append(
            f"failed: {failure['method']} {failure['target']}{failure['path']} ({failure['kind']}): {failure['detail']}"
        )
    return "\n".join(lines)


def profile_from_options(options: argparse.Namespace) -> tuple[Shape, ...]:
    """The mix that the command line asks for. Raises BadInput."""
    if options.profile:
        try:
            return parse_profile(json.loads(Path(options.profile).read_text(encoding="utf-8")))
        except OSError as error:
            raise BadInput(f"--profile {options.profile}: {error.strerror}") from error
        except ValueError as error:
            raise BadInput(f"--profile {options.profile} is not JSON: {error}") from error
    entries: list[dict[str, object]] = [
        {"kind": "get", "path": options.path, "weight": 60},
        {"kind": "fresh", "path": options.path, "weight": 25},
    ]
    for kind, path, weight in (
        ("post", options.post_path, 15),
        ("slow", options.slow_path, 2),
        ("upload", options.upload_path, 2),
        ("asset", options.asset_path, 5),
    ):
        if path:
            entries.append({"kind": kind, "path": path, "weight": weight})
    return parse_profile(entries)


def parser() -> argparse.ArgumentParser:
    """The command line of scripts/load."""
    result = argparse.ArgumentParser(
        prog="scripts/load",
        description="Steady mixed HTTP traffic on test hosts; every answer is judged, nothing is retried. "
        "Exit status: 0 no request failed, 1 some failed or none was sent, 2 bad input.",
    )
    result.add_argument("urls", nargs="+", metavar="URL", help="base URL, for example http://10.0.0.11")
    result.add_argument("--host", default="", help="the Host header to send (default: the URL's host)")
    result.add_argument("--rate", type=float, default=50.0, help="requests per second, all URLs together (50)")
    result.add_argument("--duration", type=float, help="seconds; without it until --until-file or Ctrl-C")
    result.add_argument("--until-file", metavar="FILE", help="run until this file exists")
    result.add_argument("--report", metavar="FILE", help="write the summary as JSON")
    result.add_argument("--log", metavar="FILE", help="write one JSON line for each request")
    result.add_argument("--profile", metavar="FILE", help="JSON list of {kind, path, method, body, weight, expect}")
    result.add_argument("--path", default="/", help="what GETs ask for (/)")
    result.add_argument("--post-path", default="", help="also POST to this path")
    result.add_argument("--slow-path", default="", help="also GET this path, which takes long")
    result.add_argument("--upload-path", default="", help="also POST 256 KiB in pieces to this path")
    result.add_argument("--asset-path", default="", help="also read this page and the static files it names")
    result.add_argument("--connections", type=int, default=8, help="kept-alive connections per URL (8)")
    result.add_argument("--timeout", type=float, default=30.0, help="seconds for one request (30)")
    result.add_argument(
        "--probe-token-file", metavar="FILE", help="send this token, so that answers name their release"
    )
    return result


def _load_from_options(options: argparse.Namespace, log: TextIO | None) -> Load:
    token = ""
    if options.probe_token_file:
        try:
            token = Path(options.probe_token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(f"--probe-token-file {options.probe_token_file}: {error.strerror}") from error
    for name, value in (("--timeout", options.timeout), ("--duration", options.duration)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{name} is {value:g}; it must be a number of seconds above 0")
    if not 1 <= options.connections <= 1000:
        raise BadInput(f"--connections is {options.connections}; it must be from 1 to 1000")
    return Load(
        [parse_target(url, options.host) for url in options.urls],
        profile=profile_from_options(options),
        rate=options.rate,
        connections=options.connections,
        timeout=options.timeout,
        probe_token=token,
        log=log,
    )


async def _run_with_signals(load: Load, options: argparse.Namespace) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, load.stop)
    until = Path(options.until_file).exists if options.until_file else None
    ticker = loop.create_task(_tick(load.tally)) if sys.stderr.isatty() else None
    try:
        return await load.run(options.duration, until)
    finally:
        if ticker is not None:
            ticker.cancel()
            sys.stderr.write("\n")


async def _tick(tally: Tally) -> None:
    before = 0
    while True:
        await asyncio.sleep(1)
        seconds = time.monotonic() - tally.started.monotonic
        rate, before = tally.requests - before, tally.requests
        line = f"{seconds:5.0f} s  {tally.requests} requests  {rate}/s  {tally.failed} failed"
        sys.stderr.write(f"\r{line:70}")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """scripts/load: gives the exit status."""
    options = parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(Path(options.log).open("w", encoding="utf-8")) if options.log else None
            load = _load_from_options(options, log)
            if options.report:
                Path(options.report).touch()  # an unwritable place is better known before than after
        except OSError as error:
            raise BadInput(f"cannot write {error.filename}: {error.strerror}") from error
        report = asyncio.run(_run_with_signals(load, options))
    if options.report:
        Path(options.report).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(summary(report))
    return 1 if report["failed"] or not report["requests"] else 0
