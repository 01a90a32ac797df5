"""A deploy's report.json as one self-contained page: what was asked for, what visitors got, how it ended.

The page needs nothing but itself: no script, no font, no other address. What the JSON does not hold is a gap.

The JSON: {app, sha, outcome, started, ended, hosts: [name or object], phases: [{name, start, end}], rounds: [{at,
seconds, phase, share, colours: {new: {requests, errors, p50, p95, p99}, live: {…}}, verdict, why}], messages: [text or
object], next}. Times are seconds since the epoch, latencies seconds. `at` is when a round was judged: the end of its
`seconds`.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from support.common import Failure, write_atomic

SIDES = ("live", "new")  # from the bottom of a stack to its top
QUANTILES = ("p50", "p95", "p99")
WIDTH, HEIGHT = 1000.0, 200.0  # of every drawing, in its own units; the page stretches it
GOOD = ("confirm", "commit", "pass", "done", "ok", "success", "rolled back", "finished", "nothing to do", "unjudged")
BAD = ("fail", "revert", "refus", "abort", "error", "bad", "lost", "mixed", "broken", "cancel")
STYLE = Path(__file__).with_name("report.css")
GAP = 1.5  # two rounds that are so many of their lengths apart are not joined


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A phase of the deploy; seconds since the epoch, None where unknown."""

    name: str
    start: float | None
    end: float | None


@dataclass(frozen=True)
class Side:
    """What visitors of one release got in one round. Latencies in seconds, None where unknown."""

    requests: float | None = None
    errors: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Round:
    """One judged window, from `start` to `end` (seconds since the epoch). share: of the new release, percent."""

    start: float
    end: float
    phase: str
    share: float | None
    sides: dict[str, Side]
    verdict: str
    why: str

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True)
class Report:
    """All that is known of one deploy."""

    app: str = ""
    sha: str = ""
    outcome: str = ""
    started: float | None = None
    ended: float | None = None
    hosts: list[dict[str, str]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    todo: str = ""


def number(value: object) -> float | None:
    """A number that can be drawn; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) and abs(found) < 1e15 else None


def amount(value: object) -> float | None:
    """The same for what cannot be below 0."""
    found = number(value)
    return found if found is not None and found >= 0 else None


def text(value: object) -> str:
    """A word or a number as text; empty for everything else."""
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


def _items(value: object) -> list[dict[str, object]]:
    found = value if isinstance(value, list) else []
    return [one for one in found if isinstance(one, dict)]


def read(data: object) -> Report:
    """The report in decoded JSON, whatever it holds. Never raises."""
    given = data if isinstance(data, dict) else {}
    messages = given.get("messages")
    said = messages if isinstance(messages, list) else [messages]
    return Report(
        text(given.get("app")),
        text(given.get("sha")),
        text(given.get("outcome")),
        number(given.get("started")),
        number(given.get("ended")),
        _hosts(given.get("hosts")),
        [
            Phase(text(one.get("name")), number(one.get("start")), number(one.get("end")))
            for one in _items(given.get("phases"))
        ],
        sorted(filter(None, map(_round, _items(given.get("rounds")))), key=lambda one: one.end),
        [line for line in map(_message, said) if line],
        text(given.get("next")) or _next(said),
    )


def _hosts(value: object) -> list[dict[str, str]]:
    if isinstance(value, dict):
        value = [{"name": name} | (one if isinstance(one, dict) else {}) for name, one in value.items()]
    found = []
    for one in value if isinstance(value, list) else []:
        row = {str(key): text(cell) for key, cell in one.items()} if isinstance(one, dict) else {"name": text(one)}
        if any(row.values()):
            found.append(row)
    return found


def _round(one: dict[str, object]) -> Round | None:
    at, seconds = number(one.get("at")), amount(one.get("seconds"))
    if at is None:
        return None
    colours = one.get("colours")
    given = colours if isinstance(colours, dict) else {}
    sides = {
        name: Side(*(amount(given[name].get(key)) for key in ("requests", "errors", *QUANTILES)))
        for name in SIDES
        if isinstance(given.get(name), dict)
    }
    length = seconds or 1.0
    return Round(
        at - length,
        at,
        text(one.get("phase")),
        amount(one.get("share")),
        sides,
        text(one.get("verdict")),
        text(one.get("why")),
    )


def _message(one: object) -> str:
    if isinstance(one, dict):
        words = [text(one.get("what")), *(f"{key}: {text(one[key])}" for key in ("why", "next") if text(one.get(key)))]
        return "\n".join(word for word in words if word)
    return text(one)


def _next(messages: Iterable[object]) -> str:
    """What to type next: the last message that says it."""
    found = ""
    for one in messages:
        if isinstance(one, dict):
            found = text(one.get("next")) or found
        else:
            lines = re.findall(r"^\s*next:?\s+(\S.*)$", text(one), flags=re.MULTILINE)
            found = lines[-1] if lines else found
    return found


# --- reckoning ----------------------------------------------------------------------------------------------------


def mood(outcome: str) -> str:
    """How an outcome or a verdict looks: good, bad or open."""
    said = outcome.lower()
    if any(word in said for word in BAD):
        return "bad"
    return "good" if any(word in said for word in GOOD) else "open"


def total(report: Report, side: str, what: str) -> float:
    """Requests or errors of one release over all rounds."""
    return sum(getattr(one.sides[side], what) or 0.0 for one in report.rounds if side in one.sides)


def error_share(requests: float, errors: float) -> float | None:
    """Percent; None without requests."""
    return 100 * errors / requests if requests else None


def span(report: Report) -> tuple[float, float] | None:
    """From the first to the last moment that anything is known of; None if there is none."""
    moments = [report.started, report.ended]
    moments += [moment for phase in report.phases for moment in (phase.start, phase.end)]
    moments += [moment for one in report.rounds for moment in (one.start, one.end)]
    known = [moment for moment in moments if moment is not None]
    return (min(known), max(*known, min(known) + 1)) if known else None


def watched(report: Report) -> tuple[float, float] | None:
    """The time that the drawings of rounds show: the rounds, and a little around them."""
    if not report.rounds:
        return None
    start, end = min(one.start for one in report.rounds), max(one.end for one in report.rounds)
    around = 0.02 * (end - start)
    return start - around, end + around


def ticks(high: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to at least `high`, at most `most` steps."""
    if high <= 0:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(high / most))
    while math.ceil(high / step - 1e-9) > most:
        lead = round(step / 10 ** math.floor(math.log10(step) + 1e-9))
        step *= {1: 2, 2: 2.5, 5: 2}.get(lead, 2)
    return [step * place for place in range(math.ceil(high / step - 1e-9) + 1)]


