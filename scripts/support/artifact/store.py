"""The store: a directory in which an artifact is found only when all of it is there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bluegreen import signature
from support.artifact.errors import InputError
from support.common import write_atomic

SIGNATURE = ".json.sig"  # of the manifest
INDEX = "index.json"
ENDINGS = (".squashfs", ".json", SIGNATURE)


def sha256(path: Path) -> str:
    """sha256 (64 hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(store: Path, stem: str, trusted: Callable[[dict[str, Any], str], bool] | None = None) -> dict[str, Any] | None:
    """The manifest of a finished artifact, None if there is none (or a broken one, to be built again).

    trusted: judges a manifest and its signature; without it, any will do.
    """
    try:
        manifest = json.loads((store / f"{stem}.json").read_text(encoding="utf-8"))
        whole = (store / f"{stem}.squashfs").stat().st_size == manifest["image"]["bytes"]
        armoured = (store / f"{stem}{SIGNATURE}").read_text(encoding="utf-8") if trusted else ""
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole or not isinstance(manifest, dict) or manifest.get("artifact") != stem:
        return None
    return manifest if trusted is None or trusted(manifest, armoured) else None


def is_signed(store: Path, stem: str) -> bool:
    """Whether a signature lies beside the manifest; it is not verified here."""
    return (store / f"{stem}{SIGNATURE}").exists()


@contextlib.contextmanager
def building(store: Path, stem: str, waiting: str) -> Iterator[None]:
    """Hold the one right to build this artifact into this store; wait for another build of it."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        writable = os.access(store, os.W_OK | os.X_OK)
    except OSError as error:
        raise InputError(f"the artifact store {store} cannot be made: {error.strerror}") from error
    if not writable:
        raise InputError(f"the artifact store {store} is not writable: name another with --store DIR")
    with _lock(store / f".{stem}.lock", waiting):
        yield


@contextlib.contextmanager
def _lock(path: Path, waiting: str = "") -> Iterator[None]:
    """An exclusive lock on a file that is removed with it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    print(waiting, file=sys.stderr, flush=True)
                fcntl.flock(handle, fcntl.LOCK_EX)
            # Who held it before may have removed the file: then this lock is on nothing.
            if path.exists() and path.stat().st_ino == os.fstat(handle).st_ino:
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(handle)


def publish(store: Path, stem: str, image: Path, sbom: Path, manifest: dict[str, Any], armoured: str = "") -> None:
    """Move a finished build into the store: image and SBOM first, the manifest, which makes it an artifact, last.

    armoured: the manifest's signature; empty for none.
    """
    with tempfile.TemporaryDirectory(prefix=f".{stem}-", dir=store) as folder:
        made = {
            f"{stem}.squashfs": Path(folder, "image"),
            f"{stem}.cdx.json": Path(folder, "sbom"),
            **({f"{stem}{SIGNATURE}": Path(folder, "signature")} if armoured else {}),
            f"{stem}.json": Path(folder, "manifest"),
        }
        shutil.copyfile(image, made[f"{stem}.squashfs"])
        shutil.copyfile(sbom, made[f"{stem}.cdx.json"])
        made[f"{stem}.json"].write_bytes(signature.text(manifest))
        if armoured:
            made[f"{stem}{SIGNATURE}"].write_text(armoured, encoding="utf-8")
        for path in made.values():
            path.chmod(0o644)
            _sync(path)
        # An older manifest must not describe a newer image for a moment.
        for ending in (".json", SIGNATURE):
            (store / f"{stem}{ending}").unlink(missing_ok=True)
        for name, path in made.items():
            path.replace(store / name)
            _sync(store)

    write_index(store)


def write_index(store: Path) -> None:
    """List what the store holds in index.json: a web server that offers this directory is then an https store."""
    with _lock(store / ".index.lock"):
        names = sorted(path.name for path in store.iterdir() if path.name.endswith(ENDINGS) and path.name[0] != ".")
        names = [name for name in names if name != INDEX]
        write_atomic(store / INDEX, json.dumps({"format": 1, "files": names}, indent=1) + "\n")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
