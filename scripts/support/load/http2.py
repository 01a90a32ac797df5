"""HTTP/2 over TLS: several requests at once on one connection, none repeated.

The library h2 speaks the protocol. GOAWAY is read here and not given to it: for h2 the connection ends there, while a
server that goes away in order still answers what it had accepted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from support.load.answers import Answer, Apart, Failed

RELEASE_HEADER = b"x-bluegreen-release"
FRAME_HEAD = 9
GOAWAY = 7
LONGEST_FRAME = 1 << 16  # we announce 16 KiB; what is longer is no HTTP/2

Headers = list[tuple[bytes, bytes]]


def frames(buffer: bytearray) -> Iterator[bytes]:
    """Takes the whole frames from the buffer; what has not arrived completely stays. Raises Failed."""
    while len(buffer) >= FRAME_HEAD:
        length = int.from_bytes(buffer[:3], "big")
        if length > LONGEST_FRAME:
            raise Failed("malformed", f"not HTTP/2: {bytes(buffer[:20])!r}")
        if len(buffer) < FRAME_HEAD + length:
            return
        frame = bytes(buffer[: FRAME_HEAD + length])
        del buffer[: FRAME_HEAD + length]
        yield frame


def goaway(frame: bytes) -> tuple[int, int] | None:
    """The last stream that the server works on and its error code; None if this frame is no whole GOAWAY."""
    if frame[3] != GOAWAY or len(frame) < FRAME_HEAD + 8:
        return None
    body = frame[FRAME_HEAD:]
    return int.from_bytes(body[:4], "big") & 0x7FFFFFFF, int.from_bytes(body[4:8], "big")


@dataclass
class _Stream:
    """One request on its way."""

    waiter: asyncio.Future[Answer]
    keep_body: bool
    status: int = 0
    release: str = ""
    size: int = 0
    body: bytearray = field(default_factory=bytearray)


class Multiplexed(asyncio.Protocol):
    """One HTTP/2 connection. `going`: nothing new may be asked on it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed = False
        self.going = False
        self.used = 0
        self._wire = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._incoming = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._moved = asyncio.Event()  # a window has grown, or a stream has ended
        self._writable = asyncio.Event()
        self._writable.set()

    # -- transport callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        raw, tls = transport.get_extra_info("socket"), transport.get_extra_info("ssl_object")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is None or tls.selected_alpn_protocol() != "h2":
            self.closed = True
            transport.abort()
            return
        self._wire.initiate_connection()
        self._flush()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        try:
            for frame in frames(self._incoming):
                last = goaway(frame)
                if last is not None:
                    self._leave(*last)
                else:
                    for event in self._wire.receive_data(frame):
                        self._take(event)
            self._flush()
        except Failed as failure:
            self._end(failure)
        except ProtocolError as error:
            self._end(Failed("malformed", f"HTTP/2: {error}"))
        self._moved.set()
        if self.going and not self._streams:
            self.close()

    def eof_received(self) -> bool:
        self._lost(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(exc)
        self._writable.set()

    # -- what the server says

    def _leave(self, last: int, code: int) -> None:
        """Streams above `last` were not looked at and may be asked elsewhere; the others go on here."""
        self.going = True
        for number in [number for number in self._streams if number > last]:
            self._settle(number, Apart("refused", f"GOAWAY {code}, last stream {last}, this one {number}"))

    def _take(self, event: Event) -> None:
        number = getattr(event, "stream_id", 0) or 0
        stream = self._streams.get(number)
        if isinstance(event, DataReceived):
            self._wire.acknowledge_received_data(event.flow_controlled_length or 0, number)
        if stream is None:
            return
        if isinstance(event, ResponseReceived):
            for name, value in event.headers or ():
                name, value = bytes(name), bytes(value)
                if name == b":status":
                    stream.status = int(value)
                elif name == RELEASE_HEADER:
                    stream.release = value.decode("latin-1")
        elif isinstance(event, DataReceived):
            stream.size += len(event.data or b"")
            if stream.keep_body:
                stream.body += event.data or b""
        elif isinstance(event, StreamEnded):
            body = bytes(stream.body)
            self._settle(number, Answer(stream.status, stream.release, stream.size, body, keep=True))
        elif isinstance(event, StreamReset):
            self._settle(number, _reset(stream, event.error_code))

    def _settle(self, number: int, outcome: Answer | Exception) -> None:
        waiter = self._streams.pop(number).waiter
        if waiter.done():
            return
        if isinstance(outcome, Answer):
            waiter.set_result(outcome)
        else:
            waiter.set_exception(outcome)

    def _lost(self, exc: Exception | None) -> None:
        if self.closed:
            return
        how = type(exc).__name__ if exc else "closed by the server"
        self.closed = True
        for number, stream in list(self._streams.items()):
            category = "truncated" if stream.status else "reset"
            where = f"after {stream.size} bytes of the body" if stream.status else "before any answer"
            self._settle(number, Failed(category, f"HTTP/2 connection {how} {where}", stream.status))
        self._moved.set()

    def _end(self, failure: Failed) -> None:
        for number in list(self._streams):
            self._settle(number, failure)
        self.close()

    def _flush(self) -> None:
        data = self._wire.data_to_send()
        if data and self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    # -- use

    @property
    def under_way(self) -> int:
        """Requests that are not answered yet."""
        return len(self._streams)

    def usable(self) -> bool:
        """Whether something new may be asked now."""
        if self.closed or self.going or self.transport is None or self.transport.is_closing():
            return False
        return self.under_way < self._wire.remote_settings.max_concurrent_streams

    def close(self) -> None:
        """Closes the connection; nothing is awaited."""
        self.closed = True
        self._moved.set()
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, headers: Headers, pieces: Iterable[bytes], pause: float, keep_body: bool) -> Answer:
        """Sends one request and gives its answer. pause: seconds between the pieces. Raises Failed, Apart."""
        pieces = tuple(pieces)
        number = self._wire.get_next_available_stream_id()
        stream = _Stream(asyncio.get_running_loop().create_future(), keep_body)
        self._streams[number] = stream
        self.used += 1
        self._wire.send_headers(number, headers, end_stream=not pieces)
        self._flush()
        whole = not pieces
        try:
            for place, piece in enumerate(pieces, 1):
                if pause:
                    await asyncio.sleep(pause)
                if stream.waiter.done():  # the server answered early; what it said counts
                    break
                whole = await self._send(number, stream, piece, last=place == len(pieces))
            return await stream.waiter
        finally:
            if self._streams.pop(number, None) is not None or not whole:
                self._cancel(number)
            if self.going and not self._streams:
                self.close()

    async def _send(self, number: int, stream: _Stream, piece: bytes, last: bool) -> bool:
        """One piece of the body, as far as the server's windows let it; whether the body is complete with it."""
        rest = memoryview(piece)
        while not stream.waiter.done():
            most = min(self._wire.local_flow_control_window(number), self._wire.max_outbound_frame_size)
            if rest and most <= 0:
                self._moved.clear()
                await self._moved.wait()
                continue
            now, rest = rest[: max(0, most)], rest[max(0, most) :]
            self._wire.send_data(number, bytes(now), end_stream=last and not rest)
            self._flush()
            await self._writable.wait()
            if not rest:
                return last
        return False

    def _cancel(self, number: int) -> None:
        """Tells the server that nobody waits for this any more, if it does not know."""
        if self.closed:
            return
        with contextlib.suppress(ProtocolError):  # it has ended on both sides
            self._wire.reset_stream(number, ErrorCodes.CANCEL)
            self._flush()


def _reset(stream: _Stream, code: ErrorCodes | int | None) -> Exception:
    """What a RST_STREAM means for the request."""
    name = getattr(code, "name", str(code))
    if code == ErrorCodes.REFUSED_STREAM:
        return Apart("refused", "RST_STREAM REFUSED_STREAM")
    if stream.status:
        return Failed("truncated", f"RST_STREAM {name} after {stream.size} bytes of the body", stream.status)
    return Failed("reset", f"RST_STREAM {name} before any answer")
