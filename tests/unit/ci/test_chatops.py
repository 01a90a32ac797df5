"""Who may give a command in a comment, and what a comment can make of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ci import chatops
from support.common import Failure

JOB = {"ACTOR": "alice", "PERMITTED": "Alice, bob", "ENVIRONMENTS": "staging production, qa"}


def said(comment: str, **more: str) -> dict[str, str]:
    return chatops.read(JOB | {"COMMENT": comment} | more)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("/deploy production abc123", {"verb": "deploy", "environment": "production", "sha": "abc123"}),
        ("/canary qa abc123 5,25\r\n", {"verb": "deploy", "environment": "qa", "sha": "abc123", "canary": "5,25"}),
        ("/rollback production", {"verb": "rollback", "environment": "production"}),
        ("/rollback production abc123", {"verb": "rollback", "environment": "production", "to": "abc123"}),
        ("/status production", {"verb": "status", "environment": "production"}),
        ("please /deploy production abc123", {"verb": "none"}),
        ("/deployed yesterday", {"verb": "none"}),
    ],
)  # fmt: skip
def test_a_comment_is_a_command_or_none(comment: str, expected: dict[str, str]) -> None:
    assert said(comment) == expected


@pytest.mark.parametrize(
    ("comment", "more"),
    [
        ("/deploy production $(id)", {}),
        ("/deploy production abc123; id", {}),
        ("/deploy production abc123\n::set-output name=sha::def456", {}),
        ("/deploy production --env=x", {}),
        ("/canary production abc123 5\nsha=def456", {}),
        ("/deploy test abc123", {}),
        ("/deploy production abc123", {"ACTOR": "mallory"}),
        ("/deploy production abc123", {"ACTOR": ""}),
        ("/deploy production abc123", {"PERMITTED": ""}),
        ("/deploy production abc123", {"ENVIRONMENTS": ""}),
    ],
)
def test_an_injection_a_stranger_and_another_environment_are_refused(comment: str, more: dict[str, str]) -> None:
    with pytest.raises(Failure) as caught:
        said(comment, **more)
    assert caught.value.code == 4
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(chatops.COMMANDS)), st.text())
def test_an_output_is_one_plain_word(command: str, rest: str) -> None:
    try:
        found = said(f"/{command} {rest}")
    except Failure:
        return
    assert all(re.fullmatch(r"[a-z0-9_,-]+", value) for value in found.values())


def test_outputs_go_to_githubs_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (JOB | {"COMMENT": "/status staging", "GITHUB_OUTPUT": str(tmp_path / "out")}).items():
        monkeypatch.setenv(name, text)
    assert chatops.main([]) == 0
    assert (tmp_path / "out").read_text() == "verb=status\nenvironment=staging\nsha=\ncanary=\nto=\n"
