"""scripts/report: draws a report.json again, and refuses in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.common import REPO

REPORT = {"app": "orders", "sha": "3f9c2a7b51e04d6f8a90b1c2d3e4f5061728394a", "ending": "live", "hosts": ["web1"]}


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "scripts" / "report"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_writes_beside_the_report_or_where_it_is_told(tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(REPORT))
    done = program(source)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report.html"))
    assert "3f9c2a7b51e0" in (tmp_path / "report.html").read_text()
    assert program(source, "-o", tmp_path / "x.html").returncode == 0
    assert (tmp_path / "x.html").read_text() == (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (None, [], "No such file"),
        ("{", [], "is not JSON"),
        ("[]", [], "must be an object"),
        ("{}", ["-o", "report.json"], "another name"),
        ("{}", ["-o", "nowhere/x.html"], "cannot write"),
    ],
)
def test_the_program_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("report.json").write_text(content)
    done = program("report.json", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert content is None or Path("report.json").read_text() == content
