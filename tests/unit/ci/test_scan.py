"""A scan looks at every package, or fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.ci import scan
from support.common import Failure

REPO = Path(__file__).parents[3]


def test_both_kinds_of_files_are_read() -> None:
    part = {"type": "library", "name": "Django", "purl": "pkg:pypi/Django@5.2.1"}
    assert scan.of_sbom({"components": [part, {"type": "application", "name": "x"}]}) == {("django", "5.2.1")}
    lock = "# x==1\n--index-url https://packages.example.org/simple\n\nDjango==5.2.1 \\\n    --hash=sha256:ab \\\n"
    lock += "    --hash=sha256:cd\n    # via x\n-c limits.txt\n"
    lock += "celery[redis]==5.5 ; python_version > '3'\nuvloop == 1.0rc1+local  # fast\n"
    assert scan.of_lock(lock) == {("django", "5.2.1"), ("celery", "5.5"), ("uvloop", "1.0rc1+local")}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bom.json", json.dumps({"components": [{"type": "library", "name": "x"}]})),
        ("bom.json", "{}"),
        ("bom.json", "no JSON"),
        ("requirements.txt", "# nothing\n"),
        *(
            ("requirements.txt", f"a==1\n{line}\nb==2\n")
            for line in (
                "x",
                "x>=1",
                "x==1.*",
                "x==1,!=1.1",
                "x @ git+https://example.org/x",
                "./x",
                "https://example.org/x.whl",
            )
        ),
        *(("requirements.txt", f"a==1\n{line}\n") for line in ("-r o.txt", "-ro.txt", "--requirement=o.txt", "-e .")),
    ],
)
def test_what_cannot_be_scanned_is_no_success(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(Failure):
        scan.packages(tmp_path / name)


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 1), (2, 1)])
def test_the_scan_is_strict_and_its_failure_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, expected: int
) -> None:
    (tmp_path / "lock.txt").write_text("a==1\n")
    (tmp_path / "pip-audit").write_text(f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/said\nexit {status}\n')
    (tmp_path / "pip-audit").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert scan.main([str(tmp_path / "lock.txt")]) == expected
    assert (tmp_path / "said").read_text().startswith("--strict --disable-pip ")


def test_a_command_signs_with_a_key_that_it_does_not_see(tmp_path: Path, private_key: str) -> None:
    message = tmp_path / "message"
    message.write_text("x")
    script = f'env > {tmp_path}/env; ssh-keygen -q -Y sign -n test -f "$1" {message}; ssh-add -L > {tmp_path}/agent'
    command = [sys.executable, REPO / "scripts" / "with-key", "--", "sh", "-c", script, "sh", "@key"]
    done = subprocess.run(command, env=os.environ | {"BLUEGREEN_SIGNING_KEY": private_key}, check=False)
    assert done.returncode == 0
    assert "BEGIN SSH SIGNATURE" in (tmp_path / "message.sig").read_text()
    assert "PRIVATE KEY" not in (tmp_path / "env").read_text()
    socket = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())["SSH_AUTH_SOCK"]
    assert not Path(socket).parent.exists()


def test_without_a_key_the_command_does_not_run(tmp_path: Path) -> None:
    command = [sys.executable, REPO / "scripts" / "with-key", "touch", tmp_path / "ran"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n"), (tmp_path / "ran").exists()) == (3, 1, False)
    assert "BLUEGREEN_SIGNING_KEY is missing" in done.stderr
