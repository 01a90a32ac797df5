"""The example is checked by the commands of the workflow that its users call, and by no others."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from support import check_example  # noqa: E402
from support.common import Failure  # noqa: E402

WORKFLOW = yaml.safe_load(check_example.WORKFLOW.read_text(encoding="utf-8"))
CALLER = yaml.safe_load(check_example.CALLER.read_text(encoding="utf-8"))
HISTORY = SCRIPTS.parent / "examples" / "orders" / "history"


def test_every_step_of_the_workflow_that_checks_something_is_run() -> None:
    assert set(check_example.JOBS) == set(WORKFLOW["jobs"])
    for job in check_example.JOBS:
        steps = {step["name"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step}
        found = {command.name for command in check_example.commands(WORKFLOW, job, check_example.said_by(CALLER))}
        assert found == steps - set(check_example.LEFT_OUT)


def test_inputs_arrive_as_the_workflow_hands_them_on() -> None:
    tests = {one.name: one for one in check_example.commands(WORKFLOW, "tests", {"journey": "browser"})}
    assert tests["Test"].env == {"COVERAGE": "85", "NOT": "not browser"}
    assert tests["One journey in a browser"].env == {"ONLY": "browser", "REQUIRE_BROWSER": "1"}
    assert tests["Test"].directory == ""
    (judged,) = check_example.commands(WORKFLOW, "migrations", {"settings": "shop.settings"})
    assert judged.toolkit
    assert (judged.directory, judged.env["PROJECT"], judged.env["SETTINGS"]) == ("", ".", "shop.settings")


def test_the_inputs_are_those_of_the_example_s_own_caller() -> None:
    said = check_example.said_by(CALLER)
    assert (said["journey"], said["settings"]) == ("journey", "tests.settings")
    assert "coverage" not in said  # the workflow's default
    with pytest.raises(Failure, match="does not call"):
        check_example.said_by({"jobs": {"deploy": {"uses": "./.github/workflows/app-deploy.yml"}}})


@pytest.mark.parametrize(("strict", "expected"), [(True, "1"), (False, "")])
def test_only_a_machine_that_may_skip_does_without_a_browser(tmp_path: Path, strict: bool, expected: str) -> None:
    command = check_example.Command("One", 'printf "%s" "${REQUIRE_BROWSER-}"', "", {"REQUIRE_BROWSER": "1"})
    assert check_example.perform(command, tmp_path, {}, strict).output == expected


def test_a_step_whose_condition_does_not_hold_is_left_out() -> None:
    tests = {one.name: one for one in check_example.commands(WORKFLOW, "tests", {"journey": ""})}
    assert set(tests) == {"Test"}
    assert tests["Test"].env["NOT"] == ""


def test_an_expression_that_is_not_understood_is_not_guessed() -> None:
    with pytest.raises(Failure, match=r"github\.sha"):
        check_example.evaluate("x ${{ github.sha }}", {})


PYTEST = "==== {} in 3.21s ====\n"


@pytest.mark.parametrize(
    ("name", "status", "output", "strict", "word"),
    [
        ("Lint", 0, "", False, "ok"),
        ("Lint", 1, "", False, "FAIL"),
        ("One journey in a browser", 0, PYTEST.format("1 skipped, 40 deselected"), False, "skipped"),
        ("Test", 0, PYTEST.format("40 passed, 1 skipped"), False, "ok"),
        (check_example.AUDIT, 1, "ERROR: x could not be audited: x (1)", False, "skipped"),
        (check_example.AUDIT, 1, "ERROR: x could not be audited: x (1)", True, "FAIL"),
        (check_example.AUDIT, 1, "Found 1 known vulnerability\nx could not be audited", False, "FAIL"),
        ("Lint", 1, "x could not be audited", False, "FAIL"),
    ],
)
def test_only_what_could_not_be_asked_is_skipped(name: str, status: int, output: str, strict: bool, word: str) -> None:
    assert check_example.judged(name, status, output, strict) == word


@pytest.mark.parametrize(
    ("word", "output", "counts"),
    [
        ("ok", "", (1, 0)),
        ("FAIL", "", (0, 1)),
        ("skipped", "", (0, 0)),
        ("ok", PYTEST.format("40 passed, 1 skipped"), (40, 0)),
        ("FAIL", PYTEST.format("2 failed, 38 passed, 1 error"), (38, 3)),
        ("FAIL", PYTEST.format("40 passed"), (40, 1)),  # too little of the code
    ],
)
def test_tests_are_counted(word: str, output: str, counts: tuple[int, int]) -> None:
    assert check_example.Result("Test", word, 1.0, output).counts == counts


@pytest.mark.parametrize("path", sorted(HISTORY.glob("*/files/requirements-dev.txt")), ids=lambda path: path.parts[-3])
def test_the_tools_of_the_example_are_pinned_by_hash_and_name_no_index(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    pins = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert pins
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
    assert "://" not in text
    wanted = re.findall(r"^([a-z][a-z-]*)", path.with_suffix(".in").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(wanted) <= {pin.partition("==")[0] for pin in pins}
