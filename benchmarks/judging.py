#!/usr/bin/env python3
"""How often judging stops a good release, and how soon it finds a bad one, by simulation: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from plugins.module_utils import bluegreen_judge as judge  # noqa: E402  the path first

RESULTS = REPO / "benchmarks" / "results" / "judging.md"
SEED = 20261121
ROUND = 5.0  # seconds
LIMITS = judge.Limits()
SLOWNESS = (0.02, 0.05, 0.1, 0.3)  # seconds: the medians of four groups of paths
VISITS = tuple(math.sqrt(place / 4) for place in (1, 2, 3, 4))  # how visitors spread over them, added up: 50, 71, 87 %
BUCKETS = range(300)  # of the histogram: up to 38 minutes


@dataclasses.dataclass(frozen=True)
class Site:
    """One canary: visitors in four groups of paths, whose latencies are log-normal.

    share and errors (of the new release, of the live one) are 0 to 1; factor: how many times slower the new release is;
    spread: σ of the latencies' logarithm. leak: the new release's errors and slowness grow evenly, from the live
    release's to these at the end. stall: share of all requests that fail in two rounds, whatever their release.
    """

    share: float = 0.1
    seconds: float = 120.0
    rate: float = 20.0  # requests per second
    errors: tuple[float, float] = (0.0, 0.0)
    factor: float = 1.0
    spread: float = 0.7
    silent: bool = False
    hosts: int = 1
    leak: bool = False
    stall: float = 0.0


def place(seconds: float) -> str:
    """The bucket of a latency, as `measure` counts it."""
    return str(max(0, math.ceil(math.log(max(seconds, 0.001) * 1000, judge.STEP))))


@functools.lru_cache(maxsize=1024)
def latencies(median: float, spread: float) -> list[float]:
    """How likely a latency is in each of BUCKETS or in one below."""
    normal = statistics.NormalDist(math.log(median), spread)
    return [normal.cdf(math.log(judge.seconds_of(bucket))) for bucket in BUCKETS[:-1]] + [1.0]


def one_round(rng: random.Random, site: Site, part: float = 1.0, stalled: bool = False) -> dict[str, dict[str, Any]]:
    """What one host measures in five seconds. part: of the step that has passed, 0 to 1."""
    grown = part if site.leak else 1.0
    failing = (site.errors[1] + (site.errors[0] - site.errors[1]) * grown, site.errors[1])
    slower = (1 + (site.factor - 1) * grown, 1.0)
    many = int(site.rate * ROUND / site.hosts)
    mine = sum(rng.random() < site.share for _ in range(many))
    colours: dict[str, dict[str, Any]] = {"green": {}, "blue": {}}
    for release, (colour, asked) in enumerate((("green", mine), ("blue", many - mine))):
        for group, here in sorted(Counter(rng.choices(range(4), cum_weights=VISITS, k=asked)).items()):
            tally = colours[colour][f"/{group}"] = judge.empty()
            if colour == "green" and site.silent:
                tally["none"] = here
                continue
            share = max(failing[release], site.stall if stalled else 0.0)
            tally["server"] = sum(rng.random() < share for _ in range(here)) if share else 0
            tally["ok"] = here - tally["server"]
            likely = latencies(SLOWNESS[group] * slower[release], site.spread)
            tally["hist"] = dict(Counter(str(bucket) for bucket in rng.choices(BUCKETS, cum_weights=likely, k=here)))
    return colours


def canary(rng: random.Random, site: Site) -> tuple[judge.Verdict, int]:
    """A whole step of a canary. Returns the verdict and the rounds until it."""
    sums: list[Any] = [None] * site.hosts
    looks = int(site.seconds / ROUND)
    stall = rng.randrange(1, looks - 1) if site.stall else 0
    for look in range(1, looks + 1):
        for host in range(site.hosts):
            found = one_round(rng, site, look / looks, bool(stall) and look in (stall, stall + 1))
            sums[host] = judge.add_round(sums[host], found, "green", LIMITS.latency_factor)
        plan = judge.Plan(site.seconds, look * ROUND, looks, 1, look == looks)
        verdict = judge.judge_canary(sums, LIMITS, plan)
        if verdict.verdict != judge.SO_FAR:
            return verdict, look
    raise AssertionError("the last look decides")


def watch(rng: random.Random, site: Site, seconds: float = 30.0) -> tuple[judge.Verdict, int]:
    """A watch with all visitors on the new release, against as long a time before the switch."""
    looks = int(seconds / ROUND)
    before = [one_round(rng, dataclasses.replace(site, share=0.0))["blue"] for _ in range(looks)]
    after, sums = dataclasses.replace(site, share=1.0), None
    for look in range(1, looks + 1):
        sums = judge.add_round(sums, one_round(rng, after, look / looks), "green", LIMITS.latency_factor)
        plan = judge.Plan(seconds, look * ROUND, looks, 1, look == looks)
        verdict = judge.judge_watch([sums], before, LIMITS, plan)
        if verdict.verdict != judge.SO_FAR:
            return verdict, look
    raise AssertionError("the last look decides")


def stopped(site: Site, runs: int, seed: int = SEED, during: Any = canary) -> list[int]:
    """The rounds that it took to stop the release, of those runs in which it was stopped."""
    rng = random.Random(f"{seed} {site}")  # noqa: S311  no secret; the same runs, whatever else is simulated
    return sorted(
        rounds for verdict, rounds in (during(rng, site) for _ in range(runs)) if verdict.verdict == judge.FAIL
    )


# --- what is simulated --------------------------------------------------------------------------------------------

ALIKE = {
    **{
        f"{rate:g} requests/s, {judge.percent(errors)} errors": Site(rate=rate, errors=(errors, errors))
        for rate in (5.0, 20.0, 60.0)
        for errors in (0.0, 0.005, 0.03)
    },
    "20 requests/s, 40 % errors for 10 s in both": Site(stall=0.4),
}
BAD = {
    "5 % errors": Site(errors=(0.05, 0.0)),
    "5 % errors, live 0.5 %": Site(errors=(0.05, 0.005)),
    "1 % errors": Site(errors=(0.01, 0.0)),
    "1 % errors, live 0.1 %": Site(errors=(0.01, 0.001)),
    "twice as slow": Site(factor=2.0),
    "errors that grow to 5 %": Site(errors=(0.05, 0.0), leak=True),
    "latency that grows to three times": Site(factor=3.0, leak=True),
    "no answer": Site(silent=True),
}
WATCHED = {
    "alike, no errors": Site(),
    "alike, 1 % errors": Site(errors=(0.01, 0.01)),
    "5 % errors": Site(errors=(0.05, 0.0)),
    "1 % errors": Site(errors=(0.01, 0.0)),
    "twice as slow": Site(factor=2.0),
    "three times as slow": Site(factor=3.0),
    "no answer": Site(silent=True),
}
LEAST_EACH = 100  # runs of a row


def bound(found: int, of: int) -> float:
    """The share that the true one is not above, with 95 % confidence: Wilson's score interval, one-sided."""
    z, part = statistics.NormalDist().inv_cdf(0.95), found / of
    middle, half = part + z * z / (2 * of), z * math.sqrt(part * (1 - part) / of + z * z / (4 * of * of))
    return (middle + half) / (1 + z * z / of)


