"""The dead-man's timer: a switch that nobody confirms undoes itself.

Armed before the switch, because a crash between the two must leave a timer without a switch and never the reverse.
A timer whose switch is gone does nothing when it fires.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bluegreen import units

PROGRAM = "/usr/local/bin/bluegreen"


def pattern(app: str) -> str:
    """Matches the timers of one application; a colon cannot be part of an application's name."""
    return f"bluegreen-deadman:{app}:*.timer"


def arm(app: str, deploy_id: str, seconds: float) -> tuple[str, Callable[[], None]]:
    """Begin to arm: revert in `seconds` unless confirmed by then. Returns the timer, and what waits until it runs."""
    name = f"bluegreen-deadman:{app}:{time.time_ns()}"
    armed = units.begin(
        (
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={name}",
            f"--on-active={seconds:.3f}s",
            "--timer-property=AccuracySec=10ms",
            # a full disk or a busy host must not make the one call the last; 3 s stay below the start limit
            "--property=Restart=on-failure",
            "--property=RestartSec=3s",
            f"--description=bluegreen: revert {app} unless the switch is confirmed",
            PROGRAM,
            "revert",
            "--app",
            app,
            "--deadman",
            deploy_id,
        )
    )
    return f"{name}.timer", armed


def watching(app: str) -> list[str]:
    """The armed timers of an application, and the services of elapsed ones that still ask the register."""
    return list(units.listed(pattern(app), pattern(app).replace(".timer", ".service")))


def disarm(app: str, timer: str = "") -> None:
    """Stop a timer, or all of the application. Does not wait: the call's end does."""
    units.begin(("systemctl", "--no-ask-password", "stop", timer or pattern(app)))
