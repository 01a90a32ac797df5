"""What the proof sends, how it judges a series, and what it shows."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import switches as tool
from support.common import Failure
from support.load import Load, Moment, parse_target
from support.load.shapes import KINDS
from support.load.tally import Seen

FACTS = {
    "format": 1,
    "date": "2026-11-21",
    "command": "benchmarks/switches.py --hosts 1",
    "versions": {"bluegreen": "abc", "ansible": "core 2.19", "processors": "2", "hosts": "containers"},
}


def kind(
    requests: int = 100, failed: int = 0, refused: int = 0, closed: int = 0, p99: float = 20.0
) -> dict[str, float]:
    counts = {"requests": requests, "failed": failed, "refused": refused, "closed": closed}
    return counts | {"p50_ms": 5.0, "p95_ms": 9.0, "p99_ms": p99, "max_ms": 50.0}


def report(kinds: dict[str, dict[str, float]], failures: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"kinds": kinds, "seconds": 60.0, "sent_late": 0, "failures": failures or []}


def series(kinds: dict[str, dict[str, float]], changes: list[tool.Change] | None = None, **more: Any) -> tool.Series:
    return tool.series(1, "50 switches", "HTTP/1.1", 0, report(kinds, **more), changes or [])


def seen(last_sent: float | None) -> Seen:
    now = Moment(0, 100)
    return Seen(1, now, now, now, Moment(0, last_sent) if last_sent is not None else None)


# --- what is sent


@pytest.mark.parametrize("server", ["asgi", "wsgi"])
@pytest.mark.parametrize("secure", [False, True])
def test_every_kind_that_can_be_sent_is_sent(secure: bool, server: str) -> None:
    shapes = tool.profile(secure, server)
    wanted = set(KINDS) - (set() if secure else {"h2"}) - (set() if server == "asgi" else {"websocket"})
    assert {shape.kind for shape in shapes} == wanted
    url = "https://127.0.0.1:1" if secure else "http://127.0.0.1:1"
    Load([parse_target(url)], profile=shapes)  # refuses a mix that it cannot send
    assert all(shape.ends for shape in shapes if "/stream" in shape.path)


def test_http2_sends_gets_posts_and_what_is_long_too() -> None:
    over_h2 = [shape for shape in tool.profile(True, "asgi") if shape.kind == "h2"]
    assert {shape.method for shape in over_h2} == {"GET", "POST"}
    assert {"/slow", "/stream", "/upload"} <= {shape.path.partition("?")[0] for shape in over_h2}


def test_what_is_long_ends_before_the_load_does() -> None:
    longest = max(
        float(found) for shape in tool.profile(True, "asgi") for found in re.findall(r"seconds=(\d+)", shape.path)
    )
    assert longest < tool.AFTER


# --- judging


def test_a_series_is_good_if_nothing_failed_and_everything_was_answered() -> None:
    change = tool.Change(1.0, 1.4, 0.0)
    assert series({"get": kind(), "h2": kind(refused=2), "websocket": kind(closed=6)}, [change]).good


@pytest.mark.parametrize(
    ("kinds", "changes"),
    [
        ({}, []),
        ({"get": kind(failed=1)}, []),
        ({"get": kind(), "h2": kind(100, refused=100)}, []),
        ({"get": kind(), "websocket": kind(6, closed=6)}, []),
        ({"get": kind()}, [tool.Change(1.0, 1.4, 0.0), tool.Change(2.0, 2.4, 0.05)]),
    ],
)
def test_a_series_is_not_good(kinds: dict[str, dict[str, float]], changes: list[tool.Change]) -> None:
    assert not series(kinds, changes).good


def test_only_what_was_sent_after_a_switch_makes_the_old_release_late() -> None:
    log: list[tool.Request] = []
    taken = tool.Log(log)
    for sent, kind in ((9.99, "get"), (10.25, "slow"), (10.5, "websocket"), (18.1, "upload")):
        line = {"monotonic": sent + 2, "sent": 500.0, "answered": 502.0, "kind": kind, "release": "a", "ok": True}
        taken.write(json.dumps(line))
    assert tool.lateness(log, "a", 10, 20) == 0.25
    assert tool.lateness(log, "a", 10.25, 20) == 0
    assert tool.lateness(log, "b", 10, 20) == 0
    assert tool.answered_since(seen(10.25), 10)
    assert not tool.answered_since(seen(10), 10)
    assert not tool.answered_since(None, 10)


def test_the_generation_is_above_all_that_was_accepted() -> None:
    def answer(**lease: object) -> dict[str, Any]:
        return {"results": {"lease": lease}}

    assert tool.fence([answer(generation=4, fence=3), answer(generation=4, fence=7)]) == 8
    assert tool.fence([answer(generation=9, fence=3)]) == 9
    assert tool.fence([answer(generation=None, fence=0)]) == 1
    assert tool.fence([answer()]) is None


# --- what is shown


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_overview_has_a_row_for_each_series() -> None:
    changes = [tool.Change(0, 0.3, 0), tool.Change(1, 1.5, 0), tool.Change(2, 2.2, 0)]
    one = series({"get": kind(70), "fresh": kind(30, failed=2)}, changes)
    two = tool.series(3, "10 deploys", "TLS", 10, report({"h2": kind(5, refused=1), "websocket": kind(9, closed=4)}))
    assert rows(tool.overview([one, two])) == [
        ["1", "50 switches, HTTP/1.1", "100", "2", "0", "0", "0.30 s, 0.50 s", "never", ""],
        ["3", "10 deploys, TLS, +10 ms", "14", "0", "1", "4", "–", "–", ""],
    ]
    late = series({"get": kind()}, [tool.Change(0, 1, 0.125)])
    assert rows(tool.overview([late]))[0][-2] == "up to 0.125 s"


def test_kinds_are_summed_over_the_series() -> None:
    found = [series({"get": kind(70, p99=12), "h2": kind(5, refused=1)}), series({"get": kind(30, failed=2, p99=31)})]
    assert rows(tool.by_kind(found)) == [
        ["get", "100", "2", "0", "0", "12–31 ms"],
        ["h2", "5", "0", "1", "0", "20–20 ms"],
    ]


def test_the_page_names_the_bound_or_the_failures() -> None:
    good = tool.text([series({"get": kind(3000)})], FACTS)
    assert "**0 of 3000 requests failed.**" in good
    assert "fewer than 1 in 1000" in good
    assert "Nothing." in good
    failure = {"kind": "post", "method": "POST", "path": "/api/quote/", "detail": "status 502"}
    bad = tool.text([series({"get": kind(3000, failed=1)}, failures=[failure])], FACTS)
    assert "**1 of 3000 requests failed.**" in bad
    assert "fewer than" not in bad
    assert "- 1 host(s), 50 switches, HTTP/1.1: post POST /api/quote/: status 502" in bad


def test_the_results_are_written_for_people_and_programs(tmp_path: Path) -> None:
    tool.write([series({"get": kind(3000)}, [tool.Change(1, 1.5, 0)])], FACTS, tmp_path / "results")
    data = json.loads((tmp_path / "results" / "switches.json").read_text())
    assert data["command"] == FACTS["command"]
    assert data["series"][0]["requests"] == 3000
    assert data["series"][0]["good"] is True
    assert data["series"][0]["changes"] == [{"started": 1, "done": 1.5, "late": 0}]
    assert "0 of 3000" in (tmp_path / "results" / "switches.md").read_text()


def test_what_was_measured_before_stays_with_its_commit_unless_it_is_measured_anew(tmp_path: Path) -> None:
    old = [series({"get": kind(100)}), series({"get": kind(200)})]
    old[1].server, old[1].by = "sync", "abc1234"
    tool.write(old, FACTS | {"notes": ["One run was broken off."]}, tmp_path)
    before, notes = tool.earlier(tmp_path)
    found = tool.joined(before, [series({"get": kind(300)})])
    assert [(one.server, one.by, one.total("requests")) for one in found] == [
        ("asgi", "", 300),
        ("sync", "abc1234", 200),
    ]
    assert "sync workers" in tool.overview(found)
    assert notes == ["One run was broken off."]
    assert "One run was broken off." in (tmp_path / "switches.md").read_text()
    assert tool.earlier(tmp_path / "nothing") == ([], [])


# --- the command line


def test_the_defaults() -> None:
    given = tool.checked([])
    assert isinstance(given, argparse.Namespace)
    assert (given.hosts, given.switches, given.deploys, given.server) == ([1, 3], 50, 10, "asgi")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--switches", "-1"], "--switches -1"),
        (["--deploys", "1001"], "--deploys 1001"),
        (
            ["--switches", "0", "--stops", "0", "--deploys", "0", "--forward", "0", "--provisions", "0"],
            "nothing is left",
        ),
    ],
)
def test_refused_options(arguments: list[str], says: str) -> None:
    with pytest.raises(Failure, match=says) as refused:
        tool.checked(arguments)
    assert refused.value.code == 2