def cells(found: Sequence[int], of: int) -> str:
    """`150 of 150`, and the rounds until then."""
    rounds = f"{statistics.median(found):g} ({min(found)}, {max(found)})" if found else "–"
    return f"{judge.number(len(found))} of {judge.number(of)} | {rounds}"


def alike_rows(runs: int, seed: int) -> list[str]:
    """How often a release is stopped that is as good as the live one."""
    rows, total = [], 0
    for name, site in ALIKE.items():
        found = stopped(site, runs, seed)
        total += len(found)
        rows.append(f"| {name} | {cells(found, runs)} | {judge.percent(bound(len(found), runs))} |")
    of = runs * len(ALIKE)
    rows.append(f"| all | {judge.number(total)} of {judge.number(of)} | | {judge.percent(bound(total, of))} |")
    return rows


def bad_rows(runs: int, seed: int) -> list[str]:
    """How often a bad release is found, at three shares."""
    rows = []
    for name, site in BAD.items():
        found = (stopped(dataclasses.replace(site, share=share), runs, seed) for share in (0.05, 0.1, 0.25))
        rows.append(f"| {name} | {' | '.join(cells(one, runs) for one in found)} |")
    return rows


def watch_rows(runs: int, seed: int) -> list[str]:
    """The same for a watch of 30 s."""
    return [f"| {name} | {cells(stopped(site, runs, seed, watch), runs)} |" for name, site in WATCHED.items()]


HEAD = """\
# Judging, simulated

{date}, seed {seed}. How: [../README.md](../README.md).
What the test is: [decision 0006](../../docs/decisions/0006-judging.md).

A canary is one step of 120 s: 24 rounds of 5 s, each looked at. Where nothing else is said: 20 requests/s in four
groups of paths, log-normal latencies with σ 0.7, a share of 10 %.
Rounds: median (min, max) of the runs that were stopped.
"""


def page(alike: int, bad: int, seed: int) -> str:
    """The results in Markdown."""
    began = time.process_time()
    parts = [
        HEAD.format(date=f"{datetime.now(UTC):%Y-%m-%d}", seed=seed),
        "## Releases that are alike\nEach one that is stopped is a mistake.\n",
        "| canary | stopped | rounds | share, at most (95 % confidence) |\n|---|---|---|---|",
        *alike_rows(alike, seed),
        "\n## Releases that are worse\n",
        "| canary | 5 %: found | rounds | 10 %: found | rounds | 25 %: found | rounds |\n|---|---|---|---|---|---|---|",
        *bad_rows(bad, seed),
        "\n## A watch of 30 s\nSix rounds, against the 30 s before the switch.\n",
        "| watch | stopped | rounds |\n|---|---|---|",
        *watch_rows(bad, seed),
    ]
    used = f"{time.process_time() - began:.0f} s of CPU time"
    return "\n".join([*parts, f"\n{used}. Again: `benchmarks/judging.py --runs {alike} {bad} --seed {seed}`\n"])


def count(text: str) -> int:
    """A number of runs. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < LEAST_EACH:
        raise argparse.ArgumentTypeError(f"{text!r} is too few: at least {LEAST_EACH} runs say something")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print, and keep the results."""
    parser = argparse.ArgumentParser(prog="benchmarks/judging.py", description=__doc__)
    parser.add_argument(
        "--runs", type=count, nargs=2, default=[800, 200], metavar=("ALIKE", "BAD"), help="of each row (800 200)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help=f"of the simulation ({SEED})")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="where the results go (benchmarks/results/judging.md)"
    )
    options = parser.parse_args(arguments)
    alike, bad = options.runs
    found = page(alike, bad, options.seed)
    options.out.write_text(found, encoding="utf-8")
    print(found, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
