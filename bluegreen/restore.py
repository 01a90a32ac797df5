"""Put the data back as a snapshot has it. On the migration host, with the live release; other hosts follow the name.

    state    what would be lost: the time since the snapshot, and the rows of each table that differ
    restore  every database into a new one, verified, compared with the live release; then swapped by renaming

The ledger and the register are in another database and are not touched: a restore rewinds neither.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bluegreen import images, jobs, ledger, release, snapshot, units
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, check_failed, from_dict, refused
from bluegreen.migrations import Options

SHOWN = 12  # tables whose difference is named


# decided without I/O


def window(taken: str, now: str) -> str:
    """The time between two moments, as people say it."""
    seconds = int((moment(now) - moment(taken)).total_seconds())
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds % 60, "s")]
    first = next((number for number, (value, _) in enumerate(parts) if value), 3)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2])


def moment(text: str) -> datetime.datetime:
    """A time as the server wrote it: in UTC, with Z."""
    return datetime.datetime.fromisoformat(text)


def loss(alias: str, kept: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """What a restore loses, a line each. kept: a database of a snapshot; found: what it holds now."""
    since = f"{kept['at']} ({window(kept['at'], found['at'])})"
    lines = [f"{alias} ({found['database']}): everything written since {since} is lost"]
    before, now = kept["rows"], found["rows"]
    differ = [table for table in sorted({*before, *now}) if before.get(table) != now.get(table)]
    lines += [f"  {table}: {count(now.get(table))} now, {count(before.get(table))} then" for table in differ[:SHOWN]]
    if len(differ) > SHOWN:
        lines.append(f"  and {len(differ) - SHOWN} more tables")
    if not differ:
        lines.append("  every table has as many rows as then; what was changed in them is not known")
    return lines


def count(rows: int | None) -> str:
    """Rows of a table that may not be there."""
    return "not there" if rows is None else f"{rows} rows"


# acting


def find(context: Context, identity: str) -> dict[str, Any]:
    """The snapshot of that id. Raises BluegreenError that names those there are."""
    kept = {str(one["id"]): one for one in snapshot.kept(context)}
    if identity not in kept:
        names = ", ".join(list(kept)[:3]) or "none"
        raise refused(
            f"there is no snapshot {identity!r}", f"the newest: {names}", "sudo bluegreen snapshots shows all"
        )
    return kept[identity]


def hand_in(context: Context, kept: Mapping[str, Any]) -> str:
    """The command, for where the key is, that decrypts a dump and hands it in: the key stays there."""
    sealed = snapshot.directory(context) / str(kept["file"])
    host, plain = context.config.host or "HOST", snapshot.dump_of(context, kept)
    return f"ssh {host} sudo cat {sealed} | age -d -i KEY | ssh {host} sudo dd status=none of={plain}"


def check_file(context: Context, kept: Mapping[str, Any]) -> None:
    """The dump must have the bytes that were verified when it was taken. Raises BluegreenError."""
    path = snapshot.dump_of(context, kept)
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while chunk := stream.read(snapshot.CHUNK):
                digest.update(chunk)
    except OSError as problem:
        raise check_failed(f"{path} cannot be read", str(problem.strerror), "choose another snapshot") from None
    if digest.hexdigest() != kept["sha256"]:
        todo = f"hand it in again: {hand_in(context, kept)}" if kept.get("recipient") else "choose another snapshot"
        raise check_failed(f"{path} is not what it was", "its digest differs", todo)


def restore(context: Context, identity: str, accept: str, options: Options) -> dict[str, Any]:
    """Say what is lost; with `accept` the snapshot's id, put it back. Nothing changes before all is verified."""
    started = time.monotonic()
    if context.state.pending():
        raise refused("a switch is pending", "which release serves is not decided", "confirm or revert it first")
    live = context.state.live()
    if live is None:
        raise refused("no release is live on this host", "", "run ansible-playbook deploy.yml -e sha=…")
    told = find(context, identity)
    sealed = [one for one in told["databases"].values() if one.get("recipient")]
    lacking = [hand_in(context, one) for one in sealed if not snapshot.dump_of(context, one).exists()]
    if lacking and accept == identity:
        what = f"snapshot {identity} is encrypted, and the key is not on this host"
        raise refused(what, "where the key is, decrypt it and hand it in", "; ".join([*lacking, "then the same again"]))
    orders: dict[str, dict[str, Any]] = {}
    lines: list[str] = []
    for alias, kept in told["databases"].items():
        if not lacking:
            check_file(context, kept)
        orders[alias] = {**options.places, "alias": alias, "rows": kept["rows"]}
        found = jobs.ask(context, live.release, "plan", "compare", orders[alias], 600)
        lines += loss(alias, kept, found)
        if not found["may"]:
            why = f"the role {found['user']} must own {found['database']} and may create databases"
            todo = f"as an administrator, for the time of the restore: ALTER ROLE {found['user']} CREATEDB"
            raise refused("the application's role cannot restore", why, todo)
    answer: dict[str, Any] = {"snapshot": identity, "lines": lines, "restored": {}, "release": live.release}
    if accept != identity:
        wrong = f"accept_data_loss names {accept}" if accept else "the loss is not accepted yet"
        todo = f"ansible-playbook restore.yml -e snapshot={identity} -e accept_data_loss={identity}"
        first = [f"it is encrypted; where the key is: {one}" for one in lacking]
        why = " · ".join(line.strip() for line in lines)
        error = refused(f"nothing was restored: {wrong}", why, "; then ".join([*first, todo]))
        error.details = {"lines": lines}
        raise error
    if context.dry_run:
        return answer
    made = fresh(context, live.release, told, orders)
    stamp = f"bad_{re.sub(r'[^0-9]', '', identity[:15])}_{int(time.time()) % 100000:05d}"
    try:
        for alias, new in made.items():
            order = {**orders[alias], "new": new, "kept": stamp}
            done = jobs.ask(context, live.release, "migrate", "swap", order, 120)
            answer["restored"][alias] = done["kept"]
            context.say(f"{alias} is back; what served before is kept as {done['kept']}")
    except BaseException:
        # one that got its name after all has the old name no more: that it is dropped then changes nothing
        drop(
            context,
            live.release,
            orders,
            {alias: new for alias, new in made.items() if alias not in answer["restored"]},
        )
        raise
    snapshot.forget_handed_in(context, told)
    context.state.append_history(
        "restore",
        snapshot=identity,
        release=live.release,
        kept=answer["restored"],
        lost=lines,
        deploy_id=context.deploy_id,
    )
    return answer | {"seconds": round(time.monotonic() - started, 2)}


