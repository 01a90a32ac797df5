#!/usr/bin/env python3
"""Canaries on a host: what is found, how soon, and how often is a good release stopped? See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "benchmarks"), str(REPO / "plugins" / "module_utils")]

from support.common import CACHE, Failure, Progress, run_main, use_project_python  # noqa: E402

use_project_python()

import bluegreen_judge as judging  # noqa: E402
from faults.rig import interrupt  # noqa: E402
from switches import Stage, about, fence  # noqa: E402

from support.example_fleet import APP, DOMAIN  # noqa: E402
from support.load import Load, LoadThread, Shape, parse_target  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
WORK = CACHE / "benchmarks-canaries"
FAULT = f"/srv/{APP}/data/fault.json"
SHARE = 25  # percent of the visitors
ROUND = 2.0  # seconds
TTL = 30.0  # seconds
PAGE = 0.03  # seconds that every page takes, so that twice as long is more than the judge's 10 ms
SETTLE = 2 * ROUND  # seconds of ordinary traffic between two canaries

# In both releases alike; it hurts only the release that the file names.
MIDDLEWARE = """\
import json
import os
import random
import time

from django.http import HttpResponse

from shop.settings import *  # noqa: F403
from shop.settings import MIDDLEWARE

MIDDLEWARE = ["canary_settings.page", *MIDDLEWARE]
OWN = os.environ.get("BLUEGREEN_RELEASE", "")


def fault():
    try:
        with open("%(fault)s") as stream:
            found = json.load(stream)
    except (OSError, ValueError):
        return {}
    return found if found.get("release") == OWN else {}


def page(get_response):
    def middleware(request):
        now = fault()
        time.sleep(%(page)s * random.uniform(0.7, 1.3))
        if random.random() < now.get("errors", 0):
            return HttpResponse("broken on purpose", status=500)
        started = time.monotonic()
        response = get_response(request)
        took = time.monotonic() - started + %(page)s
        time.sleep(took * (now.get("times", 1) - 1) + now.get("grows", 0) * max(0, time.time() - now.get("since", 0)))
        return response

    return middleware
