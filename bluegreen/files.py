"""Durable files: a reader sees the old content or the new one, also after a power cut.

Write aside, fsync, rename, fsync the directory. Nothing else in the program writes state.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluegreen.errors import BluegreenError, Code

TEMPORARY_PREFIX = ".tmp-"


def fsync_directory(path: Path) -> None:
    """Make the names inside `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: str | Path) -> None:
    """Make a file's content durable. Opened for reading only: a child that was forked must not write through it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make every file and directory below `root` durable, children first."""
    for directory, _, names in os.walk(root, topdown=False):
        for name in names:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                fsync_file(path)
        fsync_directory(Path(directory))


def write_file(path: Path, content: str | bytes, mode: int = 0o644, gid: int | None = None) -> None:
    """Replace `path` by `content` atomically and durably."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, temporary = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            if gid is not None:
                os.fchown(stream.fileno(), -1, gid)
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    fsync_directory(path.parent)


def write_json(path: Path, value: object, mode: int = 0o644) -> None:
    """Replace `path` by `value` as JSON, atomically and durably."""
    write_file(path, json.dumps(value, indent=1, sort_keys=True) + "\n", mode)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is no such file.

    Raises BluegreenError when the file exists but does not hold an object: state is never guessed.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise BluegreenError(
            Code.REFUSED,
            f"{path} is damaged",
            f"not JSON: {problem}" if text else "the file is empty",
            "serving continues; restore the file from another host or a backup, or remove it if you know it is stale",
        ) from problem
    if not isinstance(value, dict):
        raise BluegreenError(Code.REFUSED, f"{path} is damaged", "it does not hold a JSON object")
    return value


def remove_file(path: Path) -> bool:
    """Remove `path` durably. True if it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    fsync_directory(path.parent)
    return True


def replace_symlink(link: Path, target: str) -> None:
    """Point `link` at `target` by one rename; a reader never finds it missing."""
    if link.is_dir() and not link.is_symlink():
        raise BluegreenError(
            Code.REFUSED,
            f"{link} is a real directory",
            "a link was expected",
            f"look, then move it away: mv {link} {link}.old",
        )
    temporary = link.parent / f"{TEMPORARY_PREFIX}{link.name}-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    os.symlink(target, temporary)
    os.rename(temporary, link)
    fsync_directory(link.parent)


def remove_tree(path: Path) -> None:
    """Remove a directory so that a crash never leaves half of it under its own name."""
    if not path.exists():
        return
    trash = path.parent / f"{TEMPORARY_PREFIX}trash-{path.name}-{os.getpid()}"
    os.rename(path, trash)
    fsync_directory(path.parent)
    shutil.rmtree(trash, ignore_errors=True)


def sweep(directory: Path) -> list[str]:
    """Remove what an interrupted run left aside in `directory`. Returns the names removed."""
    removed = []
    for entry in sorted(directory.glob(f"{TEMPORARY_PREFIX}*")):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
        removed.append(entry.name)
    return removed


@contextlib.contextmanager
def directory_aside(final: Path) -> Iterator[Path]:
    """A fresh directory that becomes `final` by one rename when the block ends well, and vanishes otherwise."""
    aside = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY_PREFIX}{final.name}-", dir=final.parent))
    try:
        yield aside
        fsync_tree(aside)
        os.rename(aside, final)
        fsync_directory(final.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
