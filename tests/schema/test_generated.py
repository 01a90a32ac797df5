"""Model changes made at random: what is not refused leaves both releases able to write and read."""

from __future__ import annotations

import os

from tests.schema.conftest import REPO, run_json

COUNT = 400 if os.environ.get("BLUEGREEN_TEST_FULL") else 40


def test_a_verdict_keeps_its_promise(django: str) -> None:
    told = run_json([django, "-m", "tests.schema.corpus.generated", "1", str(COUNT)], timeout=1800, cwd=REPO)
    assert not told["wrong"]
    counts = told["counts"]
    assert sum(counts[verdict] for verdict in ("safe", "needs_approval", "refused")) == COUNT
    # what is refused really breaks: the models of one of the releases, or the migration itself
    assert counts["refused and seen to break"] > 0.9 * counts["refused"] > 0
    assert counts["safe"] > COUNT / 6
