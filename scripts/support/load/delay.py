"""A proxy that makes the way longer: every byte, and every end, arrives so much later, in order."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections import deque
from collections.abc import Coroutine
from typing import Any

HIGH = 1 << 20  # bytes on their way in one direction after which nothing more is read


class Way:
    """One direction of one connection: what comes in at `source` leaves at `sink` later, first in, first out."""

    def __init__(self, delay: float, loop: asyncio.AbstractEventLoop) -> None:
        self._delay, self._loop = delay, loop
        self._queue: deque[tuple[float, bytes | None]] = deque()  # None: the end
        self._waiting: asyncio.TimerHandle | None = None
        self._held = 0
        self._blocked = False
        self.not_before = 0.0  # the loop's time before which nothing leaves
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.broken = False  # the source ended by a reset: the sink ends so too
        self.ended = False
        self.other: Way | None = None

    def put(self, data: bytes | None) -> None:
        """Takes what has come in."""
        due = max(self._loop.time() + self._delay, self.not_before)
        self._queue.append((due, data))
        self._held += len(data or b"")
        if self._held > HIGH and self.source is not None and not self.source.is_closing():
            self.source.pause_reading()
        if self._waiting is None:
            self._waiting = self._loop.call_at(due, self.flow)

    def block(self, blocked: bool) -> None:
        """The sink takes no more for now, or again."""
        self._blocked = blocked
        if not blocked:
            self.flow()

    def flow(self) -> None:
        """Lets out what is due."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        if self.sink is None:
            return  # called again when it is connected
        while self._queue and not self._blocked and self._queue[0][0] <= self._loop.time():
            self._let_out(self._queue.popleft()[1])
        if self._queue and not self._blocked:
            self._waiting = self._loop.call_at(self._queue[0][0], self.flow)
        if self._held <= HIGH // 2 and self.source is not None and not self.source.is_closing():
            self.source.resume_reading()

    def _let_out(self, data: bytes | None) -> None:
        assert self.sink is not None
        self._held -= len(data or b"")
        if self.sink.is_closing():
            return
        if data is not None:
            self.sink.write(data)
        elif self.broken:
            self.sink.abort()
        elif self.sink.can_write_eof():
            with contextlib.suppress(OSError):
                self.sink.write_eof()
            self.ended = True
            if self.other is not None and self.other.ended and self.source is not None:
                self.sink.close()
                self.source.close()

    def stop(self) -> None:
        """Nothing leaves any more."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._queue.clear()


class _End(asyncio.Protocol):
    """One end of a proxied connection: reads into `out`, and is what `back` writes to."""

    def __init__(self, out: Way, back: Way) -> None:
        self.out, self.back = out, back
        self._said = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.out.source = self.back.sink = transport
        self.back.flow()

    def data_received(self, data: bytes) -> None:
        self.out.put(data)

    def eof_received(self) -> bool:
        self._finish()
        return True  # the other direction may go on

    def connection_lost(self, exc: Exception | None) -> None:
        self.out.broken = True  # closed altogether: the other side cannot write here any more
        self._finish(again=exc is not None)
        self.back.stop()

    def _finish(self, again: bool = False) -> None:
        if not self._said or again:
            self._said = True
            self.out.put(None)

    def pause_writing(self) -> None:
        self.back.block(True)

    def resume_writing(self) -> None:
        self.back.block(False)


class _Entrance(_End):
    """The client's end; it opens the other one, after the time that a first packet takes."""

    def __init__(self, proxy: DelayProxy) -> None:
        self._proxy = proxy
        super().__init__(Way(proxy.seconds / 2, proxy.loop), Way(proxy.seconds / 2, proxy.loop))
        self.out.other, self.back.other = self.back, self.out

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # A client far away would send its first byte one round trip after its first packet.
        self.out.not_before = self._proxy.loop.time() + 1.5 * self._proxy.seconds
        self._proxy.opening(self._open())

    async def _open(self) -> None:
        await asyncio.sleep(self._proxy.seconds / 2)
        try:
            await self._proxy.loop.create_connection(lambda: _End(self.back, self.out), *self._proxy.place)
        except OSError:
            self.back.broken = True
            self.back.put(None)


class DelayProxy:
    """Listens on a free port of 127.0.0.1 and passes everything on to `place`, with `seconds` more of round trip.

    The time counts half each way, also for connecting and for ends; a refused connection is seen as a reset.
    """

    def __init__(self, place: tuple[str, int], seconds: float) -> None:
        self.place, self.seconds = place, seconds
        self.loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        """Where to connect."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # three files for each connection are soon more than 1024
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._server = await self.loop.create_server(lambda: _Entrance(self), "127.0.0.1", 0, backlog=4096)
        address, port = self._server.sockets[0].getsockname()[:2]
        return str(address), int(port)

    def opening(self, work: Coroutine[Any, Any, None]) -> None:
        """Keeps a connection that is being opened."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Takes no more connections."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