def marks(start: float, end: float, most: int = 6) -> list[float]:
    """Whole seconds after `start` at which a time axis is labelled."""
    wanted = (end - start) / most
    fitting = (step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200) if step >= wanted)
    step = next(fitting, 3600 * math.ceil(wanted / 3600))
    return [start + step * place for place in range(int((end - start) / step) + 1)]


def runs(report: Report, side: str, what: str) -> list[list[tuple[float, float]]]:
    """A latency over time, in pieces: a round without it, or without a neighbour, ends a piece."""
    pieces: list[list[tuple[float, float]]] = []
    before: float | None = None
    for one in report.rounds:
        value = getattr(one.sides[side], what) if side in one.sides else None
        if value is None:
            before = None
            continue
        if before is None or one.start - before > (GAP - 1) * one.seconds + 0.5:
            pieces.append([])
        pieces[-1].append(((one.start + one.end) / 2, value))
        before = one.end
    return pieces


# --- words --------------------------------------------------------------------------------------------------------


def esc(value: object) -> str:
    """Text that is text wherever it stands in the page; what XML cannot hold becomes a question mark."""
    return html.escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", str(value)))


def count(value: float | None) -> str:
    """A number of things, as people write it."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def rate(value: float) -> str:
    """A number on an axis."""
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 10 or value == int(value) else f"{value:.2g}"


def percent(value: float | None) -> str:
    """A share with as many digits as tell something."""
    if value is None:
        return "–"
    return f"{value:.0f}\u00a0%" if value == 0 or value >= 10 else f"{value:.2g}\u00a0%"


def latency(value: float | None) -> str:
    """Seconds as milliseconds, or as seconds where they are many."""
    if value is None:
        return "–"
    if value >= 1:
        return f"{value:.2f}\u00a0s"
    return f"{1000 * value:.0f}\u00a0ms" if value >= 0.01 or value == 0 else f"{1000 * value:.1f}\u00a0ms"


def length(value: float | None) -> str:
    """A span of seconds."""
    if value is None or value < 0:
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value // 60:.0f} min {value % 60:02.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:02.0f} min"


def moment(value: float | None, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    """A point in time."""
    if value is None:
        return "–"
    try:
        return datetime.fromtimestamp(value, UTC).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "–"


# --- drawing ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """Where moments and values lie in a drawing."""

    start: float
    end: float
    high: float

    def x(self, at: float) -> float:
        """From the left."""
        return WIDTH * (at - self.start) / (self.end - self.start)

    def y(self, value: float) -> float:
        """From the top."""
        return HEIGHT * (1 - min(value, self.high) / self.high)


def box(frame: Frame, start: float, end: float, low: float, high: float, kind: str, told: str) -> str:
    """A bar from `start` to `end`, from `low` to `high`, that says what it is."""
    if high <= low:
        return ""
    left, top = frame.x(start), frame.y(high)
    wide, tall = frame.x(end) - left, frame.y(low) - top
    shape = f'x="{left:.2f}" y="{top:.2f}" width="{wide:.2f}" height="{tall:.2f}"'
    return f'<rect class="{kind}" {shape}><title>{esc(told)}</title></rect>'


def line(frame: Frame, points: Sequence[tuple[float, float]], kind: str) -> str:
    """A line through points; a single point becomes a short dash."""
    places = [(frame.x(at), frame.y(value)) for at, value in points]
    if len(places) == 1:
        places = [(places[0][0] - 6, places[0][1]), (places[0][0] + 6, places[0][1])]
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in places)
    return f'<polyline class="{kind}" points="{path}"/>'


def band(frame: Frame, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], kind: str) -> str:
    """The area between two lines."""
    corners = [*high, *reversed(low)]
    path = " ".join(f"{frame.x(at):.2f},{frame.y(value):.2f}" for at, value in corners)
    return f'<polygon class="{kind}" points="{path}"/>'


def drawing(
    frame: Frame, inner: str, label: str, values: Callable[[float], str], axis: list[float], zero: float
) -> str:
    """A drawing with its axes. The shapes stretch with the page, the words beside them keep their size."""
    grid = "".join(
        f'<line class="grid" x1="0" x2="{WIDTH:g}" y1="{frame.y(v):.2f}" y2="{frame.y(v):.2f}"/>' for v in axis
    )
    scale = "".join(f'<span style="top:{100 * frame.y(v) / HEIGHT:.2f}%">{esc(values(v))}</span>' for v in axis)
    times = "".join(
        f'<span style="left:{100 * frame.x(at) / WIDTH:.2f}%">{esc(clock(at - zero))}</span>'
        for at in marks(zero, frame.end)
        if frame.start <= at <= frame.end and frame.x(at) <= 0.97 * WIDTH
    )
    return (
        f'<div class="plot"><div class="scale" aria-hidden="true">{scale}</div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" aria-label="{esc(label)}">'
        f'{grid}{inner}</svg><div class="times" aria-hidden="true">{times}</div></div>'
    )


def clock(seconds: float) -> str:
    """Time since the start of the deploy, as the axes show it."""
    whole = round(seconds)
    return f"+{whole // 60}:{whole % 60:02d}" if whole >= 60 else f"+{whole} s"


def borders(report: Report, frame: Frame) -> str:
    """A line where each phase starts."""
    return "".join(
        f'<line class="border" x1="{frame.x(one.start):.2f}" x2="{frame.x(one.start):.2f}" y1="0" y2="{HEIGHT:g}"/>'
        for one in report.phases
        if one.start is not None and frame.start < one.start < frame.end
    )


def strip(report: Report, start: float, end: float) -> str:
    """The phases' names above a drawing, each as wide as it took; a name that does not fit is cut."""
    frame = Frame(start, end, 1)
    cells = []
    for one in report.phases:
        if one.start is None or one.end is None or one.end <= start or one.start >= end:
            continue
        left, right = frame.x(max(one.start, start)) / 10, frame.x(min(one.end, end)) / 10
        told = f"{one.name}: {length(one.end - one.start)}"
        shown = esc(one.name) if right - left > 5 else ""
        cells.append(
            f'<span style="left:{left:.2f}%;width:{max(0.2, right - left):.2f}%" title="{esc(told)}">{shown}</span>'
        )
    return f'<div class="strip">{"".join(cells)}</div>' if cells else ""


