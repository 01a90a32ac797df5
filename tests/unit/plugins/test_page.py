"""The page of a run: what it shows, what it leaves as a gap, and that nothing in it is taken for markup."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_page as tool
from plugins.module_utils import bluegreen_report as report
from plugins.module_utils import bluegreen_text as texts
from tests.unit.plugins import test_canary as canaries
from tests.unit.plugins import test_fleet as made
from tests.unit.plugins.test_fleet import HOSTS, SHA, A, B

START = 1795251600.0
VOID = re.compile(r"<(meta|link|br|img|input|hr)\b[^>]*(?<!/)>")


def side(requests: object = 100, errors: object = 0, p50: object = 0.02, p95: object = 0.05, p99: object = 0.1) -> Any:
    return {"requests": requests, "errors": errors, "p50": p50, "p95": p95, "p99": p99}


def judged(at: float, new: Any, live: Any = None, **more: object) -> dict[str, object]:
    sides = {"new": new} | ({"live": live} if live else {})
    return {"at": START + at, "seconds": 5, "phase": "canary", "share": 5, **sides} | more


def whole(**more: object) -> dict[str, object]:
    return {
        "app": "orders",
        "sha": "3f9c2a7b51e04d6f8a90b1c2d3e4f5061728394a",
        "ending": "live",
        "began": START,
        "ended": START + 61,
        "hosts": ["web1", "web2"],
        "phases": [
            {"name": "stage", "began": START, "ended": START + 4.2, "hosts": {"web1": "pass", "web2": "pass"}},
            {"name": "canary", "began": START + 10, "ended": START + 20},
        ],
        "rounds": [judged(15, side(50, 1), side(950, 2)), judged(20, side(60, 0), side(940, 0))],
        "verdicts": {"canary": {"verdict": "pass", "reasons": [], "new": side(110, 1), "live": side(1890, 2)}},
        "notes": ["not proven: no smoke check signs in"],
    } | more


def page(data: object) -> str:
    return tool.page(tool.read(data))


def parsed(text: str) -> ET.Element:
    """The page as XML: it is written so that both kinds of parsers take it."""
    assert not VOID.search(text)
    return ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(text: str) -> str:
    """What a person reads."""
    root = parsed(text)
    for style in root.iter("style"):
        style.text = ""
    return " ".join(" ".join(root.itertext()).split())  # also the spaces that do not break


# --- what it shows


def test_the_figures_and_names_are_there() -> None:
    text = words(page(whole()))
    for shown in ("orders", "3f9c2a7b51e04d6f8a90b1c2d3e4f5061728394a", "live", "web1", "web2", "hosts (2)"):
        assert shown in text
    assert "2 000" in text, "all requests that were judged"
    assert "110 by the new release" in text
    assert "1 0.91 %, live 2 (0.11 %)" in text, "the error shares of 1 in 110 and 2 in 1890"
    assert "61 s" in text
    assert "Canary pass" in text
    assert "not proven: no smoke check signs in" in text
    assert "2026-11-21 09:00:00 UTC to 09:01:01" in text
    assert "4.2 s" in text, "how long a phase took"


def test_nothing_outside_the_page_is_needed() -> None:
    text = page(whole())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|src=|href=", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def bars(text: str, kind: str) -> list[dict[str, float]]:
    return [
        {key: float(one.attrib[key]) for key in ("x", "y", "width", "height")}
        for one in parsed(text).iter("rect")
        if one.attrib["class"] == kind
    ]


def test_requests_are_stacked_by_release() -> None:
    text = page(whole())
    new, live = bars(text, "requests new"), bars(text, "requests live")
    assert len(new) == len(live) == 2
    for above, below in zip(new, live, strict=True):
        assert above["y"] + above["height"] == pytest.approx(below["y"], abs=0.02)
        assert (above["x"], above["width"]) == (below["x"], below["width"])
        assert below["y"] + below["height"] == pytest.approx(tool.HEIGHT, abs=0.02)
    assert new[0]["height"] / live[0]["height"] == pytest.approx(50 / 950, rel=0.01)


def test_a_single_error_does_not_fill_the_drawing_and_none_is_said() -> None:
    text = page(whole())
    (bar,) = bars(text, "errors new")
    assert bar["height"] == pytest.approx(tool.HEIGHT / 5, abs=0.1), "one in 5 s on an axis to 1 per second"
    calm = page(whole(rounds=[judged(15, side(50), side(950))]))
    assert bars(calm, "errors new") == []
    assert "No error in 1 000 requests." in words(calm)


def test_phases_are_marked_in_the_drawings() -> None:
    root = parsed(page(whole()))
    borders = [one for one in root.iter("line") if one.attrib["class"] == "border"]
    assert len(borders) == 4, "where the canary starts: requests, errors, two of latency"
    names = [one for one in root.iter("span") if one.attrib.get("title", "").startswith("Canary 5")]
    assert {one.text for one in names} == {"Canary 5\u00a0%"}


def test_each_quantile_of_each_release_is_a_line() -> None:
    kinds = [one.attrib["class"] for one in parsed(page(whole())).iter("polyline")]
    assert sorted(kinds) == sorted(f"{quantile} {name}" for quantile in tool.QUANTILES for name in tool.SIDES)


@pytest.mark.parametrize(
    ("ending", "mood"),
    [
        *((ending, "good") for ending in texts.GOOD),
        *((ending, "bad") for ending in ("refused", "failed", "half done", "reverted")),
        ("?", "open"),
        ("", "open"),
    ],
)
def test_an_ending_has_its_colour(ending: str, mood: str) -> None:
    root = parsed(page(whole(ending=ending)))
    body = root.find("body")
    assert body is not None
    assert body.attrib["class"] == mood
    assert (ending or "unknown") in words(page(whole(ending=ending)))


def commands(data: object) -> list[str | None]:
    """What the page says to type next."""
    return [one.findtext("code") for one in parsed(page(data)).iter("p") if one.attrib.get("class") == "todo"]


def test_the_next_command_stands_out_after_a_failure_only() -> None:
    failure = {"what": "it failed", "why": "so", "next": "ansible-playbook status.yml"}
    assert commands(whole(ending="reverted", failure=failure)) == ["ansible-playbook status.yml"]
    assert "why it failed so" in words(page(whole(ending="reverted", failure=failure)))
    assert commands(whole(failure=None)) == []


def test_several_problems_are_listed_and_one_is_not_said_twice() -> None:
    problems = [{"phase": "plan_migrations", "host": name, "what": f"{name} broke", "why": ""} for name in ("a", "b")]
    assert "Plan migrations, a: a broke" in words(page(whole(problems=problems)))
    assert "a broke" not in words(page(whole(problems=problems[:1])))


def test_hosts_say_where_they_are_now() -> None:
    places = {
        "web1": {"before": "81aa20c31f55" * 3, "after": "3f9c2a7b51e0" * 3, "colour": "green", "state": "confirmed"},
        "web2": {"before": "81aa20c31f55" * 3, "after": "", "colour": "blue", "state": "unknown"},
    }
    text = words(page(whole(by_host=places)))
    assert "host before now new colour" in text
    assert "web1 confirmed 81aa20c31f55 3f9c2a7b51e0 green" in text
    assert "web2 unknown 81aa20c31f55 – blue" in text


def test_a_phase_says_where_it_failed() -> None:
    phases = [{"name": "start", "began": START, "ended": START + 2, "hosts": {"web1": "pass", "web2": "fail"}}]
    assert "Start 2.0 s failed on web2" in words(page(whole(phases=phases)))


def test_each_share_of_a_canary_is_marked() -> None:
    rounds = [judged(5 * number, side(), side(), share=5 if number < 3 else 25) for number in range(1, 6)]
    found = tool.stretches(tool.read(whole(rounds=rounds, phases=[])))
    assert found == [("Canary 5\u00a0%", START, START + 10), ("Canary 25\u00a0%", START + 10, START + 25)]


def test_a_watch_stands_beside_the_window_before() -> None:
    rounds = [judged(5 * number, side(), side(0, 0, None, None, None), phase="watch", share=100) for number in (1, 2)]
    text = page(whole(rounds=rounds, before=side(p95=0.04)))
    assert [one.attrib["class"] for one in parsed(text).iter("polyline")] == ["p50 new", "p95 new", "p99 new", "before"]
    assert "p95 before the switch" in words(text)
    assert "No answers." not in text, "no release was to answer beside it"


def kpi(name: str = "orders_per_minute", **more: object) -> dict[str, object]:
    return {"name": name, "query": "sum(orders)", "min": 30, "max": None, "verdicts": {}} | more


def sampled(at: float, value: object, why: str = "", **more: object) -> dict[str, object]:
    return judged(at, side(), side(), kpis=[{"name": "orders_per_minute", "value": value, "why": why}], **more)


def test_a_kpi_has_its_query_threshold_values_and_verdict() -> None:
    rounds = [sampled(5, 41), sampled(10, None, "no answer within 2 s"), sampled(15, 40), sampled(20, 12)]
    said = {"canary": {"verdict": "inconclusive", "reason": "12 is less than 30"}}
    text = page(whole(rounds=rounds, kpis=[kpi(verdicts=said)]))
    shown = words(text)
    assert "orders_per_minute min 30, last: 12 Canary inconclusive Canary: 12 is less than 30 sum(orders)" in shown
    root = parsed(text)
    lines = [one.attrib["class"] for one in root.iter("polyline")]
    assert (lines.count("limit"), lines.count("value"), lines.count("dot")) == (1, 2, 1), "the unknown one is a gap"
    (unknown,) = [one for one in root.iter("rect") if one.attrib["class"] == "unknown"]
    assert unknown.findtext("title") == "0:10 not known: no answer within 2 s"
    (beyond,) = [one for one in root.iter("rect") if one.attrib["class"] == "beyond"]
    assert float(beyond.attrib["y"]) + float(beyond.attrib["height"]) == pytest.approx(tool.HEIGHT)


@pytest.mark.parametrize(
    ("values", "axis"),
    [([41.0, 30.0], [0, 20, 40, 60]), ([-3.0], [-3, -2, -1, 0]), ([-1.0, 1.0], [-1, -0.5, 0, 0.5, 1]), ([0.0], [0, 1])],
)
def test_the_axis_of_a_kpi_reaches_from_0_over_all_values(values: list[float], axis: list[float]) -> None:
    assert tool.scale(values) == pytest.approx(axis)


def test_the_verdict_after_each_round_is_drawn_and_told() -> None:
    few = "too few requests: 12 of the new release, 50 wanted"
    rounds = [
        judged(5, side(), side(), verdict="so far", reasons=[few]),
        judged(10, side(), side(), verdict="so far", reasons=[]),
        judged(15, side(), side(), verdict="fail", reasons=["the new release is slower"]),
        judged(20, side(), side(), verdict=None, reasons=[]),
    ]
    text = page(whole(rounds=rounds))
    (lane,) = [one for one in parsed(text).iter("div") if one.attrib.get("class") == "lane"]
    assert [one.attrib["class"] for one in lane] == ["open", "good", "bad final", "final"]
    assert lane[0].attrib["title"] == f"0:05 Canary: pass so far: {few}"
    rows = [[" ".join(cell.itertext()) for cell in row] for row in parsed(text).iter("tr")]
    assert [(row[3], row[-1]) for row in rows if row[0] == "0:05"] == [("pass so far", few)], "in the table too"
    assert 'class="lane"' not in page(whole()), "a report from before verdicts were kept"


# --- what is missing


def test_an_empty_report_is_a_page() -> None:
    text = words(page({}))
    assert "unknown" in text
    assert "no visitor's request was judged" in text


@pytest.mark.parametrize(
    "data", [None, [], "x", 3, {"rounds": {}, "phases": 3, "hosts": None, "failure": [], "verdicts": {"x": 1}}]
)
def test_what_is_no_report_is_a_page_too(data: object) -> None:
    assert "unknown" in words(page(data))


def test_a_missing_value_ends_the_line_and_a_missing_round_too() -> None:
    rounds = [judged(5 * number, side()) for number in range(1, 9)]
    del rounds[5]  # a round that never was
    rounds[2]["new"] = side(p95=None)
    report = tool.read(whole(rounds=rounds))
    assert [len(piece) for piece in tool.runs(report, "new", "p95")] == [2, 2, 2]
    assert [len(piece) for piece in tool.runs(report, "new", "p50")] == [5, 2]
    assert tool.runs(report, "live", "p50") == []
    assert "live release" not in words(page(whole(rounds=rounds, verdicts={})))


def test_a_colour_that_answers_nothing_is_drawn_as_nothing() -> None:
    silent = side(0, 0, None, None, None)
    text = page(whole(rounds=[judged(15, silent, side(900))]))
    assert bars(text, "requests new") == []
    assert "0 –, live 0 (0 %)" in words(text)
    assert "No answers." in words(text)


# --- hostile


HOSTILE = "</style><script>alert(1)</script>\"'&lt;<b x=\u0000\ud800\x1b[31m"


def test_hostile_words_are_only_words() -> None:
    data = whole(
        **dict.fromkeys(("app", "sha", "ending", "verb", "by", "run_url", "release", "previous"), HOSTILE),
        failure=dict.fromkeys(("what", "why", "next"), HOSTILE),
        notes=[HOSTILE],
        problems=[{"phase": HOSTILE, "host": HOSTILE, "what": HOSTILE}, {"what": HOSTILE}],
        hosts=[HOSTILE],
        by_host={HOSTILE: dict.fromkeys(("before", "after", "colour", "state"), HOSTILE)},
        phases=[{"name": HOSTILE, "began": START, "ended": START + 40, "hosts": {HOSTILE: "fail"}}],
        rounds=[
            judged(15, side(9, 1), side(9), phase=HOSTILE, verdict=HOSTILE, reasons=[HOSTILE])
            | {"kpis": [{"name": HOSTILE, "value": None, "why": HOSTILE}]}
        ],
        kpis=[kpi(HOSTILE, query=HOSTILE, verdicts={HOSTILE: {"verdict": HOSTILE, "reason": HOSTILE}})],
        verdicts={HOSTILE: {"verdict": HOSTILE, "reasons": [HOSTILE]}},
    )
    text = page(data)
    root = parsed(text)
    assert {one.tag for one in root.iter()} >= {"html", "table", "svg"}
    assert not list(root.iter("script"))
    assert all(not one.attrib or one.attrib == {"class": "wrong"} for one in root.iter("b"))
    assert text.count("<script") == 0
    assert "alert(1)" in words(text)
    text.encode("utf-8")  # a lone surrogate is not left in it


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=4), one, max_size=3), max_leaves=6
)
sides = st.fixed_dictionaries({}, optional=dict.fromkeys(("requests", "errors", *tool.QUANTILES), scalars))
rounds = st.fixed_dictionaries(
    {"at": st.floats(0, 2e9) | scalars},
    optional={
        "seconds": scalars,
        "phase": scalars | st.just("watch"),
        "share": scalars,
        "new": sides | anything,
        "live": sides,
        "kpis": st.lists(st.fixed_dictionaries({"name": st.just("k")}, optional={"value": scalars, "why": scalars})),
        "verdict": scalars | st.just("so far"),
        "reasons": anything,
    },
)
kpis = st.fixed_dictionaries(
    {"name": st.just("k") | scalars, "min": scalars}, optional={"max": scalars, "query": anything, "verdicts": anything}
)
phases = st.fixed_dictionaries(
    {},
    optional={
        "name": scalars | st.just("revert"),
        "began": st.floats(0, 2e9) | scalars,
        "ended": scalars,
        "hosts": st.dictionaries(st.text(max_size=4), st.just("fail"), max_size=2) | anything,
    },
)
verdicts = st.dictionaries(
    st.text(max_size=4),
    st.fixed_dictionaries({}, optional={"verdict": scalars, "reasons": anything, "new": sides, "live": anything}),
    max_size=2,
)
reports = st.fixed_dictionaries(
    {},
    optional={
        "app": anything,
        "sha": anything,
        "ending": anything,
        "began": scalars,
        "ended": scalars,
        "hosts": st.lists(st.text(max_size=4), max_size=2) | anything,
        "by_host": anything,
        "canary": st.fixed_dictionaries({"steps": anything, "seconds": scalars}) | anything,
        "watch": scalars,
        "before": sides | anything,
        "verdicts": verdicts | anything,
        "failure": anything,
        "problems": st.lists(st.dictionaries(st.sampled_from(["phase", "host", "what", "why"]), scalars)) | anything,
        "phases": st.lists(phases | anything, max_size=3) | anything,
        "rounds": st.lists(rounds | anything, max_size=4) | anything,
        "kpis": st.lists(kpis | anything, max_size=2) | anything,
        "notes": anything,
        "verb": anything,
    },
)


@given(reports)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_report_holds_there_is_a_page(data: object) -> None:
    text = page(data)
    parsed(text)
    assert not re.search(r'(?:x|y|width|height|points|style|top|left)="[^"]*\b(?:nan|inf)\b', text)


# --- figures


@given(st.floats(1e-6, 1e12))
def test_an_axis_reaches_over_its_values_with_few_steps(high: float) -> None:
    found = tool.ticks(high)
    assert found[0] == 0
    assert found[-1] >= high * (1 - 1e-9)
    assert 2 <= len(found) <= 5
    assert found[-2] < high


def test_axes_have_round_numbers() -> None:
    assert tool.ticks(103) == [0, 50, 100, 150]
    assert tool.ticks(0.37) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert tool.ticks(0) == [0, 1]
    assert tool.marks(100, 190, 100) == [100, 115, 130, 145, 160, 175, 190]
    assert tool.marks(103, 131, 100) == [105, 110, 115, 120, 125, 130]
    assert (tool.clock(9.6), tool.clock(75), tool.clock(-3)) == ("0:10", "1:15", "-0:03")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0042, "4.2 ms"), (0.02, "20 ms"), (0.9994, "999 ms"), (1.234, "1.23 s"), (0, "0 ms")],
)
def test_latencies(value: float | None, shown: str) -> None:
    assert tool.latency(value).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (-1, "–"), (4.21, "4.2 s"), (74, "74 s"), (120, "2 min"), (121, "2 min 01 s"), (7260, "2 h 01 min")],
)
def test_lengths(value: float | None, shown: str) -> None:
    assert tool.length(value) == shown


def test_what_is_no_number_is_none() -> None:
    for value in (True, "3", math.nan, math.inf, 10**400, None, [], 1e16):
        assert tool.number(value) is None
    assert (tool.number(3), tool.amount(-1), tool.moment(1e14)) == (3.0, None, "–")


# --- a run from its first phase to its page


class Clock:
    """The controller's clock: phases and rounds happen one after the other, a moment apart."""

    def __init__(self) -> None:
        self.now = START

    def spend(self, seconds: float) -> dict[str, float]:
        """What an answer says of the time it took."""
        began = self.now + 0.4
        self.now = began + seconds
        return {"began": began, "ended": self.now}


