"""The dead-man's timer: a switch that nobody confirms undoes itself.

Armed before the switch, because a crash between the two must leave a timer without a switch and never the reverse.
"""

from __future__ import annotations

import re

from bluegreen import units

PROGRAM = "/usr/local/bin/bluegreen"


def unit_name(app: str, deploy_id: str, sequence: int) -> str:
    """The name of a timer; a new one for every arming, so that extending never leaves a moment without one."""
    return f"bluegreen-deadman-{app}-{re.sub(r'[^A-Za-z0-9]', '', deploy_id)}-{sequence}"


def arm(app: str, deploy_id: str, seconds: float) -> None:
    """Revert in `seconds` unless confirmed by then."""
    old = timers(app)
    sequence = 1 + max((int(name.rsplit("-", 1)[1].removesuffix(".timer")) for name in old), default=0)
    units.run(
        (
            "systemd-run",
            "--quiet",
            "--collect",
            f"--unit={unit_name(app, deploy_id, sequence)}",
            f"--on-active={seconds:.3f}s",
            "--timer-property=AccuracySec=10ms",
            f"--description=bluegreen: revert {app} unless the switch is confirmed",
            PROGRAM,
            "revert",
            "--app",
            app,
            "--deadman",
            deploy_id,
        )
    )
    stop(old)


def timers(app: str) -> list[str]:
    """The armed timers of an application."""
    pattern = re.compile(rf"bluegreen-deadman-{re.escape(app)}-[A-Za-z0-9]*-\d+\.timer")
    return [name for name in units.loaded(f"bluegreen-deadman-{app}-*.timer") if pattern.fullmatch(name)]


def disarm(app: str) -> None:
    """Stop every timer of the application."""
    stop(timers(app))


def stop(names: list[str]) -> None:
    """Stop the timers named."""
    if names:
        units.systemctl("stop", *names, check=False)
