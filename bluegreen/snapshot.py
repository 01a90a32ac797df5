"""A snapshot of the data before a migration that was approved: dumped, verified row by row, kept for a while.

Taken by the application's user and kept by root, where the application cannot touch it:
/var/lib/bluegreen/<app>/snapshots/<id>-<database>.dump (….dump.age if it is encrypted), and <id>.json, which is written
last. One that is to be encrypted has no name while it is plain: nobody finds it, whatever dies.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bluegreen import files, images, jobs, release, units
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed

RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
COPY = re.compile(rb'COPY ((?:"(?:[^"]|"")+"|[^\s".]+)\.(?:"(?:[^"]|"")+"|[^\s".]+)) ')
PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
CHUNK = 1 << 20
SEALED = ".age"  # what the names of encrypted dumps end with
PATIENCE = 4 * 3600.0  # seconds for the dump of one database


def directory(context: Context) -> Path:
    """Where snapshots lie; root's alone."""
    return context.paths.state / "snapshots"


def identity(now: datetime.datetime, name: str) -> str:
    """A snapshot's name: a time in UTC, and the release that asked for it."""
    return f"{now.astimezone(datetime.UTC):%Y%m%dT%H%M%S}-{name}"


def plain(quoted: str) -> str:
    """schema.table of a name as pg_dump writes it."""
    return ".".join((one or other).replace('""', '"') for one, other in PART.findall(quoted))


def rows_of(lines: Iterable[bytes]) -> dict[str, int]:
    """Rows of each table in a script that pg_restore wrote."""
    counts: dict[str, int] = {}
    table = ""
    for line in lines:
        if table:
            if line == b"\\.\n":
                table = ""
            else:
                counts[table] += 1
        elif found := COPY.match(line):
            table = plain(found[1].decode())
            counts.setdefault(table, 0)
    return counts