def stack(report: Report, what: str, title: str, unit: str) -> str:
    """Requests or errors per second, one release on the other."""
    window = watched(report)
    assert window is not None
    tops = [sum(getattr(side, what) or 0 for side in one.sides.values()) / one.seconds for one in report.rounds]
    axis = ticks(max(1.0, *tops))  # a single error must not fill the drawing
    frame = Frame(*window, axis[-1])
    shapes = []
    for one in report.rounds:
        low = 0.0
        for name in SIDES:
            found = getattr(one.sides[name], what) if name in one.sides else None
            if found is None:
                continue
            high = low + found / one.seconds
            share = f", share {percent(one.share)}" if one.share is not None else ""
            told = f"{clock(one.end - origin(report))} {one.phase}: {count(found)} {what} of the {name} release{share}"
            shapes.append(box(frame, one.start, one.end, low, high, f"{what} {name}", told))
            low = high
    body = "".join(shapes) + borders(report, frame)
    shown = drawing(frame, body, title, rate, axis, origin(report))
    caption = f'<figcaption><b>{title}</b> <span class="unit">{unit}</span>{LEGEND[what]}</figcaption>'
    return f"<figure>{caption}{strip(report, *window)}{shown}</figure>"


LEGEND = {
    "requests": '<span class="key"><i class="requests new"></i>new <i class="requests live"></i>live</span>',
    "errors": '<span class="key"><i class="errors new"></i>new <i class="errors live"></i>live</span>',
}


