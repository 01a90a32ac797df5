"""When a colour may stop."""

from __future__ import annotations

import pytest

from bluegreen import inflight

SOCKET = "/run/bluegreen/orders/blue.sock"
TABLE = f"""\
u_str LISTEN 3      2048                {SOCKET} 1001            * 0
u_str ESTAB  0      0                   {SOCKET} 1002            * 1003
u_str ESTAB  0      512                 {SOCKET} 1004            * 1005
u_str ESTAB  0      0      /run/bluegreen/orders/green.sock 1006            * 1007
u_str LISTEN 9      2048   /run/bluegreen/orders/green.sock 1008            * 0
u_str ESTAB  0      0                                     * 1003            * 1002
u_str UNCONN 0      0                   {SOCKET} 1010            * 0
u_dgr UNCONN 0      0                /run/systemd/notify 12              * 0
u_str LISTEN 7      2048               {SOCKET}.old 1011            * 0
p_raw UNCONN 0      0

"""


def test_accepted_and_waiting_requests_count() -> None:
    assert inflight.count(TABLE, SOCKET) == 2 + 3
    assert inflight.count(TABLE, SOCKET.replace("blue.", "green.")) == 1 + 9
    assert inflight.count(TABLE, "/run/bluegreen/notes/blue.sock") == 0
    assert inflight.count("", SOCKET) == 0


@pytest.mark.parametrize(
    ("samples", "ceiling", "left", "asked"),
    [
        ([0, 0], 10, 0, 2),
        ([3, 0, 1, 0, 0], 10, 0, 5),  # one quiet sample is not enough
        ([5, 4, 3, 2, 1, 1, 1], 0.3, 2, 4),
        ([7], 0, 7, 1),
        ([0], 0, 0, 1),
    ],
)
def test_two_quiet_samples_or_the_ceiling(samples: list[int], ceiling: float, left: int, asked: int) -> None:
    clock = [0.0]
    rest = iter(samples)

    def pause(seconds: float) -> None:
        clock[0] += 0.1

    assert inflight.wait_idle(lambda: next(rest), ceiling, pause, lambda: round(clock[0], 3)) == left
    assert len(samples) - len(list(rest)) == asked
