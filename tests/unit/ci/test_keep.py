"""An artifact is kept once, whole, and its manifest is the last to come."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[3]
NAME = f"shop-{'a' * 40}-01234567"
GH = """\
#!/bin/sh
echo "$*" >>"$PLACE/said"
case $2 in
  view) cat "$PLACE/release" ;;
  create) touch "$PLACE/release" ;;
  upload) [ ! -f "$PLACE/broken" ] || exit 1; shift 3; for one in "$@"; do basename "$one"; done >>"$PLACE/release" ;;
esac
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with one artifact, and a gh that keeps names in the file `release`."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gh").write_text(GH)
    (tmp_path / "bin" / "gh").chmod(0o755)
    (tmp_path / "store").mkdir()
    for ending in ("squashfs", "cdx.json", "json", "json.sig"):
        (tmp_path / "store" / f"{NAME}.{ending}").touch()
    return tmp_path


def keep(place: Path, name: str = NAME, release: str = "artifacts") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}", "PLACE": str(place)}
    words = [REPO / "scripts" / "keep-artifact", name, place / "store", release]
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def verbs(place: Path) -> list[str]:
    said = place / "said"
    return [line.split()[1] for line in said.read_text().splitlines()] if said.exists() else []


def test_a_release_is_made_and_the_manifest_comes_last(place: Path) -> None:
    assert keep(place).returncode == 0
    assert verbs(place) == ["view", "create", "upload", "upload"]
    kept = [line for line in (place / "release").read_text().splitlines() if line.startswith("shop")]
    assert sorted(kept[:3]) == sorted(f"{NAME}.{ending}" for ending in ("squashfs", "cdx.json", "json.sig"))
    assert kept[3:] == [f"{NAME}.json"]


def test_what_is_kept_stays_and_what_broke_off_is_completed(place: Path) -> None:
    (place / "broken").touch()
    assert keep(place).returncode != 0
    (place / "broken").unlink()
    assert keep(place).returncode == 0
    before = (place / "release").read_text()
    assert keep(place).returncode == 0
    assert (place / "release").read_text() == before
    assert verbs(place).count("create") == 1


@pytest.mark.parametrize(
    ("name", "release", "said"),
    [
        ("shop", "artifacts", "this is not the name of an artifact: 'shop'"),
        (NAME.replace("a", "b"), "artifacts", "has no manifest and image of shop-bbb"),
        (NAME, "--draft", "this is not the tag of a release: '--draft'"),
        (NAME, "a b", "this is not the tag of a release"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_asked(place: Path, name: str, release: str, said: str) -> None:
    done = keep(place, name, release)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr
    assert verbs(place) == []