def origin(report: Report) -> float:
    """The moment from which the axes count."""
    whole = span(report)
    assert whole is not None
    return report.started if report.started is not None and report.started <= whole[1] else whole[0]


def latencies(report: Report) -> str:
    """p50, p95 and p99 of each release, side by side on the same scale."""
    window = watched(report)
    assert window is not None
    known = [
        value
        for one in report.rounds
        for side in one.sides.values()
        for value in (side.p50, side.p95, side.p99)
        if value is not None
    ]
    if not known:
        return '<p class="none">No latencies were measured.</p>'
    axis = ticks(max(known))
    frame = Frame(*window, axis[-1])
    panels = []
    for name in reversed(SIDES):
        pieces = {quantile: runs(report, name, quantile) for quantile in QUANTILES}
        if not any(pieces.values()):
            panels.append(
                f'<div><h3><i class="requests {name}"></i>{name} release</h3><p class="none">No answers.</p></div>'
            )
            continue
        body = "".join(
            band(frame, low, high, f"band {name}")
            for low, high in zip(pieces["p50"], pieces["p99"], strict=False)
            if len(low) > 1 and [at for at, _ in low] == [at for at, _ in high]
        )
        body += "".join(
            line(frame, piece, f"{quantile} {name}") for quantile in QUANTILES for piece in pieces[quantile]
        )
        last = ", ".join(f"{q} {latency(pieces[q][-1][-1][1])}" for q in QUANTILES if pieces[q])
        heading = f'<h3><i class="requests {name}"></i>{name} release <small>last: {esc(last)}</small></h3>'
        label = f"latency of the {name} release; last: {last}"
        panels.append(
            f"<div>{heading}{drawing(frame, body + borders(report, frame), label, latency, axis, origin(report))}</div>"
        )
    key = '<span class="key"><i class="l50"></i>p50 <i class="l95"></i>p95 <i class="l99"></i>p99</span>'
    caption = f'<figcaption><b>Latency</b> <span class="unit">of the answers in each round</span>{key}</figcaption>'
    return f'<figure>{caption}<div class="pair">{"".join(panels)}</div></figure>'


