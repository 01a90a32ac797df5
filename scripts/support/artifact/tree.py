"""The finished tree of an image: made uniform, and its digests."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from support.artifact.errors import BuildError
from support.artifact.store import sha256


def settle(root: Path) -> dict[str, str]:
    """Give every file a mode that does not depend on who built it; return {relative path: sha256} of regular files.

    Directories 0755, files 0644 or 0755. Raises BuildError for sockets, pipes and devices.
    """
    digests: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        Path(folder).chmod(0o755)
        for name in sorted(files):
            path = Path(folder, name)
            kind = path.lstat().st_mode
            if stat.S_ISREG(kind):
                path.chmod(0o755 if kind & 0o111 else 0o644)
                digests[path.relative_to(root).as_posix()] = sha256(path)
            elif not stat.S_ISLNK(kind):
                raise BuildError(f"the build left {path.relative_to(root)}, which is no file, directory or link")
    return dict(sorted(digests.items()))


def remove(root: Path) -> None:
    """Remove a tree, also where directories in it were made read-only."""
    for folder, folders, _ in os.walk(root):
        for name in folders:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root)