AHEAD = 20.0  # seconds that the clock of web2 is ahead


def run_of(seconds: dict[str, float], **asked: Any) -> tuple[canaries.Run, Clock]:
    """A deploy up to its smoke checks, with the time that each phase took."""
    clock, run = Clock(), canaries.Run(**asked)
    for phase in ("preflight", *made.UP_TO_SMOKE):
        spent, given = clock.spend(seconds.get(phase, 1.0)), run.phases[phase]
        answers = dict.fromkeys(HOSTS, given) if "verdict" in given else given
        run.phases[phase] = {host: answer | spent for host, answer in answers.items()}
    run.phases["preflight"]["web2"] |= {"clock_skew": AHEAD}
    return run, clock


def play(run: canaries.Run, clock: Clock, phase: str, visitors: Callable[[int], tuple[Any, Any]]) -> int:
    """Rounds until there are no more. `visitors`: the number of a round → what each host measured, (new, live)."""
    first: dict[str, float] = {}
    for number in range(100):
        spent = clock.spend(5.0)
        new, live = visitors(number)
        found = {
            host: canaries.measured(new, live, until=clock.now + (AHEAD if host == "web2" else 0)) for host in HOSTS
        }
        if not run.round(phase, found):
            clock.now -= 5.4
            return number
        first = first or {"first_began": spent["began"]}
        run.phases[phase] = {host: one | spent | first for host, one in run.phases[phase].items()}
    raise AssertionError("the rounds do not end")


