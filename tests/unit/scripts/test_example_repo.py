"""The examples' histories are rebuilt the same way everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from support import example_repo  # noqa: E402


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A tiny history of three releases: one file added, changed, deleted."""
    history = tmp_path / "examples" / "tiny" / "history"
    for name, files in {"t1": {"a.txt": "1\n", "run": "#!/bin/sh\n"}, "t2": {"a.txt": "2\n"}, "t10": {"b": ""}}.items():
        (history / name / "files").mkdir(parents=True)
        (history / name / "message").write_text(f"Release {name}\n")
        for path, content in files.items():
            (history / name / "files" / path).write_text(content)
    (history / "t10" / "deleted").write_text("a.txt\n")
    return tmp_path / "examples"


def test_releases_are_laid_over_each_other(examples: Path, tmp_path: Path) -> None:
    releases = example_repo.prepare("tiny", tmp_path / "out", examples)
    assert [(release.name, release.subject) for release in releases] == [
        ("t1", "Release t1"),
        ("t2", "Release t2"),
        ("t10", "Release t10"),
    ]
    assert git(tmp_path / "out", "show", "t2:a.txt") == "2\n"
    assert git(tmp_path / "out", "ls-tree", "--name-only", "t10").split() == ["b", "run"]
    assert git(tmp_path / "out", "ls-tree", "t1", "run").startswith("100755")
    assert git(tmp_path / "out", "status", "--porcelain") == ""


@pytest.mark.parametrize("app", ["orders", "notes"])
def test_commits_do_not_depend_on_the_machine(app: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = example_repo.prepare(app, tmp_path / "first")
    (tmp_path / "config").write_text("[core]\nautocrlf = true\n[user]\nname = Somebody\n[commit]\ngpgsign = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert example_repo.prepare(app, tmp_path / "second") == first
    assert len({release.sha for release in first}) == len(first)


def test_orders_has_the_releases_that_the_tests_deploy(tmp_path: Path) -> None:
    example_repo.prepare("orders", tmp_path / "out")
    names = [f"r{number}" for number in range(1, 13)]
    assert git(tmp_path / "out", "rev-list", "--count", "main").strip() == str(len(names))
    assert set(git(tmp_path / "out", "tag", "--list", "--merged", "main").split()) == set(names)
    for name in names:
        assert f'VERSION = "{name[1:]}"' in git(tmp_path / "out", "show", f"{name}:shop/version.py")
        hashed = "--hash=sha256:" in git(tmp_path / "out", "show", f"{name}:requirements.txt")
        assert hashed == (int(name[1:]) >= 5)


def test_another_way_begins_where_it_says_and_leaves_main_alone(examples: Path, tmp_path: Path) -> None:
    way = examples / "tiny" / "history" / "u2"
    (way / "files").mkdir(parents=True)
    (way / "message").write_text("Another way")
    (way / "files" / "other.txt").write_text("")
    (way / "after").write_text("t1\n")
    example_repo.prepare("tiny", tmp_path / "out", examples)
    assert (
        git(tmp_path / "out", "rev-parse", "u2^", "t10^").split()
        == git(tmp_path / "out", "rev-parse", "t1", "t2").split()
    )
    assert git(tmp_path / "out", "ls-tree", "--name-only", "u2").split() == ["a.txt", "other.txt", "run"]
    assert git(tmp_path / "out", "symbolic-ref", "--short", "HEAD").strip() == "main"


def test_an_up_to_date_repository_is_left_alone(examples: Path, tmp_path: Path) -> None:
    example_repo.prepare("tiny", tmp_path / "out", examples)
    (tmp_path / "out" / "mine").write_text("work in progress")
    example_repo.prepare("tiny", tmp_path / "out", examples)
    assert (tmp_path / "out" / "mine").exists()


@pytest.mark.parametrize(
    ("app", "make", "says"),
    [
        ("tiny", "directory", "holds something else"),
        ("tiny", "file", "is a file"),
        ("nothing", "", "choose one of tiny"),
    ],
)
def test_bad_input_changes_nothing(app: str, make: str, says: str, examples: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if make == "directory":
        target.mkdir()
        (target / "precious").write_text("")
    elif make == "file":
        target.write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(example_repo.ExampleError, match=says):
        example_repo.prepare(app, target, examples)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_prints_json(tmp_path: Path) -> None:
    program = [sys.executable, str(SCRIPTS / "example-repo")]
    command = [*program, str(tmp_path / "out"), "--app", "notes", "--format", "json"]
    said = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert said["app"] == "notes"
    assert [release["name"] for release in said["releases"]] == ["n1", "n2", "n3"]
    assert all(len(release["sha"]) == 40 for release in said["releases"])


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "example-repo"), str(tmp_path / "out"), "--app", "unknown"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "out").exists()