# --- the page -----------------------------------------------------------------------------------------------------


def timeline(report: Report) -> str:
    """The phases, each where it lay in the deploy."""
    whole = span(report)
    if not report.phases or whole is None:
        return ""
    rows = []
    for one in report.phases:
        took = one.end - one.start if one.start is not None and one.end is not None else None
        bar = ""
        if one.start is not None and one.end is not None and one.end >= one.start:
            frame = Frame(*whole, 1)
            left, right = frame.x(one.start) / 10, frame.x(one.end) / 10
            bar = f'<i style="left:{min(left, 99.5):.2f}%;width:{max(0.5, right - left):.2f}%"></i>'
        rows.append(f"<li><span>{esc(one.name) or '–'}</span><div>{bar}</div><span>{length(took)}</span></li>")
    return f'<section><h2>Phases</h2><ol class="phases">{"".join(rows)}</ol></section>'


def tiles(report: Report) -> str:
    """The figures that matter, large."""
    cells = []
    took = report.ended - report.started if report.started is not None and report.ended is not None else None
    cells.append(("took", length(took), ""))
    if report.rounds:
        asked = {name: total(report, name, "requests") for name in SIDES}
        wrong = {name: total(report, name, "errors") for name in SIDES}
        cells.append(("requests judged", count(sum(asked.values())), f"{count(asked['new'])} by the new release"))
        share = {name: percent(error_share(asked[name], wrong[name])) for name in SIDES}
        cells.append(("errors", count(sum(wrong.values())), f"new {share['new']}, live {share['live']}"))
        worst = {name: worst_p95(report, name) for name in SIDES}
        cells.append(("highest p95, new", latency(worst["new"]), f"live {latency(worst['live'])}"))
    return "".join(
        f'<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd><dd class="small">{esc(more)}</dd></div>'
        for name, value, more in cells
    )


def worst_p95(report: Report, side: str) -> float | None:
    """The highest p95 of any round."""
    return max(
        (one.sides[side].p95 or 0 for one in report.rounds if side in one.sides and one.sides[side].p95 is not None),
        default=None,
    )


def verdict_table(report: Report) -> str:
    """Verdict, hosts and times, first on the page."""
    rows = [("outcome", f'<span class="badge {mood(report.outcome)}">{esc(report.outcome) or "unknown"}</span>')]
    judged = next((one for one in reversed(report.rounds) if one.verdict), None)
    if judged:
        why = f" {esc(judged.why)}" if judged.why else ""
        rows.append(("last verdict", f'<span class="badge {mood(judged.verdict)}">{esc(judged.verdict)}</span>{why}'))
    rows.append(("release", f"<code>{esc(report.sha) or '–'}</code>"))
    rows.append(("started", esc(moment(report.started))))
    rows.append(("ended", esc(moment(report.ended))))
    if report.hosts:
        rows.append((f"hosts ({len(report.hosts)})", host_list(report.hosts)))
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<table class="facts"><tbody>{cells}</tbody></table>'


def host_list(hosts: Sequence[dict[str, str]]) -> str:
    """The hosts' names, or a table of them if more is known."""
    names = list(dict.fromkeys(name for host in hosts for name in host))
    if names == ["name"]:
        return ", ".join(esc(host["name"]) for host in hosts)
    head = "".join(f"<th>{esc(name)}</th>" for name in names)
    cells = (f"<td>{esc(host.get(name) or '–')}</td>" for host in hosts for name in names)
    body = "".join(f"<tr>{''.join(islice(cells, len(names)))}</tr>" for _ in hosts)
    return f'<div class="wide"><table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def round_table(report: Report) -> str:
    """Every round in figures."""
    if not report.rounds:
        return ""
    columns = ["judged", "phase", "share"]
    columns += [f"{name} {what}" for name in reversed(SIDES) for what in ("requests", "errors", *QUANTILES)]
    head = "".join(f"<th>{esc(name)}</th>" for name in [*columns, "verdict", "why"])
    body = "".join(f"<tr>{''.join(_cells(report, one))}</tr>" for one in report.rounds)
    table = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    summary = f"<summary>All rounds in figures ({len(report.rounds)})</summary>"
    return f'<section><details>{summary}<div class="wide">{table}</div></details></section>'


