"""Static files of a build: where STATIC_ROOT is, and which names never change their content."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path, PurePosixPath

from support.artifact.errors import InputError

# A part of at least 8 hex characters right before the ending(s): app.55e7cbb9ba48.css, main-3f2a1b4c.min.js.map
HASHED = re.compile(r"(?:^|[._-])(?P<hash>[0-9a-fA-F]{8,64})(?:\.[A-Za-z0-9]{1,10}){1,4}")
COMPRESSED = (".gz", ".br", ".zst")


def looks_hashed(name: str) -> bool:
    """Whether a file name carries a content hash; a date such as 20240131 is none."""
    found = re.search(HASHED.pattern + r"\Z", name)
    return found is not None and not _is_date(found["hash"])


def _is_date(digits: str) -> bool:
    if not digits.isdecimal() or len(digits) not in (8, 12, 14) or digits[:2] not in ("19", "20"):
        return False
    try:
        date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
    except ValueError:
        return False
    return True


def from_manifest(text: str) -> set[str]:
    """The hashed names a Django staticfiles.json lists; names it leaves as they were are not hashed."""
    try:
        paths = json.loads(text)["paths"]
        return {str(value) for key, value in paths.items() if key != value}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()


def hashed_names(root: Path) -> list[str]:
    """Sorted paths below `root` whose names carry a hash of their content."""
    present = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    listed: set[str] = set()
    manifest = root / "staticfiles.json"
    if manifest.is_file():
        listed = from_manifest(manifest.read_text(encoding="utf-8", errors="replace"))
    listed |= {name + ending for name in listed for ending in COMPRESSED}
    return sorted(name for name in present if name in listed or looks_hashed(PurePosixPath(name).name))


def relative_root(static_root: str, image: PurePosixPath, cwd: PurePosixPath) -> PurePosixPath | None:
    """STATIC_ROOT relative to the image's root, None if the application has none.

    Raises InputError where it is not in the source: what a build writes elsewhere is lost.
    """
    if not static_root:
        return None
    parts: list[str] = []
    for part in (cwd / static_root).parts:
        if part == "..":
            parts = parts[:-1] or parts
        elif part != ".":
            parts.append(part)
    path = PurePosixPath(*parts)
    source = image / "app"
    if source not in path.parents:
        raise InputError(
            f"STATIC_ROOT is {path}, outside the source {source}: set it below BASE_DIR "
            "(a setting for the build can be given in app_build_env)"
        )
    return path.relative_to(image)
