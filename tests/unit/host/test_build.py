"""The single-file program."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

import bluegreen
from bluegreen import build

PACKAGE = Path(bluegreen.__file__).parent
PYTHON = "/usr/bin/python3"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (build.write(tmp_path / name, build.pack(build.sources(PACKAGE))) for name in ("a", "b/c"))
    assert first == second
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b/c").read_bytes()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    with zipfile.ZipFile(tmp_path / "a") as archive:
        assert {"__main__.py", "bluegreen/cli.py", "bluegreen/__init__.py"} <= set(archive.namelist())
        assert not [name for name in archive.namelist() if "serve" in name], "release code is no part of it"


def test_installing_compiles_once(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "bluegreen"
    build.write(source, build.pack(build.sources(PACKAGE)))
    assert build.compile_installed(source, installed) is True
    assert build.compile_installed(source, installed) is False
    assert build.compile_installed(installed, installed) is False, "it can make itself again"
    with zipfile.ZipFile(installed) as archive:
        assert "bluegreen/cli.pyc" in archive.namelist()


@pytest.mark.skipif(not shutil.which(PYTHON), reason="needs the system's Python")
def test_it_runs_with_nothing_but_the_system_python(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "bluegreen"
    build.write(source, build.pack(build.sources(PACKAGE)))
    subprocess.run([PYTHON, "-IS", source, "compile", installed], check=True, capture_output=True, cwd="/", timeout=60)
    done = subprocess.run(
        [PYTHON, "-IS", installed, "--version"], check=False, capture_output=True, text=True, cwd="/", timeout=60
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, bluegreen.__version__, "")
    assert installed.read_bytes().startswith(b"#!/usr/bin/python3 -IS\n")
    done = subprocess.run(
        [PYTHON, "-IS", installed, "status", "--app", "no-such-application"],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
    )
    assert done.returncode == 7
    assert "was not provisioned for no-such-application" in done.stderr
    assert "Traceback" not in done.stderr
