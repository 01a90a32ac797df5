"""When may a colour stop? When nothing is in flight on its socket, in two samples.

Connections that gunicorn has not accepted yet are not among the established ones: they are the listening socket's
receive queue (sync workers showed 4 established with 30 in flight).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bluegreen import units

SAMPLE = 0.1


def count(table: str, socket: str) -> int:
    """Requests in flight on `socket`, from the output of `ss -xaH`: accepted ones and those waiting in the queue."""
    total = 0
    for line in table.splitlines():
        columns = line.split()
        if len(columns) < 5 or columns[4] != socket:
            continue
        if columns[1] == "ESTAB":
            total += 1
        elif columns[1] == "LISTEN":
            total += int(columns[2])
    return total


def sample(socket: str) -> int:
    """Requests in flight on `socket` now."""
    return count(units.run(("ss", "-xaH")).stdout, socket)


def wait_idle(
    measure: Callable[[], int],
    ceiling: float,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Wait until two samples in a row are zero, at most `ceiling` seconds. Returns what is left in flight."""
    deadline = clock() + ceiling
    quiet = 0
    while True:
        left = measure()
        quiet = quiet + 1 if left == 0 else 0
        if quiet == 2 or clock() >= deadline:
            return left
        pause(SAMPLE)
