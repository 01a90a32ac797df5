"""Make the single-file program.

`python3 -m bluegreen.build OUT` on the controller: sources only, the same bytes for the same sources.
`bluegreen compile OUT` on a host: the same file with byte code of that host's Python, which halves the start-up time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import stat
import sys
import zipfile
from importlib._bootstrap_external import _code_to_hash_pyc  # type: ignore[attr-defined]
from pathlib import Path

SHEBANG = b"#!/usr/bin/python3 -IS\n"
MAIN = "import sys\nfrom bluegreen.cli import main\nsys.exit(main())\n"
EPOCH = (2020, 1, 1, 0, 0, 0)


def sources(package: Path) -> dict[str, bytes]:
    """File name in the program → content."""
    paths = sorted([*package.glob("*.py"), *package.glob("schema/*.py")])
    found = {f"bluegreen/{path.relative_to(package)}": path.read_bytes() for path in paths}
    return {"__main__.py": MAIN.encode(), **found}


def byte_code(files: dict[str, bytes]) -> dict[str, bytes]:
    """The compiled modules of this Python, never checked against their sources: both are in one file."""
    compiled = {}
    for name, content in files.items():
        if name.endswith(".py"):
            code = compile(content, name, "exec", dont_inherit=True, optimize=0)
            compiled[f"{name}c"] = bytes(_code_to_hash_pyc(code, importlib.util.source_hash(content), checked=False))
    return compiled


def pack(files: dict[str, bytes]) -> bytes:
    """The program's bytes. Stored, not compressed: reading is faster than unpacking."""
    buffer = io.BytesIO()
    buffer.write(SHEBANG)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    return buffer.getvalue()


def write(out: Path, content: bytes) -> str:
    """Replace `out` by the program. Returns its sha256."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".tmp-{out.name}")
    aside.write_bytes(content)
    aside.chmod(0o755)
    aside.rename(out)
    return hashlib.sha256(content).hexdigest()


def compile_installed(program: Path, out: Path) -> bool:
    """Write the program at `program` with byte code to `out`. True if that changed `out`."""
    with zipfile.ZipFile(program) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if name.endswith(".py")}
    content = pack({**files, **byte_code(files)})
    if out.exists() and out.read_bytes() == content:
        return False
    write(out, content)
    return True


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 -m bluegreen.build OUT")
    print(write(Path(sys.argv[1]), pack(sources(Path(__file__).parent))))
