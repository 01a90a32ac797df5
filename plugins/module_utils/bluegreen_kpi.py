"""Whether figures that a Prometheus knows keep to their thresholds. Pure functions; bluegreen_prometheus.py asks.

A KPI is {name, query, min and/or max, for}. A round is {round, kpis}: the number of the round, counted from 1, and for
each KPI {name, value, why}: a number, or None and why there is none. One value beyond a threshold may be a mistake of
the measurement: only IN_A_ROW of them fail. Nothing that is not known ever passes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Kpi = Mapping[str, Any]
Round = Mapping[str, Any]

KEYS = ("name", "query", "min", "max", "for")
PHASES = ("canary", "watch", "both")
PLACEHOLDERS = ("app", "sha", "release", "colour_new", "colour_live", "window")
PLACEHOLDER = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
SAFE = re.compile(r"[A-Za-z0-9._-]+")  # what may stand for a placeholder: it comes from hosts, and ends in a query
IN_A_ROW = 2  # rounds beyond a threshold that fail
MAX_AGE = 60.0  # seconds; an older value is stale
TOLD = 160  # characters of what a source says about itself


@dataclasses.dataclass(frozen=True)
class Sample:
    """One answer: a value, or why there is none. `mistake`: the query is wrong, and stays wrong."""

    value: float | None = None
    why: str = ""
    mistake: bool = False


def concerned(kpis: Sequence[Kpi], phase: str) -> list[Kpi]:
    """The KPIs that are asked for in a phase (`canary` or `watch`)."""
    return [kpi for kpi in kpis if kpi.get("for", "both") in (phase, "both")]


# the question


def unknown_placeholders(query: str) -> list[str]:
    """The names after a `$` that stand for nothing. A `$` at the end of a regular expression is none."""
    return [name for name in PLACEHOLDER.findall(query) if name not in PLACEHOLDERS]


def fill(query: str, values: Mapping[str, str]) -> tuple[str, list[str]]:
    """The query with its placeholders replaced by whole name, and the names that could not be."""
    lacking = [name for name in PLACEHOLDER.findall(query) if not SAFE.fullmatch(values.get(name) or "")]
    return PLACEHOLDER.sub(lambda found: values.get(found[1]) or found[0], query), sorted(set(lacking))


# the answer


def read(status: int, body: bytes, now: float) -> Sample:
    """What an answer of /api/v1/query says. `now`: seconds since 1970."""
    said = parsed(body)
    if status != 200:
        error = f": {short(said['error'])}" if said.get("error") else ""
        return Sample(None, f"HTTP status {status}{error}", status == 400 and said.get("errorType") == "bad_data")
    data = said.get("data")
    if said.get("status") != "success" or not isinstance(data, Mapping):
        return Sample(None, "the answer is not a Prometheus's JSON")
    kind, result = data.get("resultType"), data.get("result")
    if kind not in ("vector", "scalar") or not isinstance(result, list):
        return Sample(None, f"the query gives a {short(kind)}, not a number", True)
    if kind == "scalar":
        return number(result, now)
    if not result:
        return Sample(None, "the query finds nothing")
    if len(result) > 1:
        return Sample(None, f"the query gives {len(result)} series: aggregate it, with sum() for example", True)
    return number(result[0].get("value") if isinstance(result[0], Mapping) else None, now)


def parsed(body: bytes) -> Mapping[str, Any]:
    """A JSON object; empty if it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def number(pair: object, now: float) -> Sample:
    """A moment and a value, as Prometheus writes them: [1760000000.1, "41"]."""
    parts: list[Any] = pair if isinstance(pair, list) and len(pair) == 2 else [None, None]
    try:
        at, value = float(parts[0]), float(parts[1])
    except (TypeError, ValueError, OverflowError):
        return Sample(None, "the answer is not a Prometheus's JSON")
    if not math.isfinite(value):
        return Sample(None, f"the value is {value}")
    return fresh(Sample(value), at, now)