def differences(wanted: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Tables of which the dump does not hold all rows."""
    return [
        f"{table}: {found.get(table, 0)} of {count} rows"
        for table, count in sorted(wanted.items())
        if found.get(table, 0) != count
    ]


def room(wanted: int, free: int, keep_mb: int) -> None:
    """Raises BluegreenError if a dump of `wanted` bytes could fill the disk."""
    if free - wanted < keep_mb << 20:
        raise check_failed(
            "the disk has no room for the snapshot",
            f"{free >> 20} MB free, up to {-(-wanted >> 20)} MB needed, {keep_mb} MB must stay free",
            "make room on the migration host (sudo bluegreen prune --keep 2), then the same again",
        )


def check_recipient(recipient: str) -> None:
    """Raises BluegreenError (BAD_INPUT, NOT_PROVISIONED) if nothing can be encrypted for it."""
    if recipient and not RECIPIENT.fullmatch(recipient):
        raise bad_input(
            "migrations_snapshot_recipient is not a key of age", "it begins with age1 and has 62 characters"
        )
    if recipient and not shutil.which("age"):
        todo = "run ansible-playbook provision.yml: it installs age where migrations_snapshot_recipient is set"
        raise BluegreenError(Code.NOT_PROVISIONED, "age is not installed", "the snapshot is to be encrypted", todo)


def take(
    context: Context, name: str, aliases: Sequence[str], places: Mapping[str, Any], why: Sequence[str], recipient: str
) -> dict[str, Any]:
    """Dump the databases and verify the dumps. Returns what stands in <id>.json; nothing is left of one that fails."""
    check_recipient(recipient)
    started = time.monotonic()
    place = directory(context)
    place.mkdir(mode=0o700, exist_ok=True)
    made = identity(datetime.datetime.now(datetime.UTC), name)
    told: dict[str, Any] = {"id": made, "release": name, "deploy_id": context.deploy_id, "before": list(why)}
    told["databases"] = {}
    paths: list[Path] = []
    try:
        for alias in aliases:
            context.say(f"snapshot of {alias}")
            target = place / f"{made}-{alias}.dump{SEALED if recipient else ''}"
            paths.append(place / f".tmp-{target.name}")
            one = _write(context, name, {**places, "alias": alias}, paths[-1], recipient)
            os.rename(paths[-1], target)
            paths[-1] = target
            told["databases"][alias] = {**one, "file": target.name, "recipient": recipient}
        told["seconds"] = round(time.monotonic() - started, 2)
        files.write_json(place / f"{made}.json", told, 0o600)
    except BaseException:
        for path in paths:
            files.remove_file(path)
        raise
    context.state.append_history("snapshot", snapshot=made, release=name, seconds=told["seconds"], before=list(why))
    return told


def _write(context: Context, name: str, order: Mapping[str, Any], path: Path, recipient: str) -> dict[str, Any]:
    """One database into a file, verified, and encrypted if there is a recipient. Returns what `_dump` does."""
    with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as dump:
        if recipient:
            path.unlink()
        one = _dump(context, name, order, dump, path.parent, copies=2 if recipient else 1)
        verify(dump, one)
        if recipient:
            seal(dump, recipient, path)
    return one


def seal(dump: IO[bytes], recipient: str, path: Path) -> None:
    """Encrypt a dump into a file. Raises BluegreenError."""
    os.lseek(dump.fileno(), 0, os.SEEK_SET)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        words = ("age", "-r", recipient)
        done = subprocess.run(words, stdin=dump, stdout=out, stderr=subprocess.PIPE, timeout=PATIENCE, check=False)
        os.fsync(out.fileno())
    if done.returncode:
        said = units.last_line(done.stderr.decode("utf-8", "replace"))
        raise check_failed("the snapshot could not be encrypted", said, "nothing was changed; the same again")


def _dump(
    context: Context, name: str, order: Mapping[str, Any], out: IO[bytes], place: Path, copies: int
) -> dict[str, Any]:
    """One database into a file. Returns what the job told of it, with the file's digest and size.

    copies: of it, for which `place` must have room.
    """
    images.require_open(context.paths, context.config, release.image_of(context.paths, name))
    words = (jobs.python(context, name), "-c", jobs.SCHEMA % jobs.PROGRAM, "dump")
    command = jobs.command_line(context, name, f"bluegreen-snapshot-{context.app}", words)

    def keep(stream: IO[bytes]) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(stream.readline())
        except ValueError:
            return {}
        if error := told.get("error"):
            raise BluegreenError(Code.CHECK_FAILED, str(error["what"]), str(error["why"]), str(error["next"]))
        room(copies * int(told["bytes"]), shutil.disk_usage(place).free, context.config.min_free_mb)
        digest, size = hashlib.sha256(), 0
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
        return {**told, "sha256": digest.hexdigest(), "size": size}

    status, told, said = units.stream(command, json.dumps(order), keep, PATIENCE)
    if status or not told:
        raise check_failed(
            "the snapshot could not be taken", units.last_line(said), "nothing was changed; the same again"
        )
    return told


def verify(dump: IO[bytes], told: Mapping[str, Any]) -> None:
    """Read a dump as a restore would. Raises BluegreenError unless it lists, and every table has all its rows."""
    _pg_restore(dump, ["--list"], lambda stream: sum(1 for _ in stream))
    found = _pg_restore(dump, ["--data-only", "-f", "-"], rows_of)
    if wrong := differences(told["rows"], found):
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise check_failed("the snapshot does not hold what it should", f"{wrong[0]}{more}", "the same again")


def _pg_restore(dump: IO[bytes], options: Sequence[str], read: Any) -> Any:
    """What pg_restore says about a dump; it runs without privileges, for what it reads is the application's."""
    probe = images.probe_account()
    rights: dict[str, Any] = {"user": probe.pw_uid, "group": probe.pw_gid, "extra_groups": []} if probe else {}
    os.lseek(dump.fileno(), 0, os.SEEK_SET)
    try:
        with subprocess.Popen(
            ["pg_restore", *options], stdin=dump, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, cwd="/", **rights,
        ) as child:  # fmt: skip
            assert child.stdout is not None
            assert child.stderr is not None
            answer = read(child.stdout)
            said = child.stderr.read().decode("utf-8", "replace")
    except FileNotFoundError:
        raise check_failed("pg_restore is not installed", "", "run ansible-playbook provision.yml") from None
    if child.returncode:
        raise check_failed("the snapshot cannot be read", units.last_line(said), "the same again")
    return answer


def kept(context: Context) -> list[dict[str, Any]]:
    """The snapshots of this host, newest first."""
    found = [files.read_json(path) for path in directory(context).glob("*.json")]
    return sorted((dict(one) for one in found if one), key=lambda one: str(one["id"]), reverse=True)


def dump_of(context: Context, database: Mapping[str, Any]) -> Path:
    """Where the dump of a database of a snapshot is read; of an encrypted one, where the decrypted one is handed in."""
    return directory(context) / str(database["file"]).removesuffix(SEALED)


def forget_handed_in(context: Context, one: Mapping[str, Any]) -> None:
    """Remove what was handed in of an encrypted snapshot."""
    for database in one["databases"].values():
        if database.get("recipient"):
            files.remove_file(dump_of(context, database))


def prune(context: Context, keep: int) -> list[str]:
    """Remove all but the newest `keep`. What a killed call left aside goes too, and what was handed in."""
    there = kept(context)
    doomed = there[max(1, keep) :]
    for one in there:
        forget_handed_in(context, one)
    for one in doomed:
        files.remove_file(directory(context) / f"{one['id']}.json")
        for database in one["databases"].values():
            files.remove_file(directory(context) / str(database["file"]))
    if directory(context).is_dir():
        files.sweep(directory(context))
    return [str(one["id"]) for one in doomed]
