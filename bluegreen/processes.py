"""Background processes of a release, each copy a unit of its colour.

`wanted_dropins` decides what systemd must know of a release; `sync` writes it. Early processes start with the idle
colour, before traffic. Singletons, port holders and schedules change colours at settle: their units conflict with
those of the other colour, so that systemd itself never runs both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bluegreen import files, release, secrets, units
from bluegreen.config import COLOURS, Paths, other
from bluegreen.context import Context
from bluegreen.errors import check_failed
from bluegreen.release import Process

DROPIN = "bluegreen.conf"


def copies(app: str, colour: str, process: Process) -> list[str]:
    """The service units of a process."""
    return [units.process_unit(app, colour, process.name, number) for number in range(1, process.count + 1)]


def started_by(app: str, colour: str, process: Process) -> list[str]:
    """What is started for a process: its services, or its timer."""
    return [units.timer_unit(app, colour, process.name)] if process.schedule else copies(app, colour, process)


def wanted_dropins(app: str, colour: str, processes: Sequence[Process]) -> dict[str, str]:
    """Drop-in file (path below the units' directory) → content, for one colour."""
    result = {}
    for process in processes:
        for unit in copies(app, colour, process):
            rival = unit.replace(f"{app}-{colour}@", f"{app}-{other(colour)}@", 1)
            lines = ["# made by bluegreen"]
            if process.singleton or process.stop_first:
                lines += ["[Unit]", f"Conflicts={rival}", f"After={rival}"]
            lines += ["[Service]", f"TimeoutStopSec={process.stop_timeout}"]
            if process.schedule:
                lines += ["Restart=no"]
            result[f"{unit}.d/{DROPIN}"] = "\n".join(lines) + "\n"
        if process.schedule:
            unit = units.timer_unit(app, colour, process.name)
            result[f"{unit}.d/{DROPIN}"] = f"# made by bluegreen\n[Timer]\nOnCalendar={process.schedule}\n"
    return result


def sync(paths: Paths, colour: str, processes: Sequence[Process]) -> bool:
    """Make the drop-ins of a colour those of its release. True if systemd must read them again."""
    wanted = wanted_dropins(paths.app, colour, processes)
    handed = secrets.wanted_dropins(paths, colour, release.resolved(paths, colour))
    wanted |= handed
    there = [*dropins(paths, colour), *secrets.dropins(paths, colour)]
    present = {str(path.relative_to(paths.units)): path for path in there}
    changed = False
    for name, path in present.items():
        if name not in wanted:
            path.unlink()
            with contextlib.suppress(OSError):  # an administrator's own drop-in stays
                path.parent.rmdir()
            changed = True
    for name, content in wanted.items():
        path = paths.units / name
        if not path.exists() or path.read_text() != content:
            path.parent.mkdir(exist_ok=True)
            files.write_file(path, content)
            changed = True
    return changed or (bool(handed) and stale([units.web_unit(paths.app, colour)]))


def dropins(paths: Paths, colour: str) -> list[Path]:
    """The drop-ins of a colour; a process runs only where there is one."""
    return list(paths.units.glob(f"{paths.app}-{colour}@*.d/{DROPIN}"))


def unread(app: str, colour: str, processes: Sequence[Process]) -> bool:
    """Whether systemd has not read a drop-in yet: a crash came between writing it and telling systemd."""
    return stale([unit for process in processes for unit in copies(app, colour, process)])


def stale(names: Sequence[str]) -> bool:
    """Whether the files of one of these units are newer than what systemd knows."""
    return any(
        values.get("NeedDaemonReload") == "yes" for values in units.properties(names, ["NeedDaemonReload"]).values()
    )


def check_schedules(processes: Sequence[Process]) -> None:
    """Refuse a schedule that systemd does not understand, before anything starts."""
    for process in processes:
        if process.schedule:
            done = units.run(("systemd-analyze", "calendar", process.schedule), check=False)
            if done.returncode:
                raise check_failed(
                    f"app_processes.{process.name}: {process.schedule!r} is not a schedule",
                    units.last_line(done.stderr),
                    "see man systemd.time",
                )


def of_colour(paths: Paths, colour: str) -> list[Process]:
    """The processes of the release that a colour holds; none if it holds no complete one."""
    name = release.resolved(paths, colour)
    return release.processes_of(paths, name) if name and release.complete(paths, name) else []


def early_units(context: Context, colour: str) -> list[str]:
    """The units that run beside those of the other colour."""
    wanted = [process for process in of_colour(context.paths, colour) if process.early]
    return [unit for process in wanted for unit in copies(context.app, colour, process)]


def start_units(names: Sequence[str], states: dict[str, str] | None = None) -> list[str]:
    """Start those of the units that do not run; does not wait. systemd stops the rivals of late ones first."""
    if states is None:
        found = units.properties(names, ["ActiveState"])
        states = {unit: values.get("ActiveState", "") for unit, values in found.items()}
    missing = [unit for unit in names if states.get(unit) not in ("active", "activating")]
    if failed := [unit for unit in missing if states.get(unit) == "failed"]:
        units.systemctl("reset-failed", *failed, check=False)
    if missing:
        units.systemctl("start", "--no-block", *missing)
    return missing


def start_early(context: Context, colour: str) -> list[str]:
    """Start the processes that run beside the old ones. Returns all of their units; does not wait."""
    names = early_units(context, colour)
    start_units(names)
    return names


def running(app: str, *colours: str) -> dict[str, str]:
    """Units of the colours' processes and timers that systemd has loaded and that are not at rest → state."""
    return units.listed(*(f"{app}-{colour}@*.{kind}" for colour in colours for kind in ("service", "timer")))


def stop(context: Context, colour: str, wait: bool, timeout: float = 3600) -> list[str]:
    """Ask a colour's processes to finish and stop."""
    return stop_units(running(context.app, colour), wait, timeout)


def stop_units(found: Iterable[str], wait: bool, timeout: float = 3600) -> list[str]:
    """Ask units to finish and stop. Timers first, so that none starts anew."""
    names = sorted(found, key=lambda name: not name.endswith(".timer"))
    if names:
        units.systemctl("stop", *([] if wait else ["--no-block"]), *names, timeout=timeout)
        if wait:
            units.systemctl("reset-failed", *names, check=False)
    return names


def stay_alive(names: Sequence[str], seconds: float) -> None:
    """Return when every unit has been running for `seconds` without a restart; raise with its last words if not."""
    services = [name for name in names if name.endswith(".service")]
    deadline, begun = time.monotonic() + seconds + 10, time.time() - seconds - 1
    while services:
        found = units.properties(
            services, ["ActiveState", "SubState", "NRestarts", "ActiveEnterTimestampMonotonic", "Result"]
        )
        now = time.clock_gettime(time.CLOCK_MONOTONIC)
        for unit, values in found.items():
            restarted = int(values.get("NRestarts") or 0) > 0
            if restarted or values.get("ActiveState") in ("failed", "inactive"):
                words = units.journal(unit, begun, 5)
                raise check_failed(
                    f"{unit} does not stay alive",
                    words[-1] if words else f"it is {values.get('ActiveState')}",
                    f"journalctl -u {unit}",
                    {"output": words},
                )
        ages = [
            now - int(v.get("ActiveEnterTimestampMonotonic") or 0) / 1e6 if v.get("ActiveState") == "active" else 0
            for v in found.values()
        ]
        if all(age >= seconds for age in ages):
            return
        if time.monotonic() > deadline:
            raise check_failed(
                f"{', '.join(services)}: not running after {seconds + 10:g} s", "", f"systemctl status {services[0]}"
            )
        time.sleep(0.05)


def settle(context: Context, colour: str, wait: bool, alive: float) -> dict[str, object]:
    """Move what must run once to the live colour, and let the other colour's processes finish and stop."""
    names, rest = belonging(context, colour), other(colour)
    if not names and not of_colour(context.paths, rest) and not dropins(context.paths, rest):
        return {"started": [], "stopped": []}  # no process of this application can run: nothing to ask systemd
    states = running(context.app, colour, rest)
    started = start_units(names, states)
    stopped = stop_units([unit for unit in states if unit.startswith(f"{context.app}-{rest}@")], wait)
    if alive > 0:
        stay_alive([name for name in names if name.endswith(".service")], alive)
    return {"started": started, "stopped": stopped}


def belonging(context: Context, colour: str) -> list[str]:
    """The units that run on this host while the colour is live; a singleton's run on one host of the fleet."""
    return [
        unit
        for process in of_colour(context.paths, colour)
        if context.config.singletons or not (process.singleton or process.schedule)
        for unit in started_by(context.app, colour, process)
    ]


def state(context: Context) -> list[dict[str, object]]:
    """Every process unit of both colours, as `status` shows it."""
    names = [(colour, unit) for colour in COLOURS for unit in belonging(context, colour)]
    found = units.properties([unit for _, unit in names], ["ActiveState"])
    return [
        {"colour": colour, "unit": unit, "active": found[unit].get("ActiveState") == "active"} for colour, unit in names
    ]
