"""Steady traffic on several targets, in an event loop or in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from support.load.answers import Answer, Apart, Failed
from support.load.http1 import Connection
from support.load.shapes import DEFAULT_PROFILE, BadInput, Mix, Shape, Target
from support.load.tally import Record, Tally, clock

if TYPE_CHECKING:  # their libraries are missing where only the other kinds are sent
    from support.load.http2 import Headers, Multiplexed
    from support.load.websocket import Exchange

P = TypeVar("P", bound=asyncio.Protocol)
PROBE_HEADER = "X-Bluegreen-Probe"
UPLOAD_PIECES = 16
LIBRARIES = {"h2": "h2", "websocket": "websockets"}
GROWTH = 8  # so many times the wanted connections may stay open after a busy moment


class _Pool:
    """The idle kept-alive connections to one target, used in turn so that all of them stay in use."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open = 0
        self.idle: deque[Connection] = deque()


class _Lanes:
    """The HTTP/2 connections to one target: few, each with many requests at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open: list[Multiplexed] = []
        self.opening = asyncio.Lock()


class Load:
    """Steady traffic on several targets.

    rate: requests per second over all targets together. connections: kept-alive connections held per target.
    timeout: seconds for one whole request. probe_token: sent as X-Bluegreen-Probe, so that answers name their release.
    log: an open text file for one JSON line per request. delay: milliseconds of round trip that are added to the way.
    h2_connections: HTTP/2 connections held per target.
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
        delay: float = 0.0,
        h2_connections: int = 2,
    ) -> None:
        if not targets:
            raise BadInput("no target; give at least one base URL, for example http://10.0.0.11")
        if not 0 < rate <= 5000:
            raise BadInput(f"rate is {rate:g}; it must be above 0 and at most 5000 requests a second")
        if probe_token and not re.fullmatch(r"[!-~]+", probe_token):
            raise BadInput("the probe token must be one word without blanks")
        if not 0 <= delay <= 10_000:
            raise BadInput(f"delay is {delay:g}; it must be from 0 to 10000 milliseconds of round trip")
        plain = next((target.url for target in targets if target.scheme != "https"), None)
        if plain and any(shape.kind == "h2" for shape in profile):
            raise BadInput(f"{plain}: requests of kind h2 are sent over TLS only; give an https:// URL")
        for kind, library in LIBRARIES.items():
            if any(shape.kind == kind for shape in profile) and not find_spec(library):
                raise BadInput(f"requests of kind {kind} need the Python package {library}: run scripts/setup")
        self.targets = tuple(targets)
        self.rate = rate
        self.delay = delay
        self.timeout = timeout
        self.tally = Tally(self.targets, clock)
        steady = [shape for shape in profile if shape.kind != "websocket"]
        self._mixes = {target.url: Mix(steady) for target in self.targets} if steady else {}
        self._held = [shape for shape in profile if shape.kind == "websocket"]
        self._places = {target.url: (target.address, target.port) for target in self.targets}
        self._lanes: dict[str, _Lanes] = {}
        self._h2_size = h2_connections
        self._pools = {target.url: _Pool(connections) for target in self.targets}
        self._probe_token = probe_token
        self._room = most_in_flight
        self._turn = 0
        self._log = log
        self._heads: dict[tuple[str, Shape], bytes] = {}
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped_early = False
        self._tls, self._tls2 = unverified(), unverified("h2")

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
        async with contextlib.AsyncExitStack() as stack:
            if self.delay:
                await self._lengthen(stack)
            await self._send_until(seconds, until, self._stop)
        return self.tally.report()

    async def _lengthen(self, stack: contextlib.AsyncExitStack) -> None:
        """A delaying proxy before each target."""
        from support.load.delay import DelayProxy

        for target in self.targets:
            proxy = DelayProxy((target.address, target.port), self.delay / 1000)
            self._places[target.url] = await proxy.start()
            stack.push_async_callback(proxy.close)

    async def _send_until(self, seconds: float | None, until: Callable[[], bool] | None, stop: asyncio.Event) -> None:
        assert self._loop is not None
        self._lanes = {target.url: _Lanes(self._h2_size) for target in self.targets}
        self.tally.start()
        visitors = self._visitors(stop)
        started = self.tally.started.monotonic
        tasks: set[asyncio.Task[None]] = set()
        due, looked, turn = started, started, 0
        while not stop.is_set():
            now = time.monotonic()
            if seconds is not None and now - started >= seconds:
                break
            if until is not None and now - looked >= 0.2:
                looked = now
                if until():
                    break
            if now < due or not self._mixes:
                await asyncio.sleep(min(due - now, 0.2) if now < due else 0.05)
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
        stop.set()
        if tasks | visitors:
            await asyncio.wait(tasks | visitors, timeout=2 * self.timeout + 5)
        self.tally.end()
        for pool in self._pools.values():
            while pool.idle:
                pool.idle.popleft().close()
        for lanes in self._lanes.values():
            for lane in lanes.open:
                lane.close()

    def _visitors(self, stop: asyncio.Event) -> set[asyncio.Task[None]]:
        """Those who hold a websocket open."""
        tasks: set[asyncio.Task[None]] = set()
        if not self._held:
            return tasks
        from support.load.websocket import Visitor

        assert self._loop is not None
        for target in self.targets:
            for shape in self._held:
                for _ in range(shape.connections):
                    visitor = Visitor(
                        target,
                        shape,
                        self._places[target.url],
                        headers={PROBE_HEADER: self._probe_token} if self._probe_token else {},
                        tls=self._tls,
                        timeout=self.timeout,
                        stop=stop,
                        clock=clock,
                        tell=partial(self._exchanged, target, shape),
                    )
                    tasks.add(self._loop.create_task(visitor.run()))
        return tasks

    def _exchanged(self, target: Target, shape: Shape, exchange: Exchange) -> None:
        """Counts a handshake or a word on a websocket."""
        record = Record(target.url, shape.kind, shape.method, shape.path, exchange.sent, clock(), exchange.status)
        record.release, record.size, record.nth = exchange.release, exchange.size, exchange.nth
        if isinstance(exchange.problem, Failed):
            record.failure, record.detail = exchange.problem.category, str(exchange.problem)
        elif exchange.problem is not None:
            record.apart, record.detail = exchange.problem.outcome, str(exchange.problem)
        self._count(record)

    def _count(self, record: Record) -> None:
        self.tally.add(record)
        if self._log is not None:
            self._log.write(json.dumps(record.as_json()) + "\n")

    def _next_due(self, due: float, now: float) -> float:
        if now - due > 1.0:  # a stalled machine must not be followed by a burst
            self.tally.late += int((now - due) * self.rate)
            due = now
        return due + 1 / self.rate

    async def _one(self, target: Target, shape: Shape) -> None:
        if shape.kind == "asset":
            await self._asset(target, shape)
        else:
            await self._request(target, shape, keep_body=bool(shape.ends))

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
        try:
            async with asyncio.timeout(self.timeout):
                ask = self._ask_h2 if shape.kind == "h2" else self._ask
                answer = await ask(target, shape, record, keep_body)
            record.status, record.release, record.size, body = answer.status, answer.release, answer.size, answer.body
            record.failure, record.detail = wrong(shape, answer)
        except Failed as failure:
            record.failure, record.detail, record.status = failure.category, str(failure), failure.status
        except Apart as end:
            record.apart, record.detail = end.outcome, str(end)
        except TimeoutError:
            record.failure, record.detail = "timeout", f"no complete answer within {self.timeout:g} s"
        record.answered = clock()
        self._count(record)
        return body

    async def _ask(self, target: Target, shape: Shape, record: Record, keep_body: bool) -> Answer:
        connection = await self._connection(target, fresh=shape.kind == "fresh")
        keep = False
        try:
            record.nth = connection.used + 1
            head, pieces, pause = self._encode(target, shape)
            # No await between the look at an idle connection and the sending on it.
            answer = await connection.ask(head, pieces, pause, keep_body, shape.method)
            keep = answer.keep
            return answer
        finally:
            self._give_back(target, connection, keep)

    async def _ask_h2(self, target: Target, shape: Shape, record: Record, keep_body: bool) -> Answer:
        headers, pieces, pause = self._encode_h2(target, shape)
        lane = await self._lane(target)
        # No await between the look at the connection and the sending on it.
        record.nth = lane.used + 1
        return await lane.ask(headers, pieces, pause, keep_body)

    async def _lane(self, target: Target) -> Multiplexed:
        """An HTTP/2 connection that takes a request now: the least busy one, or a new one."""
        from support.load.http2 import Multiplexed

        lanes = self._lanes[target.url]
        async with lanes.opening:
            self.tally.replaced += sum(1 for lane in lanes.open if lane.closed and not lane.going)
            lanes.open = [lane for lane in lanes.open if not lane.closed]
            ready = [lane for lane in lanes.open if lane.usable()]
            held = sum(1 for lane in lanes.open if not lane.going)
            if held < lanes.size or not ready:
                try:
                    _, lane = await self._connect(Multiplexed, target, self._tls2)
                except OSError as error:
                    if isinstance(error, TimeoutError):
                        raise
                    raise Failed("connect", str(error)) from error
                if lane.closed:
                    raise Failed("connect", "no HTTP/2: the server did not agree to it, or closed at once")
                self.tally.connections += 1
                lanes.open.append(lane)
                ready = [lane]
        return min(ready, key=lambda lane: lane.under_way)

    async def _connect(
        self, factory: Callable[[], P], target: Target, tls: ssl.SSLContext
    ) -> tuple[asyncio.BaseTransport, P]:
        assert self._loop is not None
        address, port = self._places[target.url]
        secure = target.scheme == "https"
        name = target.host.partition(":")[0] if secure else None
        return await self._loop.create_connection(
            factory, address, port, ssl=tls if secure else None, server_hostname=name
        )

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
        pool.open += 0 if fresh else 1
        try:
            _, connection = await self._connect(Connection, target, self._tls)
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
        return head, *in_pieces(text.encode() or b"x" * length, shape.seconds)

    def _encode_h2(self, target: Target, shape: Shape) -> tuple[Headers, Iterable[bytes], float]:
        """The same for HTTP/2; only a body given by its length is sent slowly."""
        body = shape.body.encode() if isinstance(shape.body, str) else b"x" * shape.body
        lines = [(":method", shape.method), (":scheme", target.scheme), (":authority", target.host)]
        lines += [(":path", shape.path), ("user-agent", "bluegreen-load"), ("accept", "*/*")]
        if self._probe_token:
            lines.append((PROBE_HEADER.lower(), self._probe_token))
        if body or shape.method != "GET":
            lines += [("content-type", shape.content_type), ("content-length", str(len(body)))]
        headers = [(name.encode(), value.encode()) for name, value in lines]
        if isinstance(shape.body, str):
            return headers, (body,) if body else (), 0.0
        return headers, *in_pieces(body, shape.seconds)


