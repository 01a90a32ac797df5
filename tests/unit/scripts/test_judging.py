"""The simulation of judging: what its table says, and that it says the same again."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import judging as tool


@pytest.mark.parametrize(("found", "of", "share"), [(0, 800, 0.0034), (8, 800, 0.0177), (800, 800, 1.0)])
def test_the_bound_of_a_share(found: int, of: int, share: float) -> None:
    assert tool.bound(found, of) == pytest.approx(share, abs=0.0001)


def test_a_row_has_counts_and_the_spread_of_rounds() -> None:
    assert tool.cells([2, 4, 9, 24], 2000) == "4 of 2,000 | 6.5 (2, 24)"
    assert tool.cells([], 100) == "0 of 100 | –"


def test_the_same_seed_is_the_same_canaries() -> None:
    site = tool.Site(errors=(0.2, 0.0), seconds=30.0)
    assert tool.stopped(site, 5, seed=7) == tool.stopped(site, 5, seed=7) != []


def test_a_leak_begins_like_the_live_release() -> None:
    rng = tool.random.Random(1)
    site = tool.Site(errors=(1.0, 0.0), share=0.5, leak=True)
    failed = [
        sum(tally["server"] for tally in tool.one_round(rng, site, part)["green"].values()) for part in (0.0, 1.0)
    ]
    assert failed[0] == 0 < failed[1]


def test_too_few_runs_are_refused_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(["--runs", "5", "200", "--out", str(tmp_path / "out.md")])
    assert ended.value.code == 2
    assert "'5' is too few: at least 100 runs say something" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