"""


@dataclass(frozen=True)
class Kind:
    """A kind of release: what is wrong with it, and for how many seconds a canary of it is judged at most."""

    name: str
    watch: float
    fault: Mapping[str, float]
    silent: bool = False


KINDS = {
    "alike": Kind("the same release again", 10, {}),
    "errors5": Kind("5 % of the answers are errors", 60, {"errors": 0.05}),
    "errors1": Kind("1 % of the answers are errors", 60, {"errors": 0.01}),
    "twice": Kind("twice as slow", 60, {"times": 2}),
    "leak": Kind("5 ms slower with every second", 60, {"grows": 0.005}),
    "silent": Kind("answers nothing", 60, {}, silent=True),
}


@dataclass(frozen=True)
class Canary:
    """One canary: the verdict, seconds and rounds to it from the moment when the share was routed, and its requests.

    medians: of both releases' latencies, in seconds.
    """

    kind: str
    verdict: str
    seconds: float
    rounds: int
    new: int
    new_errors: int
    live: int
    medians: tuple[float, float]
    reason: str


# --- what is shown ------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median (minimum to maximum)."""
    if not values:
        return "–"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(found: Sequence[Canary]) -> str:
    """One row for each kind, as a Markdown table."""
    lines = [
        "| the new release | canaries | stopped | passed | undecided | seconds to the stop | rounds | its requests |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, kind in KINDS.items():
        ones = [one for one in found if one.kind == key]
        if not ones:
            continue
        stopped = [one for one in ones if one.verdict == judging.FAIL]
        counts = [sum(one.verdict == word for one in ones) for word in (judging.PASS, judging.INCONCLUSIVE)]
        spreads = [
            spread([one.seconds for one in stopped]),
            spread([one.rounds for one in stopped], 0),
            spread([one.new for one in stopped], 0),
        ]
        lines.append(
            f"| {kind.name} | {len(ones)} | {len(stopped)} | {counts[0]} | {counts[1]} | {' | '.join(spreads)} |"
        )
    return "\n".join(lines)


def text(found: Sequence[Canary], facts: Mapping[str, Any]) -> str:
    """The page of results."""
    made = facts["versions"]
    wrong = [one for one in found if one.kind == "alike" and one.verdict == judging.FAIL]
    alike = sum(one.kind == "alike" for one in found)
    bound = f" So fewer than {300 / alike:.1f} % are (95 %)." if alike and not wrong else ""
    told = "\n".join(f"- {one.reason}" for one in wrong)
    return f"""\
# Canaries on a real host

{facts["date"]}, {made["processors"]} processors, {made["hosts"]}. bluegreen {made["bluegreen"]}.
How: [../README.md](../README.md).

{SHARE} % of {facts["rate"]:g} requests a second go to the new release, which is judged every {ROUND:g} s. A page takes
{PAGE * 1000:.0f} ms. A release like the live one is watched for {KINDS["alike"].watch:g} s, a bad one for up to
{KINDS["silent"].watch:g} s.

**{len(wrong)} of {alike} canaries of a release like the live one were stopped.**{bound}

{table(found)}

What is alike here answers without errors, and a median of five rounds: it shows latency, attribution and counting on a
host. How often the test of errors errs, and longer steps, are [simulated](judging.md).

Median (smallest to largest), from the moment when the share was routed until the stop. *undecided*: nothing was proven
until the end of the watch, and too few requests or as many errors on the live side leave it open.
{told}
Again: `{facts["command"]}`
"""


# --- what is measured ---------------------------------------------------------------------------------------------


class Site(Stage):
    """One app server with two warm releases that can be hurt while they run."""

    def __init__(self, rate: float, progress: Progress) -> None:
        super().__init__(1, "wsgi", progress, WORK / "canaries", "10.213.80.0/24")
        self.rate = rate

    def warm(self) -> None:
        """Both releases, with the settings that can hurt them."""
        words = {"fault": FAULT, "page": PAGE}
        settings = {
            "app_settings_module": "canary_settings",
            "app_files": {"canary_settings.py": MIDDLEWARE % words},
            "app_threads": 8,
        }
        values = self.fleet.directory / "group_vars" / "app_servers"
        # Named so that it is read after zz-here.yml.
        (values / "zzz-canaries.yml").write_text(f"---\n{json.dumps(settings)}\n")
        super().warm()

    def visitors(self) -> Load:
        """Pages of three groups, by visitors who come one after the other."""
        quote = '{"product": "sidamo", "quantity": 2}'
        shapes = (
            Shape("get", "/", weight=10),
            Shape("get", "/healthz", weight=5),
            Shape("post", "/api/quote/", "POST", quote, "application/json", weight=5),
        )
        url = f"http://{self.fleet.entrance.address}"
        target = parse_target(url, DOMAIN)
        # Without the probe token: what probes get is not judged.
        return Load([target], profile=shapes, rate=self.rate, connections=20, timeout=30)

    def canary(self, key: str) -> Canary:
        """One canary of the release on the idle colour, judged as a deploy judges it, then taken back."""
        kind, host = KINDS[key], self.hosts[0]
        idle = self.status()[host]["idle"]
        colour, release = str(idle["colour"]), str(idle["release"])
        deploy = f"20260101t000000-{uuid.uuid4().hex[:6]}"
        call: dict[str, Any] = {"deploy_id": deploy, "holder": "canaries", "fence": None}
        take = {"verb": "lease", "action": "take", "ttl": TTL, "what": "canaries", "brief": True}
        call["fence"] = fence([self.call(host, call | {"steps": [take]})])
        self.hurt({"release": release, "since": time.time(), **kind.fault} if kind.fault else {})
        route = {"verb": "route", "release": release, "share": SHARE, "ttl": TTL, "kind": "deploy", "fresh": True}
        self.call(host, call | {"steps": [{"verb": "resume"}, route]})
        began = time.monotonic()
        if kind.silent:
            self.on(host, f"systemctl stop {APP}@{colour}")
        try:
            said, rounds, spent = self.judged(kind, call, colour, release, began)
        finally:
            self.hurt({})
            steps = [
                {"verb": "revert", "why": "the benchmark goes on", "bad": False},
                {"verb": "lease", "action": "release"},
            ]
            self.call(host, call | {"steps": steps})
            if kind.silent:
                self.on(host, f"systemctl start {APP}@{colour}")
        reason = said.reasons[0] if said.reasons else ""
        counts = (judging.requests(said.new), judging.errors(said.new), judging.requests(said.live))
        new, live = (round(judging.quantile(tally, 0.5) or 0, 3) for tally in (said.new, said.live))
        return Canary(key, said.verdict, round(spent, 2), rounds, *counts, (new, live), reason)

    def judged(
        self, kind: Kind, call: Mapping[str, Any], colour: str, release: str, began: float
    ) -> tuple[judging.Verdict, int, float]:
        """Rounds until there is a verdict: it, how many, and the seconds since the share was routed."""
        host, sums, cursor = self.hosts[0], {}, None
        looks = max(1, round(kind.watch / ROUND))
        while True:
            known = sorted(set(sums.get("new") or {}) | set(sums.get("live") or {}))
            measure = {"verb": "measure", "cursor": cursor, "groups": [], "known": known, "during": ROUND}
            extend = {"verb": "extend", "ttl": TTL, "release": release}
            found = self.call(host, {**call, "steps": [extend, measure]})["results"]["measure"]
            if found.get("unreadable"):
                raise Failure(f"{host}: {found['unreadable']}")
            cursor = found["cursor"]
            limit = judging.Limits()
            sums = judging.add_round(sums, found["colours"], colour, limit.latency_factor)
            spent = time.monotonic() - began
            plan = judging.Plan(kind.watch, spent, looks, 1, spent >= kind.watch)
            said = judging.judge_canary([sums], limit, plan)
            if said.verdict != judging.SO_FAR:
                return said, int(sums["looks"]), spent

    def hurt(self, fault: Mapping[str, Any]) -> None:
        """What is wrong from now on."""
        self.on(
            self.hosts[0],
            f"cat > {FAULT}.new && chmod 644 {FAULT}.new && mv {FAULT}.new {FAULT}",
            stdin=json.dumps(fault).encode(),
        )


def write(found: Iterable[Canary], facts: Mapping[str, Any], folder: Path) -> None:
    """The results for people and for programs; what was measured so far is kept if the rest fails."""
    ones = list(found)
    folder.mkdir(parents=True, exist_ok=True)
    content = {**facts, "canaries": [asdict(one) for one in ones]}
    (folder / "canaries.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "canaries.md").write_text(text(ones, facts), encoding="utf-8")


def checked(arguments: list[str]) -> argparse.Namespace:
    """The options; raises Failure before anything is made."""
    parser = argparse.ArgumentParser(prog="canaries.py", description=__doc__)
    parser.add_argument("--alike", type=int, default=100, help="canaries of a release like the live one (100)")
    parser.add_argument("--each", type=int, default=10, help="canaries of each bad kind (10)")
    parser.add_argument("--kinds", nargs="+", choices=[key for key in KINDS if key != "alike"], help="bad ones (all)")
    parser.add_argument("--rate", type=float, default=80, help="requests per second (80)")
    parser.add_argument("--keep", action="store_true", help="leave the host running")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    given = parser.parse_args(arguments)
    for name, value, least, most in (
        ("--alike", given.alike, 0, 10000),
        ("--each", given.each, 0, 1000),
        ("--rate", given.rate, 1, 1000),
    ):
        if not least <= value <= most:
            raise Failure(f"{name} {value:g}: give a number from {least} to {most}", 2)
    if not given.alike and not given.each:
        raise Failure("--alike 0 --each 0: nothing is left to measure", 2)
    return given


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    given = checked(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    progress = Progress()
    WORK.mkdir(parents=True, exist_ok=True)
    site = Site(given.rate, progress)
    facts = about(f"benchmarks/canaries.py --alike {given.alike} --each {given.each} --rate {given.rate:g}") | {
        "rate": given.rate
    }
    kinds = given.kinds or [key for key in KINDS if key != "alike"]
    wanted = [key for key in kinds for _ in range(given.each)] + ["alike"] * given.alike
    found: list[Canary] = []
    try:
        site.prepare()
        with LoadThread(site.visitors()):
            for key in wanted:
                time.sleep(SETTLE)
                found.append(site.canary(key))
                write(found, facts, given.results)
                one = found[-1]
                progress(
                    f"{len(found)} of {len(wanted)}: {KINDS[key].name}: {one.verdict} after {one.seconds:.1f} s, "
                    f"{one.new_errors} of {one.new} failed, medians {one.medians[0]:.3f} and {one.medians[1]:.3f} s"
                    f"{f': {one.reason}' if one.reason else ''}"
                )
    finally:
        if not given.keep:
            with suppress(Failure, subprocess.SubprocessError):
                site.remove()
    print(table(found))
    bad = [one for one in found if (one.verdict == judging.FAIL) == (one.kind == "alike")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