def fresh(said: Sample, at: float, now: float) -> Sample:
    """The sample, if it is of a moment that is near enough."""
    if abs(now - at) <= MAX_AGE:
        return said
    age = f"{now - at:.0f} s old" if now > at else f"{at - now:.0f} s ahead of the clock here"
    return Sample(None, f"the value is {age}, {MAX_AGE:.0f} s may be")


def aged(said: Sample, moment: Sample, now: float) -> Sample:
    """The sample, given what `timestamp(query)` said: nothing, where the query is a scalar."""
    return said if moment.value is None else fresh(said, moment.value, now)


def short(text: object) -> str:
    """What a source says, in one printable line."""
    line = " ".join("".join(char if char.isprintable() else " " for char in str(text)).split())
    return line if len(line) <= TOLD else line[: TOLD - 1] + "…"


# the verdict


def side(kpi: Kpi, value: float) -> str:
    """On which side a value is beyond its threshold: `less than 30`; empty if it is not."""
    if kpi.get("min") is not None and value < float(kpi["min"]):
        return f"less than {figure(float(kpi['min']))}"
    if kpi.get("max") is not None and value > float(kpi["max"]):
        return f"more than {figure(float(kpi['max']))}"
    return ""


def sample(kpi: Kpi, one: Round | None) -> Mapping[str, Any]:
    """What a round found of a KPI."""
    for found in (one or {}).get("kpis") or []:
        if found.get("name") == kpi["name"]:
            return dict(found)
    return {"name": kpi["name"], "value": None, "why": "it was not asked for"}


def at_round(rounds: Sequence[Round], wanted: int) -> Round | None:
    """The round with a number, if it was asked."""
    return next((one for one in rounds if one.get("round") == wanted), None)


def judge(kpis: Sequence[Kpi], rounds: Sequence[Round], last: int) -> tuple[list[str], list[str]]:
    """Why the KPIs fail, and why they prove nothing, after round `last`; both are empty if all of them are good."""
    fails, doubts = [], []
    for kpi in kpis:
        recent = [sample(kpi, at_round(rounds, last - back)) for back in range(IN_A_ROW)]
        value = recent[0].get("value")
        if value is None:
            doubts.append(f"{kpi['name']} is not known: {recent[0].get('why')}")
        elif beyond := side(kpi, value):
            said = f"{kpi['name']} is {figure(value)}, {beyond} (judge_kpis)"
            if all(one.get("value") is not None and side(kpi, one["value"]) for one in recent):
                fails.append(f"{said}, in {IN_A_ROW} rounds in a row")
            else:
                doubts.append(f"{said}, and was not in the round before")
    return fails, doubts


def verdict(kpi: Kpi, rounds: Sequence[Round], last: int) -> tuple[str, str]:
    """What one KPI alone says after round `last`: pass, fail or inconclusive, and why."""
    fails, doubts = judge([kpi], rounds, last)
    word = "fail" if fails else "inconclusive" if doubts else "pass"
    return word, next(iter([*fails, *doubts]), "")


# words


def figure(value: float) -> str:
    """`41`, `0.25`, `1,250`."""
    return f"{value:,.6g}"


def threshold(kpi: Kpi) -> str:
    """`min 30`, `max 2`, `min 1, max 5`."""
    return ", ".join(f"{key} {figure(float(kpi[key]))}" for key in ("min", "max") if kpi.get(key) is not None)


def words(kpi: Kpi, one: Round | None) -> str:
    """A KPI in the line of a round: `orders_per_minute 41 (min 30)`, `orders_per_minute ? (no answer within 2 s)`."""
    found = sample(kpi, one)
    if found.get("value") is None:
        return f"{kpi['name']} ? ({found.get('why')})"
    return f"{kpi['name']} {figure(float(found['value']))} ({threshold(kpi)})"
