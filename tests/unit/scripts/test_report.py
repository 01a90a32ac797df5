"""The page of a deploy: what it shows, what it leaves as a gap, and that nothing in it is taken for markup."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import report as tool
from support.common import REPO

START = 1795251600.0
VOID = re.compile(r"<(meta|link|br|img|input|hr)\b[^>]*(?<!/)>")


def side(requests: object = 100, errors: object = 0, p50: object = 0.02, p95: object = 0.05, p99: object = 0.1) -> Any:
    return {"requests": requests, "errors": errors, "p50": p50, "p95": p95, "p99": p99}


def judged(at: float, new: Any, live: Any = None, **more: object) -> dict[str, object]:
    colours = {"new": new} | ({"live": live} if live else {})
    return {"at": START + at, "seconds": 5, "phase": "Canary", "share": 5, "colours": colours} | more


def whole(**more: object) -> dict[str, object]:
    return {
        "app": "orders",
        "sha": "3f9c2a7b51e04d6f8a90b1c2d3e4f5061728394a",
        "outcome": "confirmed",
        "started": START,
        "ended": START + 61,
        "hosts": ["web1", "web2"],
        "phases": [
            {"name": "Stage", "start": START, "end": START + 4.2},
            {"name": "Canary", "start": START + 10, "end": START + 20},
        ],
        "rounds": [
            judged(15, side(50, 1), side(950, 2), verdict="inconclusive", why="too few requests"),
            judged(20, side(60, 0), side(940, 0), verdict="pass", why="as the live release"),
        ],
        "messages": ["orders is live on 2 hosts"],
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
    for shown in ("orders", "3f9c2a7b51e04d6f8a90b1c2d3e4f5061728394a", "confirmed", "web1, web2", "hosts (2)"):
        assert shown in text
    assert "2 000" in text, "all requests that were judged"
    assert "110 by the new release" in text
    assert "new 0.91 %, live 0.11 %" in text, "the error shares of 1 in 110 and 2 in 1890"
    assert "61 s" in text
    assert "pass as the live release" in text, "the last verdict and why"
    assert "too few requests" in text
    assert "orders is live on 2 hosts" in text
    assert "2026-11-21 09:00:00 UTC" in text
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
    assert len(borders) == 4, "where Canary starts: requests, errors, two of latency"
    names = [one for one in root.iter("span") if one.attrib.get("title", "").startswith("Canary: 10 s")]
    assert {one.text for one in names} == {"Canary"}


def test_each_quantile_of_each_release_is_a_line() -> None:
    kinds = [one.attrib["class"] for one in parsed(page(whole())).iter("polyline")]
    assert sorted(kinds) == sorted(f"{quantile} {name}" for quantile in tool.QUANTILES for name in tool.SIDES)


@pytest.mark.parametrize(
    ("outcome", "mood"),
    [("confirmed", "good"), ("reverted", "bad"), ("failed", "bad"), ("refused", "bad"), ("?", "open"), ("", "open")],
)
def test_an_outcome_has_its_colour(outcome: str, mood: str) -> None:
    root = parsed(page(whole(outcome=outcome)))
    body = root.find("body")
    assert body is not None
    assert body.attrib["class"] == mood
    assert (outcome or "unknown") in words(page(whole(outcome=outcome)))


@pytest.mark.parametrize(
    "more",
    [
        {"next": "ansible-playbook status.yml"},
        {"messages": ["it failed\n  why   so\n  next  ansible-playbook status.yml"]},
        {"messages": [{"what": "it failed", "why": "so", "next": "ansible-playbook status.yml"}]},
    ],
)
def test_the_next_command_stands_out_after_a_failure_only(more: dict[str, object]) -> None:
    def command(outcome: str) -> list[str | None]:
        root = parsed(page(whole(outcome=outcome, **more)))
        return [one.findtext("code") for one in root.iter("p") if one.attrib.get("class") == "todo"]

    assert command("reverted") == ["ansible-playbook status.yml"]
    assert command("confirmed") == []


def test_hosts_with_more_than_a_name_are_a_table() -> None:
    text = words(page(whole(hosts=[{"name": "web1", "live": "81aa20c31f55"}, {"name": "web2", "state": "away"}])))
    assert "name live state" in text
    for cell in ("web1", "81aa20c31f55", "web2", "away", "–"):
        assert cell in text


# --- what is missing


def test_an_empty_report_is_a_page() -> None:
    text = words(page({}))
    assert "unknown" in text
    assert "Nothing was judged in this run." in text


@pytest.mark.parametrize(
    "data", [None, [], "x", 3, {"rounds": {}, "phases": 3, "hosts": None, "messages": {"what": 1}}]
)
def test_what_is_no_report_is_a_page_too(data: object) -> None:
    assert "unknown" in words(page(data))


def test_a_missing_value_ends_the_line_and_a_missing_round_too() -> None:
    rounds = [judged(5 * number, side()) for number in range(1, 9)]
    del rounds[5]  # a round that never was
    rounds[2]["colours"] = {"new": side(p95=None)}
    report = tool.read(whole(rounds=rounds))
    assert [len(piece) for piece in tool.runs(report, "new", "p95")] == [2, 2, 2]
    assert [len(piece) for piece in tool.runs(report, "new", "p50")] == [5, 2]
    assert tool.runs(report, "live", "p50") == []
    text = page(whole(rounds=rounds))
    assert "No answers." in words(text)


def test_a_colour_that_answers_nothing_is_drawn_as_nothing() -> None:
    silent = side(0, 0, None, None, None)
    text = page(whole(rounds=[judged(15, silent, side(900))]))
    assert bars(text, "requests new") == []
    assert "new –, live 0 %" in words(text)


# --- hostile


HOSTILE = "</style><script>alert(1)</script>\"'&lt;<b x=\u0000\ud800\x1b[31m"


def test_hostile_words_are_only_words() -> None:
    data = json.loads(json.dumps(whole()).replace("web1", "W").replace("Canary", "W").replace("Stage", "W"))
    data |= {
        "app": HOSTILE,
        "sha": HOSTILE,
        "outcome": HOSTILE,
        "next": HOSTILE,
        "messages": [HOSTILE, {"what": HOSTILE}],
    }
    data["hosts"] = [HOSTILE, {"name": HOSTILE, HOSTILE: HOSTILE}]
    data["phases"] = [{"name": HOSTILE, "start": START, "end": START + 40}]
    data["rounds"] = [judged(15, side(9, 1), side(9), phase=HOSTILE, verdict=HOSTILE, why=HOSTILE)]
    text = page(data)
    root = parsed(text)
    assert {one.tag for one in root.iter()} >= {"html", "table", "svg"}
    assert not list(root.iter("script"))
    assert not list(root.iter("b")) or all(not one.attrib for one in root.iter("b"))
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
        "phase": scalars,
        "share": scalars,
        "verdict": scalars,
        "why": scalars,
        "colours": st.fixed_dictionaries({}, optional={"new": sides | anything, "live": sides}) | anything,
    },
)
phases = st.fixed_dictionaries({}, optional={"name": scalars, "start": st.floats(0, 2e9) | scalars, "end": scalars})
reports = st.fixed_dictionaries(
    {},
    optional={
        "app": anything,
        "sha": anything,
        "outcome": anything,
        "started": scalars,
        "ended": scalars,
        "hosts": anything,
        "phases": st.lists(phases | anything, max_size=3) | anything,
        "rounds": st.lists(rounds | anything, max_size=4) | anything,
        "messages": anything,
        "next": anything,
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
    assert tool.marks(100, 190) == [100, 115, 130, 145, 160, 175, 190]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0042, "4.2 ms"), (0.02, "20 ms"), (0.9994, "999 ms"), (1.234, "1.23 s"), (0, "0 ms")],
)
def test_latencies(value: float | None, shown: str) -> None:
    assert tool.latency(value).replace("\u00a0", " ") == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (-1, "–"), (4.21, "4.2 s"), (74, "74 s"), (121, "2 min 01 s"), (7260, "2 h 01 min")],
)
def test_lengths(value: float | None, shown: str) -> None:
    assert tool.length(value) == shown


def test_what_is_no_number_is_none() -> None:
    for value in (True, "3", math.nan, math.inf, 10**400, None, [], 1e16):
        assert tool.number(value) is None
    assert (tool.number(3), tool.amount(-1), tool.moment(1e14)) == (3.0, None, "–")


# --- the program


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "scripts" / "report"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_writes_beside_the_report_or_where_it_is_told(tmp_path: Path) -> None:
    source = tmp_path / "report.json"
    source.write_text(json.dumps(whole()))
    done = program(source)
    assert (done.returncode, done.stdout.strip()) == (0, str(tmp_path / "report.html"))
    assert "3f9c2a7b51e0" in words((tmp_path / "report.html").read_text())
    assert program(source, "-o", tmp_path / "x.html").returncode == 0
    assert (tmp_path / "x.html").read_text() == (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (None, [], "No such file"),
        ("{", [], "is not JSON"),
        ("[]", [], "must be an object"),
        ("{}", ["-o", "report.json"], "another name"),
        ("{}", ["-o", "nowhere/x.html"], "cannot write"),
    ],
)
def test_the_program_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("report.json").write_text(content)
    done = program("report.json", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert content is None or Path("report.json").read_text() == content
