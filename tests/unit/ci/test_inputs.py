"""What scripts/deploy lets through to Ansible."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import gate
from support.ci import inputs
from support.common import Failure

INVENTORIES = Path(__file__).parents[3] / "inventories"


def refusal(*words: str) -> Failure:
    with pytest.raises(Failure) as caught:
        inputs.parse(words, INVENTORIES)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_deploy_becomes_variables_and_paths_only() -> None:
    request = inputs.parse(
        ["deploy", "--env=production", "--sha=abc123", "--canary=5,25", "--watch=30", "--wait=", "--retry-bad"]
    )
    assert request.variables == {"sha": "abc123", "canary": "5,25", "watch": "30", "retry_bad": True}
    words = inputs.words(request, [Path("/m/inputs.json"), Path("/m/secrets.json")])
    assert words == [
        "-i", str(INVENTORIES / "production"), "-e", "@/m/inputs.json", "-e", "@/m/secrets.json",
    ]  # fmt: skip


APPROVED = f"orders.0007_x@sha256:{'a' * 64}"


def test_a_migration_is_approved_with_who_and_why_and_a_store_is_a_directory() -> None:
    words = ["deploy", "--env=production", "--sha=abc123", f"--migrations-approve={APPROVED},{APPROVED}"]
    words += ["--migrations-approved-by=ann", "--migrations-approve-reason=80 rows (seen)", "--artifact-store=/a/b"]
    assert inputs.parse(words, INVENTORIES).variables == {
        "sha": "abc123", "migrations_approve": f"{APPROVED},{APPROVED}", "migrations_approved_by": "ann",
        "migrations_approve_reason": "80 rows (seen)", "artifact_store": "/a/b",
    }  # fmt: skip
    # a workflow always says who started it
    assert inputs.parse([*words[:3], "--migrations-approve=", "--migrations-approved-by="], INVENTORIES)


def test_a_refusal_asks_for_an_approval_in_the_words_of_this_command() -> None:
    error = gate.please(
        [{"app": "orders", "name": "0007_x", "verdict": "needs_approval", "reasons": [], "approval": APPROVED}],
        "a-release",
    )
    said = inputs.own_words(error.todo)
    token = re.search(inputs.APPROVAL, error.todo)
    assert token
    assert f"--migrations-approve {token[0]} --migrations-approved-by" in said
    assert "-e " not in said
    assert inputs.own_words("scripts/deploy status") == "scripts/deploy status"


def test_a_refusal_names_the_other_roads_in_the_words_of_this_command_too() -> None:
    item = {"app": "orders", "name": "0007_x", "verdict": "refused", "reasons": [], "approval": APPROVED, "bridge": []}
    late = inputs.own_words(gate.no([{**item, "late_possible": True}]).todo)
    assert late.endswith("the same with --migrations-late orders.0007_x")
    assert inputs.parse(["deploy", "--env", "staging", "--sha=abc1234", *late.split()[-2:]], INVENTORIES)
    window = inputs.own_words(gate.no([{**item, "window_possible": True}]).todo)
    assert window.endswith("the same with --migrations-maintenance-window")
    assert "--migrations-maintenance-window" in inputs.own_words(gate.please([item], "a-release").todo)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy", "--env", "production"], "--sha is missing"),
        (["deploy", "--env", "prod", "--sha", "abc123"], "there are local, production, staging"),
        (["deploy", "--env", "../production", "--sha", "abc123"], "is not an environment"),
        (["deploy", "--env", "production", "--sha", "abc123\n"], "it must be 6 to 40"),
        (["deploy", "--env", "production", "--sha", "ABC123"], "it must be 6 to 40"),
        (["deploy", "--env", "production", "--sha", "a" * 41], "it must be 6 to 40"),
        (["deploy", "--env", "production", "--sha", "abc123 canary=100"], "it must be 6 to 40"),
        (["deploy", "--env", "production", "--sha", "abc123", "--canary", "7"], "the nearest is 5"),
        (["deploy", "--env", "production", "--sha", "abc123", "--watch", "3601"], "0 to 3600 seconds"),
        (["rollback", "--env", "production", "--sha", "abc123"], "--sha is not for rollback"),
        (["rollback", "--env", "production", "--retry-bad"], "--retry-bad is not for rollback"),
        (["rollback", "--env", "production", "--report", "{{ x }}"], "it must be a directory"),
        (["deploy", "--env", "production", "--sha", "abc123", "--migrations-approve", "x"], "approvals as the refusal"),
        (
            ["deploy", "--env", "production", "--sha", "abc123", "--migrations-approve", APPROVED],
            "--migrations-approved-by is missing",
        ),
        (["rollback", "--env", "production", "--migrations-approve", APPROVED], "is not for rollback"),
        (["unlock", "--env", "production", "--lease", "a b"], "it must be the id of a lease"),
        (["migrate", "--env", "production"], "invalid choice"),
        (["status"], "--env"),
    ],
)
def test_bad_input_is_refused_in_one_line(words: list[str], said: str) -> None:
    assert said in str(refusal(*words))


@given(st.text(min_size=1).filter(lambda text: not inputs.re.fullmatch(r"[0-9a-f]{6,40}", text)))
def test_nothing_but_a_commit_is_a_sha(text: str) -> None:
    refusal("deploy", "--env=production", f"--sha={text}")


@given(
    st.sampled_from(sorted(inputs.OPTIONS)), st.text(max_size=12), st.sampled_from(["{{", "{%", "\n", "\0", "'", "$("])
)
def test_no_option_takes_a_template_or_a_second_line(name: str, text: str, part: str) -> None:
    refusal(inputs.OPTIONS[name].verbs[0], "--env=production", "--sha=abc123", f"--{name}={text}{part}{text}")