def written(run: canaries.Run) -> Any:
    """report.json, as it is read again."""
    return json.loads(texts.as_json(report.build(run.fleet, texts.outcome(run.fleet))))


def test_a_good_canary_from_its_answers_to_its_page() -> None:
    run, clock = run_of({"stage": 8.0}, holder="anna", canary_watch=20.0, watch=20.0)
    tally = canaries.tally
    assert play(run, clock, "canary", lambda number: (tally(10 + number), tally(190 - number))) == 8
    run.switch()
    run.phases["switch"] |= clock.spend(0.5)
    run.phases["switch"]["results"]["smoke"] = {"checks": [{"name": "home", "ms": 150}, {"name": "list", "ms": 250}]}
    assert play(run, clock, "watch", lambda _: (tally(200, 0, 0, 30), tally(0))) == 4
    run.phases["confirm"] = made.FINAL | clock.spend(2.0)
    data = written(run)
    assert [one["seconds"] for one in data["rounds"]] == pytest.approx([5.0] + [5.4] * 7 + [5.8] + [5.4] * 3, abs=0.01)
    assert data["rounds"][-1]["at"] == pytest.approx(clock.now - 2.4, abs=0.01), "the clock of web2 does not count"
    assert data["by_host"]["web1"] == {"before": SHA[A], "colour": "green", "after": SHA[B], "state": "confirmed"}
    text = page(data)
    assert len(bars(text, "requests new")) == 12
    shown = words(text)
    new, live = 3 * (sum(range(10, 18)) + 4 * 200), 3 * sum(range(190, 182, -1))
    for figure in (f"{new + live:,} {new:,} by the new release".replace(",", " "), "No error in", "Canary pass"):
        assert figure in shown
    assert "Watch pass requests errors p50 p95 p99 new 2 400 0" in shown
    assert "before the switch 1 200 0" in shown
    assert "canary 5 %, 25 % for 20 s each, watch 20 s" in shown
    assert "web3 confirmed aaaaaaaaaaaa bbbbbbbbbbbb green" in shown
    assert "by anna" in shown
    for phase in ("Stage 8.0 s", "Canary 43 s", "Watch 21 s", "Confirm 2.0 s"):
        assert phase in shown
    assert commands(data) == []


