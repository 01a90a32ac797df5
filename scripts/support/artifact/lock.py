"""Requirements in, one hash-locked set out: the pure part of locking.

uv resolves; these functions refuse what cannot be locked, and see to it that hashes the project already
names are the ones that are installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from support.artifact.errors import BuildError, InputError

PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*===?\s*(?P<version>[^\s;,#*]+)")
HASH = re.compile(r"--hash[=\s]\s*(?P<hash>[a-z0-9]+:[0-9a-fA-F]+)")
INCLUDE = re.compile(r"(?:-r|--requirement|-c|--constraint)[=\s]?\s*(?P<file>\S+)")
OPTION = re.compile(
    r"(?P<name>-i|--index-url|--extra-index-url|--no-index|-f|--find-links|--no-binary|--only-binary)\b"
)
VCS = re.compile(r"(?:^|[\s@])(?:git|hg|svn|bzr)\+")
LOCAL = re.compile(r"^(?:\.{0,2}/|\.$|file:|[^\s;@=<>~!]+/)|@\s*(?:file:|\.{0,2}/)")


@dataclass(frozen=True)
class Line:
    """One logical line of a requirements file."""

    file: str
    number: int
    text: str


class Pin(NamedTuple):
    """A package's normalised name, and the one version that the project wants."""

    name: str
    version: str


def normalise(name: str) -> str:
    """A project's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def logical_lines(text: str, file: str) -> Iterator[Line]:
    """Lines with their continuations joined, without comments and blank lines."""
    joined, start = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        start = start or number
        # A comment line ends a continued one, as it does for pip.
        line = "" if raw.lstrip().startswith("#") else re.sub(r"\s+#.*$", "", raw)
        if line.rstrip().endswith("\\"):
            joined += line.rstrip()[:-1] + " "
            continue
        joined = (joined + line).strip()
        if joined:
            yield Line(file, start, joined)
        joined, start = "", 0
    if joined.strip():
        yield Line(file, start, joined.strip())


def read_requirements(path: Path, root: Path) -> list[Line]:
    """All logical lines of a requirements file and of the files it includes, inside `root`."""
    lines: list[Line] = []
    seen: set[Path] = set()

    def read(file: Path, named_by: str) -> None:
        resolved = file.resolve()
        if resolved in seen:
            return
        seen.add(resolved)
        if not resolved.is_relative_to(root.resolve()):
            raise InputError(f"{named_by} includes a file outside the repository: {file.name}")
        try:
            text = resolved.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{named_by} cannot be read at this commit: {type(error).__name__}") from error
        name = str(resolved.relative_to(root.resolve()))
        for line in logical_lines(text, name):
            included = INCLUDE.match(line.text)
            if included and "://" not in included["file"]:
                read(file.parent / included["file"], f"{name} line {line.number}")
            else:
                lines.append(line)

    read(path, f"app_requirements {path.name}")
    return lines


def refuse_unlockable(lines: list[Line]) -> None:
    """Raise InputError for a line that no hash can lock: editable, version control, local directory."""
    for line in lines:
        where = f"{line.file} line {line.number} ({line.text[:60]!r})"
        if re.match(r"(-e\b|--editable\b)", line.text):
            raise InputError(f"{where} is editable: code of the repository goes on app_pythonpath, leave the line out")
        if VCS.search(line.text):
            raise InputError(
                f"{where} points at version control, which has no hash: name a released version or an archive by URL"
            )
        if not line.text.startswith("-") and LOCAL.search(line.text):
            raise InputError(f"{where} is a local path: code of the repository goes on app_pythonpath, leave it out")


def pinned_hashes(lines: list[Line]) -> dict[Pin, list[str]]:
    """The hashes the project itself names, for each pinned version."""
    pins: dict[Pin, list[str]] = {}
    for line in lines:
        hashes = [found["hash"].lower() for found in HASH.finditer(line.text)]
        pin = PIN.match(line.text)
        if hashes and pin is None:
            raise InputError(f"{line.file} line {line.number} has hashes but no exact version: write name==version")
        if hashes and pin:
            known = pins.setdefault(Pin(normalise(pin["name"]), pin["version"]), [])
            known += [entry for entry in hashes if entry not in known]
    return pins


def index_options(lines: list[Line], root: PurePosixPath) -> list[str]:
    """The project's own options on where packages come from; local directories made absolute below `root`."""
    options = []
    for line in lines:
        found = OPTION.match(line.text)
        if found is None:
            continue
        value = line.text[found.end() :].lstrip(" =")
        if found["name"] in {"-f", "--find-links"} and "://" not in value:
            value = str(root / PurePosixPath(line.file).parent / value)
        options.append(f"{found['name']} {value}".strip())
    return options


def merge(resolved: str, pins: Mapping[Pin, list[str]]) -> str:
    """The resolved set, with the project's own hashes in place of the index's.

    Raises BuildError if a package came out in another version than the project's hashes are for, or without hashes.
    """
    names = {pin.name for pin in pins}
    out: list[str] = []
    for line in logical_lines(resolved, "the lock"):
        hashes = sorted({found["hash"] for found in HASH.finditer(line.text)})
        requirement = HASH.sub("", line.text).strip()
        pin = PIN.match(requirement)
        if pin and normalise(pin["name"]) in names:
            key = Pin(normalise(pin["name"]), pin["version"])
            if key not in pins:
                raise BuildError(f"{requirement} was resolved, but the project's hashes are for another version of it")
            hashes = sorted(pins[key])
        if not hashes:
            raise BuildError(f"{requirement} cannot be locked: the index gives no hash for it")
        out.append(" \\\n    ".join([requirement, *(f"--hash={entry}" for entry in hashes)]))
    return "".join(f"{entry}\n" for entry in out)


def names(lock: str) -> set[str]:
    """The packages of a lock, by their normalised names."""
    found = (re.match(r"[A-Za-z0-9._-]+", line.text) for line in logical_lines(lock, "the lock"))
    return {normalise(name[0]) for name in found if name}
