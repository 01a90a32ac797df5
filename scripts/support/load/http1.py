"""HTTP/1.1 over a plain asyncio transport: one connection, one request at a time, nothing repeated."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from collections.abc import Iterable

from support.load.answers import Answer, Failed

RELEASE_HEADER = b"x-bluegreen-release"
MAX_HEAD = 65536


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
        self._marked = True
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
            self._waiter.set_result(Answer(self._status, self._release, self._size, body, keep, self._marked))
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
            self._state, self._left, self._keep, self._marked = "body", -1, False, False

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
