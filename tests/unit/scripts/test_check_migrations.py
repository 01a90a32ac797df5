"""The gate for pull requests: words in, exit status and annotations out."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import check_migrations as gate
from support.common import Failure

REASON: dict[str, Any] = {
    "rule": "x", "verdict": "refused", "table": "public.t", "column": "a", "why": "50% gone", "instead": "do\nthis",
    "releases": 2, "line": 7,
}  # fmt: skip


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("postgresql://u:p%40@h:5/n", {"HOST": "h", "PORT": "5", "USER": "u", "PASSWORD": "p@", "NAME": "n"}),
        (
            "postgres:///n?host=/run/x&port=5433&user=u",
            {"HOST": "/run/x", "PORT": "5433", "USER": "u", "PASSWORD": "", "NAME": "n"},
        ),
        (
            "postgres://h/n?sslmode=require",
            {"HOST": "h", "PORT": "", "USER": "", "PASSWORD": "", "NAME": "n", "OPTIONS": {"sslmode": "require"}},
        ),
    ],
)
def test_a_url_becomes_an_entry_of_databases(url: str, entry: dict[str, Any]) -> None:
    assert gate.parse_url(url) == entry


@pytest.mark.parametrize(
    "url", ["mysql://u:hunter2@h/n", "postgresql://u:hunter2@h", "postgresql://u:hunter2@h:x/n", "hunter2"]
)
def test_a_wrong_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(Failure, match="postgresql://user@host:5432/name") as caught:
        gate.parse_url(url)
    assert caught.value.code == gate.BAD_INPUT
    assert "hunter2" not in str(caught.value)


def test_databases_are_named_by_alias_and_may_stand_in_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://h/two\n")
    found = gate.databases(["postgresql://h/one?a=b", f"other=@{tmp_path / 'url'}"])
    assert {alias: entry["NAME"] for alias, entry in found.items()} == {"default": "one", "other": "two"}


def test_github_is_told_file_line_and_what_to_write_instead() -> None:
    item = {
        "app": "shop",
        "name": "0002_x",
        "file": "shop/migrations/0002_x.py",
        "reasons": [REASON, {**REASON, "verdict": "safe"}],
    }
    lines = gate.workflow_commands({"problems": [{**REASON, "verdict": "needs_approval"}], "migrations": [item]})
    assert lines == [
        "::warning title=migrations::public.t.a: 50%25 gone%0Ado%0Athis",
        "::error file=shop/migrations/0002_x.py,line=7,title=shop.0002_x::public.t.a: 50%25 gone%0Ado%0Athis",
    ]


def test_the_exit_status_tells_the_verdict_and_nothing_else_has_these() -> None:
    assert gate.STATUS == {"safe": 0, "refused": 1, "needs_approval": 2}
    assert not {gate.BAD_INPUT, gate.NOT_JUDGED} & set(gate.STATUS.values())
    assert [gate.status_of(verdict, True) for verdict in gate.STATUS] == [0, 1, 0]
    assert [gate.status_of(verdict, False) for verdict in gate.STATUS] == [0, 1, 2]


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    def run(*words: str) -> None:
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    run("init", "-q")
    (tmp_path / "manage.py").write_text('os.environ.setdefault("DJANGO_SETTINGS_MODULE", "site.conf")\n')
    run("add", ".")
    run("commit", "-qm", "one")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--base", "nothing"], "--base nothing: .* has no such commit"),
        (["--base", "HEAD", "--head", "--upload-pack=x"], "see --help"),
        (["--base", "HEAD", "--database", "what"], "postgresql://user@host:5432/name"),
        (["--base", "HEAD", "--project", "../.."], "there is no such directory"),
        (["--base", "HEAD", "--format", "xml"], "see --help"),
        ([], "--base; see --help"),
    ],
)
def test_bad_input_is_one_line_and_64_and_leaves_no_tree_behind(repo: Path, words: list[str], said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        gate.main(["--repo", str(repo), *words])
    assert caught.value.code == gate.BAD_INPUT
    assert gate.git(repo, "worktree", "list").count("\n") == 0


def test_what_is_no_repository_is_said(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="not a git repository") as caught:
        gate.main(["--repo", str(tmp_path), "--base", "HEAD"])
    assert caught.value.code == gate.BAD_INPUT


def test_a_python_that_is_not_there_is_70(repo: Path) -> None:
    with pytest.raises(Failure, match="cannot be run") as caught:
        gate.main(["--repo", str(repo), "--base", "HEAD", "--python", "/nonexistent", "--database", "postgresql://h/n"])
    assert caught.value.code == gate.NOT_JUDGED


def test_a_python_is_where_the_words_were_typed(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs run in the trees of the two commits, where no virtualenv is."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin/python"
    python.write_text('#!/bin/sh\necho \'{"error": {"code": 1, "what": "it was called", "why": "", "next": ""}}\'\n')
    python.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    words = ["--repo", str(repo), "--base", "HEAD", "--database", "postgresql://h/n"]
    for given in (["--python", "bin/python"], ["--python", "/nonexistent", "--base-python", "./bin/python"]):
        with pytest.raises(Failure, match="it was called"):
            gate.main([*words, *given])
    assert gate.program("python3") == "python3", "found by PATH"


def test_settings_are_those_of_manage_py(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    assert gate.settings_of(repo, None) == "site.conf"
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "b")
    assert gate.settings_of(repo, None) == "b"
    assert gate.settings_of(repo, "c") == "c"
