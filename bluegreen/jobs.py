"""Release code that runs once: migrations, management commands, checks.

Each job is a systemd unit as the application's user, so it outlives the controller's connection, never has root, and
has a name that a second one cannot take.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluegreen import images, release, secrets, units
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed

LOCK_TIMEOUT = "2s"
ATTACHED = 0.5  # seconds between two looks at a migration that somebody else started
MARK = "bluegreen-result:"

# Runs in the release's virtualenv: which migrations are pending, in the order they would run.
PLAN = f"""
import json, django
django.setup()
from django.db import connections, DEFAULT_DB_ALIAS
from django.db.migrations.executor import MigrationExecutor
from django.core.management.commands.migrate import Command
executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
executor.loader.check_consistent_history(connections[DEFAULT_DB_ALIAS])
conflicts = executor.loader.detect_conflicts()
plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
describe = getattr(Command, "describe_operation", None)
lines = []
for migration, backwards in plan:
    lines.append(f"{{migration.app_label}}.{{migration.name}}")
    for operation in migration.operations:
        lines.append("    " + (describe(operation, backwards)[0] if describe else operation.describe()))
print({MARK!r} + json.dumps({{
    "pending": [f"{{m.app_label}}.{{m.name}}" for m, _ in plan], "plan": lines,
    "conflicts": {{app: sorted(names) for app, names in conflicts.items()}}}}))
"""

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


def command_line(context: Context, name: str, unit: str, words: Sequence[str], extra: dict[str, str]) -> list[str]:
    """The systemd-run command of a job: as the application's user, in the release's environment and source root."""
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
        f"ReadWritePaths={context.paths.data}",
        *HARDENING,
    ]
    return [
        "systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={unit}", f"--description={described(name)}",
        *(f"--property={item}" for item in properties),
        *(f"--setenv={key}={value}" for key, value in extra.items()),
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


def run(
    context: Context, name: str, job: str, words: Sequence[str], timeout: float, extra: dict[str, str] | None = None
) -> tuple[int, list[str]]:
    """Run a job to its end. Returns its exit status and what it printed."""
    images.require_open(context.paths, context.config, release.image_of(context.paths, name))
    unit = f"bluegreen-{job}-{context.app}"
    if units.properties([f"{unit}.service"], ["ActiveState"])[f"{unit}.service"].get("ActiveState") in (
        "active",
        "activating",
    ):
        raise BluegreenError(
            Code.BUSY, f"{unit} is running already", "", f"wait for it (journalctl -fu {unit}), then try again"
        )
    try:
        done = units.run(command_line(context, name, unit, words, extra or {}), timeout=timeout, check=False)
    except BluegreenError:
        units.systemctl("stop", f"{unit}.service", check=False)
        raise
    output = [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return done.returncode, output


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


def plan(context: Context, name: str) -> dict[str, Any]:
    """Which migrations are pending for the release: {pending, plan}."""
    status, output = run(context, name, "plan", (python(context, name), "-c", PLAN), 120)
    marked = [line for line in output if line.startswith(MARK)]
    if status or not marked:
        raise check_failed(
            "the migration plan cannot be made",
            why(output),
            "is the database reachable from this host?",
            {"output": output[-20:]},
        )
    result: dict[str, Any] = json.loads(marked[-1].removeprefix(MARK))
    if conflicts := result.pop("conflicts"):
        app, names = next(iter(conflicts.items()))
        raise check_failed(
            "migrations conflict",
            f"{app} has several leaves: {', '.join(names)}",
            "run makemigrations --merge and deploy a new commit",
        )
    return result


def migrate(context: Context, name: str, timeout: float) -> dict[str, Any]:
    """Run the release's pending migrations, with a lock timeout so that traffic never queues behind them."""
    started = time.monotonic()
    attached = not context.dry_run and attach(context, name, timeout)
    before = plan(context, name)["pending"]
    if context.dry_run or not before:
        seconds = round(time.monotonic() - started, 2)
        return {"applied": [], "pending": before, "attached": attached, "seconds": seconds, "output": []}
    # settings that set OPTIONS["options"] themselves win over this: libpq prefers a parameter to the environment
    extra = {"PGOPTIONS": f"-c lock_timeout={LOCK_TIMEOUT} -c idle_in_transaction_session_timeout=600s"}
    words = (python(context, name), "-m", "django", "migrate", "--no-input", "--no-color")
    status, output = run(context, name, "migrate", words, timeout, extra)
    after = plan(context, name)["pending"]
    applied = [item for item in before if item not in after]
    context.state.append_history("migrate", release=name, applied=applied, status=status, deploy_id=context.deploy_id)
    if status or after:
        todo = "the old release serves; correct the migration and deploy a new commit"
        if "lock timeout" in " ".join(output):
            todo = "a long transaction held the table; the old release serves; try again when it has ended"
        what = f"{(after or ['a migration'])[0]} failed" if status else f"{after[0]} is still pending"
        raise check_failed(what, why(output), todo, {"output": output[-30:], "applied": applied})
    seconds = round(time.monotonic() - started, 2)
    return {"applied": applied, "pending": [], "attached": attached, "seconds": seconds, "output": output[-30:]}


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
