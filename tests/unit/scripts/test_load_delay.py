"""The delaying proxy: later, in order, and every end as it was."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support import load as tool
from support.load.delay import DelayProxy
from tests.unit.firing import fire

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, in order; closes when the client has."""
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()
    writer.close()


def beside(handler: Handler, seconds: float, work: Callable[[tuple[str, int]], Awaitable[Any]]) -> Any:
    """Runs `work` with the address of a proxy before a server."""

    async def main() -> Any:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        proxy = DelayProxy(server.sockets[0].getsockname()[:2], seconds)
        place = await proxy.start()
        try:
            return await asyncio.wait_for(work(place), 30)
        finally:
            await proxy.close()
            server.close()

    return asyncio.run(main())


def test_bytes_arrive_in_order_whatever_their_pace() -> None:
    chance = random.Random(7)
    pieces = [chance.randbytes(chance.randint(1, 30_000)) for _ in range(60)]

    async def work(place: tuple[str, int]) -> bytes:
        reader, writer = await asyncio.open_connection(*place)

        async def send() -> None:
            for piece in pieces:
                writer.write(piece)
                if chance.random() < 0.3:
                    await asyncio.sleep(0.002)
            writer.write_eof()

        sending = asyncio.create_task(send())
        got = await reader.read(-1)
        await sending
        writer.close()
        return got

    assert beside(echo, 0.01, work) == b"".join(pieces)


def test_more_than_fits_waits_for_its_reader() -> None:
    size = 48 << 20  # more than the sockets themselves hold

    async def work(place: tuple[str, int]) -> int:
        reader, writer = await asyncio.open_connection(*place)

        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(size >> 16):
                writer.write(bytes(1 << 16))
                await writer.drain()
                sent += 1 << 16
            writer.write_eof()

        sending = asyncio.create_task(send())
        before = -1
        while before != sent:  # nobody reads: both ways fill up
            before = sent
            await asyncio.sleep(0.5)
        assert sent < size
        got = 0
        while data := await reader.read(1 << 16):
            got += len(data)
        await sending
        writer.close()
        return got

    assert beside(echo, 0.002, work) == size


def test_a_round_trip_takes_the_delay_and_a_new_connection_one_more() -> None:
    async def work(place: tuple[str, int]) -> list[float]:
        times = []
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(*place)
        for _ in range(20):
            writer.write(b"x")
            await reader.readexactly(1)
            times.append(time.monotonic() - started)
            started = time.monotonic()
        writer.close()
        return times

    first, *others = beside(echo, 0.06, work)
    assert first >= 0.12
    assert 0.06 <= min(others) < 0.115, others  # a busy machine may be slow with most of them


def test_hundreds_of_connections_at_once_and_none_is_left() -> None:
    open_now = 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        await echo(reader, writer)
        await writer.wait_closed()
        open_now -= 1

    def files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async def work(place: tuple[str, int]) -> int:
        before = files()

        async def one(number: int) -> bool:
            reader, writer = await asyncio.open_connection(*place)
            word = str(number).encode().rjust(6)
            writer.write(word)
            right = await reader.readexactly(6) == word
            writer.close()
            return right

        right = 0
        for start in range(0, 1500, 500):
            right += sum(await asyncio.gather(*(one(number) for number in range(start, start + 500))))
        until = time.monotonic() + 10
        while (open_now or files() > before) and time.monotonic() < until:
            await asyncio.sleep(0.02)
        assert files() <= before
        return right

    assert beside(counted, 0.005, work) == 1500
    assert open_now == 0


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", {}),
        (b"HTTP/1.1 200 OK\r\n\r\nok", {}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nok", {"truncated": 1.0}),
        (b"", {"reset": 1.0}),
    ],
)
@pytest.mark.parametrize("abort", [False, True])
def test_every_end_of_a_connection_means_the_same_through_it(
    answer: bytes, expected: dict[str, float], abort: bool
) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if abort:
            writer.transport.abort()
        else:
            writer.close()

    async def main() -> dict[str, Any]:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        target = tool.parse_target(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        load = tool.Load([target], profile=[tool.Shape("get", "/")], rate=50, delay=10, timeout=10)
        report = await fire(load, 0.15)
        server.close()
        return report

    report = asyncio.run(main())
    assert report["requests"] >= 3
    assert report["failed_by_class"] == dict.fromkeys(expected, report["requests"])


def test_a_refused_connection_is_a_failure_through_it_too() -> None:
    async def main() -> dict[str, Any]:
        load = tool.Load([tool.parse_target("http://127.0.0.1:1")], rate=50, delay=10, timeout=10)
        return await fire(load, 0.1)

    report = asyncio.run(main())
    assert report["failed"] == report["requests"] > 0
    assert report["failed_by_class"].keys() <= {"reset"}