def fresh(context: Context, name: str, told: Mapping[str, Any], orders: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Every database of a snapshot, restored and verified beside the one that serves: alias → its name. All or none."""
    made: dict[str, str] = {}
    try:
        for alias, kept in told["databases"].items():
            context.say(f"restoring {alias} into a new database")
            order = {**orders[alias], "fits": ledger.footprint(context, name) or {}}
            found = feed(context, name, order, snapshot.dump_of(context, kept))
            made[alias] = str(found["new"])
            if found["misfits"]:
                more = f" (and {len(found['misfits']) - 1} more)" if len(found["misfits"]) > 1 else ""
                todo = "ansible-playbook rollback.yml to the release that was live then, and the same again"
                raise refused("the live release does not fit the snapshot", f"{found['misfits'][0]}{more}", todo)
    except BaseException:
        drop(context, name, orders, made)
        raise
    return made


def drop(context: Context, name: str, orders: Mapping[str, dict[str, Any]], made: Mapping[str, str]) -> None:
    """Remove databases that do not serve. What cannot be removed stays; the error at hand says more than that would."""
    for alias, new in made.items():
        with contextlib.suppress(BluegreenError):
            jobs.ask(context, name, "migrate", "drop", {**orders[alias], "new": new}, 120)


def feed(context: Context, name: str, order: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The job that restores, given its order and then the dump: root alone can read that."""
    images.require_open(context.paths, context.config, release.image_of(context.paths, name))
    words = (jobs.python(context, name), "-c", jobs.SCHEMA % jobs.PROGRAM, "restore")
    command = jobs.command_line(context, name, f"bluegreen-restore-{context.app}", words)
    status, out, said = run(command, json.dumps(order).encode() + b"\n", path)
    try:
        answer = json.loads(out)
    except ValueError:
        raise check_failed("the snapshot could not be restored", units.last_line(said), f"status {status}") from None
    if error := answer.get("error"):
        raise from_dict(error)
    found: dict[str, Any] = answer
    return found


def run(command: Sequence[str], head: bytes, path: Path) -> tuple[int, str, str]:
    """A job whose stdin is a line and then a file. Returns its status, what it said, its errors."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors, open(path, "rb") as dump:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=errors) as child:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended early: its answer says why
                child.stdin.write(head)
                shutil.copyfileobj(dump, child.stdin, snapshot.CHUNK)
                child.stdin.close()
        out.seek(0)
        errors.seek(0)
        return child.returncode, out.read().decode("utf-8", "replace"), errors.read().decode("utf-8", "replace")
