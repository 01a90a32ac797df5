"""Every labelled migration gets its verdict, for the reason that it was labelled for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import pytest

from tests.schema.conftest import REPO, run_json
from tests.schema.corpus.case import Case
from tests.schema.corpus.run import MODULES

CASES: list[Case] = [one for name in MODULES for one in importlib.import_module(f"tests.schema.corpus.{name}").CASES]
SPREAD = CASES if os.environ.get("BLUEGREEN_TEST_FULL") else CASES[::4]


@pytest.fixture(scope="module")
def tried(django: str) -> Mapping[str, Any]:
    """What the classifier said to all of them, in one throwaway server."""
    answer = run_json([django, "-m", "tests.schema.corpus.run", *(one.name for one in SPREAD)], cwd=REPO)
    cases: Mapping[str, Any] = answer["cases"]
    return cases


@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.name)
def test_a_migration_gets_its_verdict(case: Case, tried: Mapping[str, Any]) -> None:
    if case.name not in tried:
        pytest.skip(f"needs Django {case.django[0]}.{case.django[1]}")
    said = tried[case.name]
    assert said["verdict"] == case.label, "\n".join([case.why, *said["lines"]])
    assert set(case.rules) <= set(said["all_rules"]), said["lines"]


# A new rule on rows, and a partition less: whether what the live release writes is hit, a person has to say.
MAY_BREAK = {"new-check", "new-foreign-key", "detach", "drop-partition"}


@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.name)
def test_both_releases_write_and_read_on_the_new_schema_unless_it_was_refused(
    case: Case, tried: Mapping[str, Any]
) -> None:
    # Their models really do it, whatever the classifier thinks.
    said = tried.get(case.name) or {}
    if case.label != "refused" and not MAY_BREAK & set(said.get("all_rules") or ()):
        assert not said.get("before")
        assert not said.get("broke")
        assert not said.get("broke_new")


# That a view stands in the way, only a database knows.
UNSEEN = {"alter_column_under_a_view"}


@pytest.mark.parametrize("case", SPREAD, ids=lambda case: case.name)
def test_without_a_shadow_nothing_is_safe_that_is_not(case: Case, tried: Mapping[str, Any]) -> None:
    if case.name in tried and case.label != "safe" and case.name not in UNSEEN:
        assert tried[case.name]["static"] != "safe"


def test_the_corpus_has_one_name_for_each_and_enough_of_every_label() -> None:
    assert len({one.name for one in CASES}) == len(CASES) >= 80
    for label in ("safe", "needs_approval", "refused"):
        assert sum(one.label == label for one in CASES) >= 20
