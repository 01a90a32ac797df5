"""The finished tree of an image: made uniform, and its digests."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from bluegreen import contents
from support.artifact.errors import BuildError, InputError
from support.artifact.store import sha256


def settle(root: Path, place: str) -> dict[str, str]:
    """Give every file a mode that does not depend on who built it; return {relative path: sha256} of regular files.

    place: the path that the tree will have on a host. Directories 0755, files 0644 or 0755. Raises BuildError for what
    no host would open: sockets, pipes, devices, and links that lead outside.
    """
    digests: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        Path(folder).chmod(0o755)
        for name in sorted([*files, *(name for name in folders if Path(folder, name).is_symlink())]):
            path = Path(folder, name)
            kind = path.lstat().st_mode
            if stat.S_ISLNK(kind):
                _check_link(path, root, place)
            if stat.S_ISREG(kind):
                path.chmod(0o755 if kind & 0o111 else 0o644)
                digests[path.relative_to(root).as_posix()] = sha256(path)
            elif not stat.S_ISLNK(kind):
                raise BuildError(f"the build left {path.relative_to(root)}, which is no file, directory or link")
    return dict(sorted(digests.items()))


def _check_link(path: Path, root: Path, place: str) -> None:
    inside, target = path.relative_to(root).as_posix(), str(path.readlink())
    if problem := contents.link_problem(inside, target, place):
        hint = "remove it, or make it relative" if inside.startswith("app/") else "see app_build_commands"
        raise InputError(f"{inside} is a link that {problem}: {target}; hosts do not open such an image; {hint}")


def remove(root: Path) -> None:
    """Remove a tree, also where directories in it were made read-only."""
    for folder, folders, _ in os.walk(root):
        for name in folders:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root)
