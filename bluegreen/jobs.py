"""Release code that runs once: migrations, management commands, checks.

Each job is a systemd unit as the application's user, so it outlives the controller's connection, never has root, and
has a name that a second one cannot take.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluegreen import images, release, secrets, units
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed, from_dict

ATTACHED = 0.5  # seconds between two looks at a migration that somebody else started

# Runs in the release's virtualenv: this program's own modules come first, whatever the release calls its packages.
SCHEMA = """
import sys
sys.path.insert(0, %r)
from bluegreen.schema.service import main
sys.exit(main(sys.argv[1:]))
"""
PROGRAM = "/usr/local/bin/bluegreen"

HARDENING = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "RestrictNamespaces=yes",
    "SystemCallArchitectures=native",
    "UMask=0027",
    "KeyringMode=private",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
)


def command_line(context: Context, name: str, unit: str, words: Sequence[str], walls: Sequence[str] = ()) -> list[str]:
    """The systemd-run command of a job: as the application's user, in the release's environment and source root.

    walls: properties that shut it off; then nothing is writable for it.
    """
    home = context.paths.releases / name
    image = context.paths.images / release.image_of(context.paths, name)
    source = Path(
        os.path.normpath(image / "app" / str(release.config_of(context.paths, name).get("source_dir") or "."))
    )
    properties = [
        f"User={context.config.user}",
        f"Group={context.config.user}",
        f"WorkingDirectory={source}",
        f"EnvironmentFile={home}/env",
        *secrets.of_unit(home),
        *([] if walls else [f"ReadWritePaths={context.paths.data}"]),
        *(item for item in HARDENING if not walls or not item.startswith("RestrictAddressFamilies=")),
        *walls,
    ]
    return [
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}", f"--description={described(name)}",
        *(f"--property={item}" for item in properties),
        "--", *secrets.launched(home, words),
    ]  # fmt: skip


def described(name: str) -> str:
    """A job's description: it tells of which release it is."""
    return f"bluegreen: job of release {name}"


def attach(context: Context, name: str, timeout: float) -> bool:
    """Wait for a migration of the same release that an earlier run has left at work. False if there is none.

    Raises BluegreenError (busy) if it is one of another release.
    """
    unit, until = f"bluegreen-migrate-{context.app}.service", time.monotonic() + timeout
    waited = False
    while True:
        values = units.properties([unit], ["ActiveState", "Description"])[unit]
        if values.get("ActiveState") not in ("active", "activating"):
            return waited
        if values.get("Description") != described(name):
            what = f"{unit} is at work for another release"
            todo = f"wait for it (journalctl -fu {unit}), then try again"
            raise BluegreenError(Code.BUSY, what, values.get("Description", ""), todo)
        if time.monotonic() > until:
            raise check_failed(f"{unit} did not end within {timeout:g} s", "", f"journalctl -fu {unit}")
        if not waited:
            context.say(f"an earlier run's migration of {name} is still at work: waiting for it")
        waited = True
        time.sleep(ATTACHED)


def python(context: Context, name: str) -> str:
    """The release's interpreter."""
    return str(context.paths.images / release.image_of(context.paths, name) / "venv/bin/python")


def start(
    context: Context, name: str, job: str, words: Sequence[str], timeout: float, walls: Sequence[str] = (),
    stdin: str | None = None, aloud: bool = False,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a job to its end, whatever its exit status is."""
    images.require_open(context.paths, context.config, release.image_of(context.paths, name))
    unit = f"bluegreen-{job}-{context.app}"
    if units.state_of(f"{unit}.service") in ("active", "activating"):
        raise BluegreenError(
            Code.BUSY, f"{unit} is running already", "", f"wait for it (journalctl -fu {unit}), then try again"
        )
    command = command_line(context, name, unit, words, walls)
    try:
        return units.run(command, timeout=timeout, check=False, stdin=stdin, aloud=aloud)
    except BluegreenError:
        units.systemctl("stop", f"{unit}.service", check=False)
        raise


def run(context: Context, name: str, job: str, words: Sequence[str], timeout: float) -> tuple[int, list[str]]:
    """Run a job to its end. Returns its exit status and what it printed."""
    done = start(context, name, job, words, timeout)
    output = [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, output


def ask(
    context: Context, name: str, job: str, verb: str, order: dict[str, Any], timeout: float = 600,
    walls: Sequence[str] = (), aloud: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A verb of bluegreen.schema in a release: its answer. Raises the BluegreenError that it told, or one of its death.

    What it printed beside the answer stays out of it: nothing of that can be trusted.
    """
    words = (python(context, name), "-c", SCHEMA % PROGRAM, verb)
    done = start(context, name, job, words, timeout, walls, json.dumps(order), aloud)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        said = [line for line in (done.stderr or "").splitlines() if line.strip()]
        what = f"bluegreen-{job}-{context.app} ended with status {done.returncode} and no answer"
        raise check_failed(what, why(said), "is the database reachable from this host?", {"output": said[-20:]})
    if error := answer.get("error"):
        raise from_dict(error)
    return answer


def why(output: Sequence[str]) -> str:
    """The line of a failed command that says why."""
    errors = [line for line in output if not line.startswith((" ", "\t"))]
    return (errors or list(output) or ["it said nothing"])[-1]


def check(context: Context, name: str) -> dict[str, Any]:
    """`check --deploy` in the release: imports the settings and applications. Warnings pass, errors do not."""
    status, output = run(context, name, "check", (python(context, name), "-m", "django", "check", "--deploy"), 120)
    if status:
        raise check_failed(
            "the release does not pass manage.py check",
            why(output),
            "correct it and deploy a new commit",
            {"output": output[-20:]},
        )
    return {"output": [line for line in output if line.startswith(("?:", "WARNINGS"))][-20:]}


def manage(context: Context, name: str, command: str, timeout: float) -> dict[str, Any]:
    """One management command in a release: {rc, output}."""
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise bad_input(f"{command!r} cannot be split into words", str(problem)) from None
    if not words:
        raise bad_input("there is no command", "", "for example: --command 'showmigrations'")
    if context.dry_run:
        return {"rc": 0, "output": []}
    status, output = run(context, name, "manage", (python(context, name), "-m", "django", *words), timeout)
    context.state.append_history("manage", release=name, command=words[0], status=status)
    return {"rc": status, "output": output}
