"""Websockets that stay open for the whole run: a word every half second has to come back.

The library websockets speaks the protocol; its reconnecting and its redirects are not used.
"""

from __future__ import annotations

import asyncio
import itertools
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from support.load.answers import Apart, Failed
from support.load.shapes import Shape, Target
from support.load.tally import Moment

RELEASE_HEADER = "X-Bluegreen-Release"
COME_BACK = (1001, 1012)  # going away, service restart: what a visitor's page takes as "connect again"


@dataclass
class Exchange:
    """What comes of one handshake or one word; `problem` is None if it was answered."""

    sent: Moment
    status: int = 0
    release: str = ""
    size: int = 0
    nth: int = 1
    problem: Failed | Apart | None = None


class _Once(connect):
    """One attempt to connect, at one place."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def end_of(closed: ConnectionClosed) -> Failed | Apart:
    """What the end of a connection means: only a close that asks to come back is no failure."""
    if closed.rcvd is None:
        return Failed("reset", "the websocket ended without a close (1006)")
    said = f"closed by the server with {closed.rcvd.code} {closed.rcvd.reason}".strip()
    return Apart("closed", said) if closed.rcvd.code in COME_BACK else Failed("reset", said)


class Visitor:
    """One visitor whose page holds a websocket open, and opens it again when it ends.

    place: address and port to connect to. headers: sent with the handshake. timeout: seconds for one exchange.
    tell: is given every Exchange.
    """

    def __init__(
        self,
        target: Target,
        shape: Shape,
        place: tuple[str, int],
        *,
        headers: dict[str, str],
        tls: ssl.SSLContext,
        timeout: float,
        stop: asyncio.Event,
        clock: Callable[[], Moment],
        tell: Callable[[Exchange], None],
    ) -> None:
        self._url = f"{'wss' if target.scheme == 'https' else 'ws'}://{target.host}{shape.path}"
        self._tls = tls if target.scheme == "https" else None
        self._name = target.host.partition(":")[0] if self._tls else None
        self._place, self._headers, self._timeout, self._pause = place, headers, timeout, shape.seconds
        self._stop, self._clock, self._tell = stop, clock, tell

    async def run(self) -> None:
        """Until `stop` is set."""
        while not self._stop.is_set():
            connection = await self._open()
            if connection is None:
                await self._wait()
                continue
            try:
                await self._talk(connection)
            finally:
                connection.transport.abort()

    async def _wait(self) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), self._pause)
        except TimeoutError:
            return

    async def _open(self) -> ClientConnection | None:
        exchange = Exchange(self._clock())
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connect()
            exchange.status = 101
            exchange.release = _release(connection)
        except InvalidStatus as error:
            exchange.status = error.response.status_code
            exchange.problem = Failed("status", f"status {exchange.status} to the handshake", exchange.status)
        except TimeoutError:
            exchange.problem = Failed("timeout", f"no websocket within {self._timeout:g} s")
        except OSError as error:
            reset = isinstance(error, ConnectionResetError)
            exchange.problem = Failed("reset" if reset else "connect", str(error) or type(error).__name__)
        except (InvalidHandshake, EOFError) as error:
            cut = isinstance(error, EOFError) or isinstance(error.__cause__, EOFError)
            exchange.problem = Failed("reset" if cut else "malformed", f"handshake: {error}")
        self._tell(exchange)
        return connection

    async def _connect(self) -> ClientConnection:
        address, port = self._place
        # No compression and no pings: the words alone are the traffic.
        return await _Once(
            self._url,
            host=address,
            port=port,
            ssl=self._tls,
            server_hostname=self._name,
            additional_headers=self._headers,
            user_agent_header="bluegreen-load",
            compression=None,
            proxy=None,
            open_timeout=None,
            ping_interval=None,
            close_timeout=self._timeout,
        )

    async def _talk(self, connection: ClientConnection) -> None:
        """Words and echoes until the connection ends or `stop` is set."""
        release = _release(connection)
        for number in itertools.count(2):
            exchange = Exchange(self._clock(), 0, release, nth=number)
            try:
                if await self._quiet(connection):
                    await connection.close()
                    return
                exchange.sent = self._clock()
                word = f"word {number}"
                async with asyncio.timeout(self._timeout):
                    await connection.send(word)
                    echo = await connection.recv()
                exchange.size = len(echo)
                if echo != word:
                    exchange.problem = Failed("malformed", f"{echo[:40]!r} came back for {word!r}")
            except ConnectionClosed as closed:
                exchange.problem = end_of(closed)
            except TimeoutError:
                exchange.problem = Failed("timeout", f"no echo within {self._timeout:g} s")
            self._tell(exchange)
            if exchange.problem is not None:
                return

    async def _quiet(self, connection: ClientConnection) -> bool:
        """Waits for the next word's time; true if it is time to leave. Raises ConnectionClosed, Failed."""
        waiting = asyncio.ensure_future(self._stop.wait())
        ended = asyncio.ensure_future(connection.wait_closed())
        try:
            await asyncio.wait({waiting, ended}, timeout=self._pause, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            ended.cancel()
        return self._stop.is_set()


def _release(connection: ClientConnection) -> str:
    return connection.response.headers.get(RELEASE_HEADER, "") if connection.response else ""
