"""What must not stay: in memory where there is such a place, else on a disk with a warning, and removed in the end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from support.ci import private


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("tmpfs {} tmpfs rw 0 0\n", True),
        ("tmpfs {} tmpfs rw 0 0\n/dev/sda1 {} ext4 rw 0 0\n", False),  # mounted over
        ("/dev/sda1 / ext4 rw 0 0\n", False),
    ],
)
def test_only_a_file_system_in_memory_counts_as_memory(tmp_path: Path, mounts: str, found: bool) -> None:
    (tmp_path / "mounts").write_text(mounts.replace("{}", str(tmp_path)))
    assert private.in_memory(tmp_path, tmp_path / "mounts") is found
    assert not private.in_memory(tmp_path, tmp_path / "none")


def test_without_memory_secrets_lie_on_a_disk_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(private, "in_memory", lambda: False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with private.private() as place:
        written = place.write("secrets.json", "hunter2")
        assert written.parent.parent == tmp_path
        assert (written.parent.stat().st_mode & 0o777, written.stat().st_mode & 0o777) == (0o700, 0o600)
        guard = place.guard
    assert list(tmp_path.iterdir()) == []
    assert guard.wait(60) == 0
    said = capfd.readouterr()
    assert said.err == "deploy: /dev/shm cannot be used: secrets stand on a disk while this runs\n"
    assert "hunter2" not in said.out


def test_with_memory_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(private, "MEMORY", tmp_path)
    monkeypatch.setattr(private, "in_memory", lambda: True)
    with private.private() as place:
        assert place.path.parent == tmp_path
    assert capfd.readouterr().err == ""