def unverified(*protocols: str) -> ssl.SSLContext:
    """TLS with anybody: test hosts have certificates of their own, and what is measured is availability, not identity.

    protocols: what is offered by ALPN.
    """
    found = ssl.create_default_context()
    found.check_hostname = False
    found.verify_mode = ssl.CERT_NONE
    if protocols:
        found.set_alpn_protocols(list(protocols))
    return found


def in_pieces(data: bytes, seconds: float) -> tuple[list[bytes], float]:
    """A body in the pieces in which it is sent, and the seconds between them."""
    size = max(1, math.ceil(len(data) / UPLOAD_PIECES))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return pieces, seconds / max(1, len(pieces))


def wrong(shape: Shape, answer: Answer) -> tuple[str, str]:
    """What is wrong with a complete answer: category and detail, both empty if nothing is."""
    if not shape.expected(answer.status):
        return "status", f"status {answer.status}"
    if shape.kind == "stream" and not answer.marked:
        return "truncated", "it ended with the connection: nobody can tell whether it is whole"
    if shape.ends and not answer.body.endswith(shape.ends.encode()):
        return "truncated", f"the body ends with {answer.body[-20:]!r}, not with {shape.ends!r}"
    return "", ""


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

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.load.stop()
            self._thread.join(self.load.timeout + 10)