def _cells(report: Report, one: Round) -> Iterator[str]:
    yield f'<td title="{esc(moment(one.end))}">{esc(clock(one.end - origin(report)))}</td>'
    yield f"<td>{esc(one.phase)}</td><td>{percent(one.share)}</td>"
    for name in reversed(SIDES):
        side = one.sides.get(name, Side())
        yield f"<td>{count(side.requests)}</td>"
        yield f'<td class="{"wrong" if side.errors else ""}">{count(side.errors)}</td>'
        yield from (f"<td>{latency(value)}</td>" for value in (side.p50, side.p95, side.p99))
    badge = f'<span class="badge {mood(one.verdict)}">{esc(one.verdict)}</span>' if one.verdict else ""
    yield f'<td>{badge}</td><td class="why">{esc(one.why)}</td>'


def traffic(report: Report) -> str:
    """The drawings."""
    if not report.rounds:
        return '<section><h2>What visitors got</h2><p class="none">Nothing was judged in this run.</p></section>'
    parts = [stack(report, "requests", "Requests", "per second, by the release that answered")]
    asked = sum(total(report, name, "requests") for name in SIDES)
    if any(total(report, name, "errors") for name in SIDES):
        parts.append(stack(report, "errors", "Errors", "per second, by the release that answered"))
    else:
        parts.append(f'<p class="none good">No error in {count(asked)} requests.</p>')
    return f"<section><h2>What visitors got</h2>{''.join(parts)}{latencies(report)}</section>"


def messages(report: Report) -> str:
    """What was said in the end."""
    if not report.messages:
        return ""
    lines = "".join(f"<li>{esc(one)}</li>" for one in report.messages)
    return f'<section><h2>Messages</h2><ul class="said">{lines}</ul></section>'


def page(report: Report) -> str:
    """The whole page."""
    style = STYLE.read_text(encoding="utf-8")
    name = " ".join(word for word in (report.app, report.sha[:12]) if word) or "deploy"
    todo = ""
    if report.todo and mood(report.outcome) != "good":
        todo = f'<p class="todo"><b>Next</b> <code>{esc(report.todo)}</code></p>'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{esc(name)}: {esc(report.outcome) or "report"}</title>
<style>
{style}</style>
</head>
<body class="{mood(report.outcome)}">
<header><h1>{esc(report.app) or "Deploy"} <code>{esc(report.sha[:12])}</code></h1></header>
<main>
{verdict_table(report)}
{todo}
<dl class="tiles">{tiles(report)}</dl>
{traffic(report)}
{timeline(report)}
{messages(report)}
{round_table(report)}
</main>
</body>
</html>
"""


# --- the program --------------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """scripts/report: writes the page. Raises Failure."""
    parser = argparse.ArgumentParser(
        prog="scripts/report", description="Make one self-contained HTML page of a deploy's report.json."
    )
    parser.add_argument("report", type=Path, metavar="FILE", help="the report that a deploy wrote (JSON)")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to (beside it, with the ending .html)")
    given = parser.parse_args(arguments)
    output = given.output or given.report.with_suffix(".html")
    if output.resolve() == given.report.resolve():
        raise Failure(f"{output} is the report itself: give another name with --output", 2)
    try:
        data = json.loads(given.report.read_bytes())
    except OSError as error:
        raise Failure(f"{given.report}: {error.strerror}", 2) from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"{given.report} is not JSON: {error}", 2) from error
    if not isinstance(data, dict):
        raise Failure(f"{given.report} is not the report of a deploy: it must be an object with app, sha, outcome", 2)
    try:
        write_atomic(output, page(read(data)))
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}", 2) from error
    print(output)
    return 0
