"""Durable files: old or new, whatever happens in between."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bluegreen import files
from bluegreen.errors import BluegreenError, Code


class Boom(BaseException):
    """A kill at a system call."""


def broken(monkeypatch: pytest.MonkeyPatch, name: str, turn: int) -> Callable[[], bool]:
    """Make the `turn`-th call of os.<name> fail. Returns whether it came to that."""
    real, calls = getattr(os, name), [0]

    def call(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == turn:
            raise Boom
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)
    return lambda: calls[0] >= turn


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("name", ["open", "fsync", "fchmod", "rename", "fdopen"])
def test_a_write_cut_short_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, turn: int
) -> None:
    path = tmp_path / "active.json"
    files.write_json(path, {"release": "old"})
    with monkeypatch.context() as patch:
        happened = broken(patch, name, turn)
        try:
            files.write_json(path, {"release": "new"})
        except Boom:
            assert happened()
    assert files.read_json(path) in ({"release": "old"}, {"release": "new"})
    if not happened() or name == "fsync":
        assert [entry.name for entry in tmp_path.iterdir()] == ["active.json"]
    files.sweep(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["active.json"]


def test_the_content_is_on_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    for name in ("fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, name=name, real=real: (steps.append(name), real(*a))[1])
    files.write_json(tmp_path / "x", {})
    assert steps == ["fsync", "rename", "fsync"]


def test_modes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "secret", {}, 0o600)
    files.write_file(tmp_path / "open", b"\xff")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "open").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b'{"a": ', "not JSON"),
        (b"\0\0\0\0", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[1]", "it does not hold a JSON object"),
        (b'"text"', "it does not hold a JSON object"),
        (b"null", "it does not hold a JSON object"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "active.json"
    path.write_bytes(content)
    with pytest.raises(BluegreenError) as caught:
        files.read_json(path)
    assert caught.value.code is Code.REFUSED
    assert str(path) in str(caught.value)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_is_none(tmp_path: Path) -> None:
    assert files.read_json(tmp_path / "none") is None
    assert files.remove_file(tmp_path / "none") is False


def test_replace_symlink(tmp_path: Path) -> None:
    link = tmp_path / "blue"
    files.replace_symlink(link, "releases/a")
    files.replace_symlink(link, "releases/b")
    assert str(link.readlink()) == "releases/b"
    target = tmp_path / "real"
    target.mkdir()
    (target / "kept").touch()
    with pytest.raises(BluegreenError, match="is a real directory"):
        files.replace_symlink(target, "releases/c")
    assert (target / "kept").exists()
    # one that names a directory is replaced, not descended into
    files.replace_symlink(link, str(target))
    files.replace_symlink(link, "releases/d")
    assert str(link.readlink()) == "releases/d"


@pytest.mark.parametrize("name", ["symlink", "rename"])
def test_a_link_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    link = tmp_path / "route"
    files.replace_symlink(link, "routes/1")
    with monkeypatch.context() as patch:
        broken(patch, name, 1)
        with pytest.raises(Boom):
            files.replace_symlink(link, "routes/2")
    assert str(link.readlink()) == "routes/1"
    files.replace_symlink(link, "routes/3")  # what was left aside is in nobody's way
    assert str(link.readlink()) == "routes/3"
    assert [entry.name for entry in tmp_path.iterdir()] == ["route"]


@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_directory_aside_leaves_nothing_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with monkeypatch.context() as patch:
        broken(patch, name, 1)
        with pytest.raises(Boom), files.directory_aside(tmp_path / "final") as aside:  # noqa: PT012  its end raises
            (aside / "env").write_text("x")
            (aside / "link").symlink_to("/nowhere")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="mine"), files.directory_aside(tmp_path / "final") as aside:
        raise ValueError("mine")
    assert list(tmp_path.iterdir()) == []
    with files.directory_aside(tmp_path / "final") as aside:
        (aside / "env").write_text("x")
        assert not (tmp_path / "final").exists()
    assert (tmp_path / "final/env").read_text() == "x"


def test_remove_tree_never_leaves_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "release"
    (home / "sub").mkdir(parents=True)
    (home / ".complete").touch()
    with monkeypatch.context() as patch:
        broken(patch, "unlink", 1)
        with pytest.raises(Boom):
            files.remove_tree(home)
    assert not home.exists()
    assert len(files.sweep(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == []
    files.remove_tree(home)  # nothing there: nothing to do


def test_sweep_takes_only_what_was_left_aside(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / ".complete").touch()
    (tmp_path / ".tmp-file").touch()
    (tmp_path / ".tmp-dir").mkdir()
    (tmp_path / ".tmp-dir/x").touch()
    (tmp_path / ".tmp-link").symlink_to(kept)
    assert files.sweep(tmp_path) == [".tmp-dir", ".tmp-file", ".tmp-link"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".complete", "kept"]


def test_json_is_stable(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"b": 1, "a": "é"})
    assert json.loads((tmp_path / "a").read_bytes()) == {"a": "é", "b": 1}
    assert (tmp_path / "a").read_text().isascii()
