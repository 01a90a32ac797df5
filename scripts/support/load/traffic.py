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
from types import TracebackType
from typing import Any, TextIO

from support.load.answers import Failed
from support.load.http1 import Connection
from support.load.shapes import DEFAULT_PROFILE, BadInput, Mix, Shape, Target
from support.load.tally import Record, Tally, clock

PROBE_HEADER = "X-Bluegreen-Probe"
UPLOAD_PIECES = 16
GROWTH = 8  # so many times the wanted connections may stay open after a busy moment


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
