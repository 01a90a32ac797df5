"""Known vulnerabilities of what an artifact holds and of what a lock file names, by pip-audit. Fails closed.

pip-audit leaves out a package that it cannot look up and reports success, unless it is told to be strict.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support.common import Failure, program

PURL = re.compile(r"pkg:pypi/(?P<name>[A-Za-z0-9._-]+)@(?P<version>[A-Za-z0-9.!+_%-]+)(?:[?#].*)?")
PIN = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^\]]*\])?\s*===?\s*(?P<version>[A-Za-z0-9.!+_-]+)(?:\s*;.*|\s+--.*)?"
)
BRINGS_MORE = re.compile(r"-(?:[re]|-requirement|-editable)")  # options that name what is not in this file


def of_sbom(sbom: Mapping[str, Any]) -> set[tuple[str, str]]:
    """The Python packages of a CycloneDX SBOM: names and versions. Raises ValueError where one cannot be read."""
    found = set()
    for part in sbom.get("components") or []:
        matched = PURL.fullmatch(str(part.get("purl") or ""))
        if part.get("type") == "library" and not matched:
            raise ValueError(f"{part.get('name')} has no package URL of PyPI")
        if matched:
            found.add((matched["name"].lower(), matched["version"]))
    return found


def of_lock(text: str) -> set[tuple[str, str]]:
    """The pinned packages of a requirements file. Raises ValueError for a line that names anything else."""
    found = set()
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        said = re.sub(r"(?:^|\s)#.*", "", line).strip()
        if not said or (said.startswith("-") and not BRINGS_MORE.match(said)):
            continue
        matched = PIN.fullmatch(said)
        if not matched:
            raise ValueError(f"{said[:80]} is no package with one version: it must be name==version")
        found.add((matched["name"].lower(), matched["version"]))
    return found


def packages(path: Path) -> set[tuple[str, str]]:
    """What a file names. Raises Failure if it names nothing: an empty list has no vulnerabilities."""
    try:
        text = path.read_text(encoding="utf-8")
        found = of_sbom(json.loads(text)) if path.suffix == ".json" else of_lock(text)
    except (OSError, ValueError) as problem:
        raise Failure(f"{path} cannot be read: {problem}", 2) from None
    if not found:
        raise Failure(f"{path} names no package: it must be an SBOM (CycloneDX, .json) or pinned requirements", 2)
    return found


def main(arguments: list[str]) -> int:
    """Scan the files; returns 0 if nothing is known of any package, 1 if something is, or not everything was found."""
    parser = argparse.ArgumentParser(prog="scan", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="an SBOM (.json) or pinned requirements")
    parser.add_argument("--ignore", action="append", default=[], metavar="ID", help="a vulnerability that was judged")
    options = parser.parse_args(arguments)
    found = sorted(set().union(*(packages(path) for path in options.files)))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.writelines(f"{name}=={version}\n" for name, version in found)
        pins.flush()
        command = [program("pip-audit"), "--strict", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
        command += ["-r", pins.name]
        command += [word for name in options.ignore for word in ("--ignore-vuln", name)]
        status = subprocess.run(command, check=False).returncode
    print(f"{len(found)} packages scanned: {'nothing is known' if status == 0 else 'see above'}")
    return min(status, 1)
