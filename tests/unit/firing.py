"""How the tests of the load client send: for a while, and on until enough was counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from support.load import Load


async def until(true: Callable[[], bool], patience: float = 20.0) -> None:
    """Returns as soon as `true` is, or after `patience` seconds: what is asserted next says what is missing."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not true() and loop.time() < end:
        await asyncio.sleep(0.005)


async def fire(load: Load, seconds: float, enough: int | Callable[[], bool] = 3) -> dict[str, Any]:
    """The report of a load that ran for `seconds`, and on until `enough` requests were counted."""
    running = asyncio.create_task(load.run(seconds=30))
    await asyncio.sleep(seconds)
    await until(enough if callable(enough) else lambda: load.tally.requests >= enough)
    load.stop()
    return await running