def test_a_canary_that_fails_from_its_answers_to_its_page() -> None:
    run, clock = run_of({})
    tally = canaries.tally
    rounds = play(run, clock, "canary", lambda number: (tally(12, 8 if number > 1 else 0), tally(180)))
    assert rounds == 3
    back = made.answer("revert", {"live": {"sha": SHA[A]}})
    run.phases["revert"] = {host: back | clock.spend(0.3) for host in HOSTS[:2]}
    run.phases["revert"]["web3"] = made.failed("gave no answer", unreachable=True) | clock.spend(9.0)
    data = written(run)
    assert [place["state"] for place in data["by_host"].values()] == ["went back", "went back", "unknown"]
    shown = words(page(data))
    assert "reverted" in shown
    assert "Canary fail the new release answers with errors: 24 of 132 requests (18.2 %), live 0 of 1,620" in shown
    marks = [one.attrib["class"] for one in parsed(page(data)).iter("line") if "border" in one.attrib["class"]]
    assert marks.count("border back") == 4, "where all went back, in each drawing"
    assert "live release, blue" in shown
    assert "failed on web3" in shown
    assert commands(data) == [data["failure"]["next"]]
    assert len(bars(page(data), "errors new")) == 1


def test_a_rollback_has_a_page_without_drawings() -> None:
    asked = made.inputs("rollback", sha="", watch=0.0, to=None)
    first = made.taken(made.status(B, made.record(A, 5), made.record(B, 6), idle=A)) | {"began": START, "ended": START}
    final = made.answer("confirm", {"live": {"release": A}}) | {"began": START + 2, "ended": START + 3.5}
    state = made.fleet(
        {"preflight": first, "switch": made.answer("route", {"colour": "green"}), "confirm": final}, asked
    )
    assert fleets.ending(state) == "rolled back"
    data = json.loads(texts.as_json(report.build(state, texts.outcome(state))))
    assert (data["rounds"], data["verdicts"]) == ([], {})
    text = page(data)
    assert not list(parsed(text).iter("svg"))
    shown = words(text)
    assert "Rollback shop aaaaaaaaaaaa rolled back" in shown
    assert "Confirm 1.5 s" in shown
    assert "no visitor's request was judged" in shown
    assert "web1 confirmed bbbbbbbbbbbb aaaaaaaaaaaa green" in shown
