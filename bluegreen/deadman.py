"""The dead-man's timer: a switch that nobody confirms undoes itself.

Armed before the switch, because a crash between the two must leave a timer without a switch and never the reverse.
"""

from __future__ import annotations

import time

from bluegreen import units

PROGRAM = "/usr/local/bin/bluegreen"


def pattern(app: str) -> str:
    """Matches the timers of one application; a colon cannot be part of an application's name."""
    return f"bluegreen-deadman:{app}:*.timer"


def arm(app: str, deploy_id: str, seconds: float, replaces: bool) -> None:
    """Revert in `seconds` unless confirmed by then. `replaces`: an earlier timer is stopped once this one runs."""
    old = timers(app) if replaces else []
    units.run(
        (
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit=bluegreen-deadman:{app}:{time.time_ns()}",
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
    if old:
        units.systemctl("stop", *old, check=False)


def timers(app: str) -> list[str]:
    """The armed timers of an application."""
    return units.loaded(pattern(app))


def disarm(app: str) -> None:
    """Stop every timer of the application."""
    units.systemctl("stop", pattern(app), check=False)
