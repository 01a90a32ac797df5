"""A tag becomes a release only if the version and the changelog say the same."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
CHANGELOG = "# Changelog\n\n## 1.2.30\n- newest\n\n## 1.2.3 (2026-11-21)\n- this one\n- and that\n\n## 1.2.2\n- older\n"


def notes(place: Path, tag: str, version: str) -> subprocess.CompletedProcess[str]:
    (place / "scripts").mkdir()
    script = shutil.copy2(REPO / "scripts" / "release-notes", place / "scripts")
    (place / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')
    (place / "CHANGELOG.md").write_text(CHANGELOG)
    return subprocess.run([script, tag], capture_output=True, text=True, check=False)


def test_the_notes_are_the_section_of_the_version_and_no_other(tmp_path: Path) -> None:
    done = notes(tmp_path, "v1.2.3", "1.2.3")
    assert (done.returncode, done.stdout) == (0, "- this one\n- and that\n")


@pytest.mark.parametrize(
    ("tag", "version", "said"),
    [
        ("1.2.3", "1.2.3", "it must look like v1.2.3"),
        ("v1.2.3; id", "1.2.3", "it must look like v1.2.3"),
        ("v1.2.3", "1.2.4", "pyproject.toml has another version"),
        ("v1.2.4", "1.2.4", "has no section"),
    ],
)
def test_what_does_not_agree_is_no_release(tmp_path: Path, tag: str, version: str, said: str) -> None:
    done = notes(tmp_path, tag, version)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
