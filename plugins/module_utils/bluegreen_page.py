"""The report of a run as one self-contained page: what was asked for, what visitors got, how it ended. Pure functions.

The page needs nothing but itself: no script, no font, no other address. It is drawn from report.json alone, whose
content bluegreen_report.build describes. What that does not hold is a gap.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from plugins.module_utils.bluegreen_fleet import title
from plugins.module_utils.bluegreen_text import GOOD

SIDES = ("live", "new")  # from the bottom of a stack to its top
QUANTILES = ("p50", "p95", "p99")
WIDTH, HEIGHT = 1000.0, 200.0  # of every drawing, in its own units; the page stretches it
STYLE = Path(__file__).with_suffix(".css")
GAP = 1.5  # two rounds that are so many of their lengths apart are not joined
MOODS = {
    **dict.fromkeys((*GOOD, "pass", "confirmed"), "good"),
    **dict.fromkeys(("refused", "failed", "half done", "reverted", "fail", "went back"), "bad"),
}
BACK = "revert"  # the phase that is drawn as one that nobody wants
VERDICTS = {"so far": "cut short"}
SO_FAR = {"so far": "pass so far"}  # while it goes on


# --- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """A phase of the run; seconds since 1970, None where unknown. failed: the hosts on which it failed."""

    name: str
    start: float | None
    end: float | None
    failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """What visitors of one release got. Latencies in seconds, None where unknown."""

    requests: float | None = None
    errors: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True)
class Round:
    """One round, from `start` to `end` (seconds since 1970). share: of the new release, percent.

    verdict: after it; reasons: why, or what it lacked for a pass. kpis: name → value, or None and why.
    """

    start: float
    end: float
    phase: str
    share: float | None
    sides: dict[str, Side]
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    kpis: dict[str, tuple[float | None, str]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start


@dataclass(frozen=True)
class Verdict:
    """What was said of a canary or watch in the end, and of how much."""

    phase: str
    verdict: str
    reasons: list[str]
    sides: dict[str, Side]


@dataclass(frozen=True)
class Kpi:
    """A figure that had to keep to `low` and `high`. said: phase, verdict and reason."""

    name: str
    query: str
    low: float | None
    high: float | None
    said: list[tuple[str, str, str]]

    def beyond(self, value: float) -> bool:
        """Whether a value is on the wrong side."""
        return (self.low is not None and value < self.low) or (self.high is not None and value > self.high)

    @property
    def threshold(self) -> str:
        """`min 30, max 60`."""
        bounds = (("min", self.low), ("max", self.high))
        return ", ".join(f"{name} {figure(bound)}" for name, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Report:
    """All that is known of one run. asked: what the canary and the watch were to be. failure: {what, why, next}."""

    app: str = ""
    sha: str = ""
    ending: str = ""
    started: float | None = None
    ended: float | None = None
    about: dict[str, str] = field(default_factory=dict)
    asked: str = ""
    hosts: list[dict[str, str]] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    before: Side | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    kpis: list[Kpi] = field(default_factory=list)
    failure: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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


def part(value: object) -> dict[str, object]:
    """An object of the report; empty for everything else."""
    return value if isinstance(value, dict) else {}


def lines(value: object) -> list[str]:
    """The texts of a list."""
    return [said for one in value if (said := text(one))] if isinstance(value, list) else []


def _items(value: object) -> list[dict[str, object]]:
    found = value if isinstance(value, list) else []
    return [one for one in found if isinstance(one, dict)]


def read(data: object) -> Report:
    """The report in decoded JSON, whatever it holds. Never raises."""
    given = part(data)
    verdicts = part(given.get("verdicts"))
    problems = [_problem(one) for one in _items(given.get("problems"))]
    return Report(
        app=text(given.get("app")),
        sha=text(given.get("sha")),
        ending=text(given.get("ending")),
        started=number(given.get("began")),
        ended=number(given.get("ended")),
        about={key: text(given.get(key)) for key in ("deploy_id", "verb", "by", "run_url", "release", "previous")},
        asked=_asked(given),
        hosts=_hosts(given),
        phases=[_phase(one) for one in _items(given.get("phases"))],
        rounds=sorted(filter(None, map(_round, _items(given.get("rounds")))), key=lambda one: one.end),
        before=_side(given["before"]) if isinstance(given.get("before"), dict) else None,
        verdicts=[_verdict(str(name), one) for name, one in verdicts.items() if isinstance(one, dict)],
        kpis=[_kpi(one) for one in _items(given.get("kpis")) if text(one.get("name"))],
        failure={key: said for key, one in part(given.get("failure")).items() if (said := text(one))},
        problems=list(dict.fromkeys(filter(None, problems))),
        notes=lines(given.get("notes")),
    )


def _hosts(given: dict[str, object]) -> list[dict[str, str]]:
    names, known = lines(given.get("hosts")), part(given.get("by_host"))
    rows = []
    for name in names:
        one = part(known.get(name))
        served = {"before": text(one.get("before"))[:12], "now": text(one.get("after"))[:12]}
        rows.append({"host": name, "": text(one.get("state")), **served, "new colour": text(one.get("colour"))})
    return rows


def _phase(one: dict[str, object]) -> Phase:
    failed = tuple(str(host) for host, verdict in part(one.get("hosts")).items() if verdict == "fail")
    return Phase(text(one.get("name")), number(one.get("began")), number(one.get("ended")), failed)


def _side(one: object) -> Side:
    given = part(one)
    return Side(*(amount(given.get(key)) for key in ("requests", "errors", *QUANTILES)))


def _sides(one: dict[str, object]) -> dict[str, Side]:
    return {name: _side(one[name]) for name in SIDES if isinstance(one.get(name), dict)}


def _round(one: dict[str, object]) -> Round | None:
    at, seconds = number(one.get("at")), amount(one.get("seconds"))
    if at is None:
        return None
    known = {text(kpi.get("name")): (number(kpi.get("value")), text(kpi.get("why"))) for kpi in _items(one.get("kpis"))}
    return Round(
        at - (seconds or 1.0), at, text(one.get("phase")), amount(one.get("share")), _sides(one),
        text(one.get("verdict")), tuple(lines(one.get("reasons"))), known,
    )  # fmt: skip


def _kpi(one: dict[str, object]) -> Kpi:
    said = [
        (str(phase), text(part(found).get("verdict")), text(part(found).get("reason")))
        for phase, found in part(one.get("verdicts")).items()
    ]
    return Kpi(text(one.get("name")), text(one.get("query")), number(one.get("min")), number(one.get("max")), said)


def _verdict(phase: str, one: dict[str, object]) -> Verdict:
    return Verdict(phase, text(one.get("verdict")), lines(one.get("reasons")), _sides(one))


def _problem(one: dict[str, object]) -> str:
    where = ", ".join(word for word in (title(text(one.get("phase"))), text(one.get("host"))) if word)
    said = " · ".join(word for word in (text(one.get("what")), text(one.get("why"))) if word)
    return f"{where}: {said}" if where and said else said


def _asked(given: dict[str, object]) -> str:
    canary, watch = part(given.get("canary")), amount(given.get("watch"))
    steps = canary.get("steps")
    shares = [percent(found) for one in steps if (found := amount(one))] if isinstance(steps, list) else []
    each = f" for {length(amount(canary.get('seconds')))}{' each' if len(shares) > 1 else ''}"
    words = [f"canary {', '.join(shares)}{each}"] if shares else []
    return ", ".join(words + ([f"watch {length(watch)}"] if watch else []))


# --- reckoning ----------------------------------------------------------------------------------------------------


def mood(word: str) -> str:
    """How an ending, a verdict or a host's state looks: good, bad or open."""
    return MOODS.get(word, "open")


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
    """The time that the drawings show: the rounds, and a little around them; more where the hosts went back."""
    if not report.rounds:
        return None
    start, end = min(one.start for one in report.rounds), max(one.end for one in report.rounds)
    around = 0.02 * (end - start)
    back = any(one.name == BACK and one.start is not None and one.start < end + 2 * around for one in report.phases)
    return start - around, end + around * (9 if back else 1)


def stretches(report: Report) -> list[tuple[str, float, float]]:
    """What marks the drawings, as (name, start, end): the phases, and each share of a canary by itself."""
    found = []
    for (phase, share), group in groupby(report.rounds, key=lambda one: (one.phase, one.share)):
        rounds = list(group)
        name = f"{title(phase)} {percent(share)}" if phase == "canary" else title(phase)
        found.append((name, rounds[0].start, rounds[-1].end))
    judged = {one.phase for one in report.rounds}
    found += [
        (title(one.name), one.start, one.end)
        for one in report.phases
        if one.name not in judged and one.start is not None and one.end is not None
    ]
    return sorted(found, key=lambda one: one[1])


def ticks(high: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to at least `high`, at most `most` steps."""
    if high < 1e-300:
        return [0.0, 1.0]
    step = 10 ** math.floor(math.log10(high / most))
    while math.ceil(high / step - 1e-9) > most:
        lead = round(step / 10 ** math.floor(math.log10(step) + 1e-9))
        step *= {1: 2, 2: 2.5, 5: 2}.get(lead, 2)
    return [step * place for place in range(math.ceil(high / step - 1e-9) + 1)]


def scale(values: Sequence[float]) -> list[float]:
    """Round numbers around 0 and all values."""
    low, high = min(0.0, *values), max(0.0, *values)
    if high - low < 1e-300:
        return [0.0, 1.0]
    step = ticks(high - low)[1]
    return [step * place for place in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def marks(start: float, end: float, zero: float = 0.0, most: int = 6) -> list[float]:
    """Moments between `start` and `end` at which a time axis is labelled: round numbers of seconds after `zero`."""
    wanted = (end - start) / most
    fitting = (step for step in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200) if step >= wanted)
    step = next(fitting, 3600 * math.ceil(wanted / 3600))
    first = math.ceil((start - zero) / step)
    return [zero + step * place for place in range(first, math.floor((end - zero) / step) + 1)]


def runs(report: Report, side: str, what: str) -> list[list[tuple[float, float]]]:
    """A latency over time.

    In the watch all visitors are on the new release; what the other one still answers then is not drawn.
    """

    def value(one: Round) -> float | None:
        known = side in one.sides and (one.phase != "watch" or side == "new")
        found: float | None = getattr(one.sides[side], what) if known else None
        return found

    return joined(report, value)


def joined(report: Report, value_of: Callable[[Round], float | None]) -> list[list[tuple[float, float]]]:
    """What each round has one value of, in pieces: a round without it, or without a neighbour, ends a piece."""
    pieces: list[list[tuple[float, float]]] = []
    before: float | None = None
    for one in report.rounds:
        value = value_of(one)
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


def figure(value: float) -> str:
    """A KPI's value, of which nobody knows what it measures."""
    return f"{value:,.6g}".replace(",", "\u202f")


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
        return f"{value // 60:.0f} min {value % 60:02.0f} s".removesuffix(" 00 s")
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
    low: float = 0.0

    def x(self, at: float) -> float:
        """From the left."""
        return WIDTH * (at - self.start) / (self.end - self.start)

    def y(self, value: float) -> float:
        """From the top."""
        return HEIGHT * (1 - (min(value, self.high) - self.low) / (self.high - self.low))


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
        for at in marks(frame.start, frame.end, zero)
        if frame.x(at) <= 0.97 * WIDTH
    )
    return (
        f'<div class="plot"><div class="scale" aria-hidden="true">{scale}</div>'
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" preserveAspectRatio="none" role="img" aria-label="{esc(label)}">'
        f'{grid}{inner}</svg><div class="times" aria-hidden="true">{times}</div></div>'
    )


def clock(seconds: float) -> str:
    """Time since the start of the run, as the axes show it."""
    whole = round(seconds)
    return f"{'-' if whole < 0 else ''}{abs(whole) // 60}:{abs(whole) % 60:02d}"


def borders(report: Report, frame: Frame) -> str:
    """A line where each phase or share starts."""
    shown = ""
    for name, start, _ in stretches(report):
        if frame.start < start < frame.end:
            kind, x = "border back" if name == title(BACK) else "border", frame.x(start)
            shown += f'<line class="{kind}" x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="{HEIGHT:g}"/>'
        if name == title(BACK):
            break
    return shown


def strip(report: Report, start: float, end: float) -> str:
    """The names above a drawing, each as wide as it took; a name that does not fit is cut."""
    frame = Frame(start, end, 1)
    cells = []
    for name, began, ended in stretches(report):
        if ended <= start or began >= end or ended <= began:
            continue
        back = name == title(BACK)
        if back:
            ended = end  # it takes less than its name is wide; what follows is not of interest here
        left, right = frame.x(max(began, start)) / 10, frame.x(min(ended, end)) / 10
        told = f"{name}: {length(ended - began)}"
        shown = esc(name) if right - left > 4 else ""
        cells.append(
            f'<span class="{"back" if back else ""}" style="left:{left:.2f}%;width:{max(0.2, right - left):.2f}%" '
            f'title="{esc(told)}">{shown}</span>'
        )
        if back:
            break
    return f'<div class="strip" aria-hidden="true">{"".join(cells)}</div>' if cells else ""


def stack(report: Report, what: str, caption: str, unit: str) -> str:
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
            told = f"{clock(one.end - origin(report))} {title(one.phase)}: {count(found)} {what}, {name} release{share}"
            shapes.append(box(frame, one.start, one.end, low, high, f"{what} {name}", told))
            low = high
    body = "".join(shapes) + borders(report, frame)
    shown = drawing(frame, body, caption, rate, axis, origin(report))
    above = f'<figcaption><b>{caption}</b> <span class="unit">{unit}</span>{LEGEND[what]}</figcaption>'
    return f"<figure>{above}{strip(report, *window)}{shown}</figure>"


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
    """p50, p95 and p99 of each release, side by side on the same scale; the window before the switch as its p95."""
    window = watched(report)
    assert window is not None
    sides = [side for one in report.rounds for side in one.sides.values()] + ([report.before] if report.before else [])
    known = [value for side in sides for value in (side.p50, side.p95, side.p99) if value is not None]
    if not known:
        return '<p class="none">No latencies were measured.</p>'
    axis = ticks(max(known))
    frame = Frame(*window, axis[-1])
    panels = []
    for name in reversed(SIDES):
        pieces = {quantile: runs(report, name, quantile) for quantile in QUANTILES}
        if any(pieces.values()):
            panels.append(panel(report, frame, axis, name, pieces))
        elif name == "new":
            panels.append(f'<div>{heading(report, name)}<p class="none">No answers.</p></div>')
    reference = '<i class="lbefore"></i>p95 before the switch' if any("before" in one for one in panels) else ""
    key = f'<span class="key"><i class="l50"></i>p50 <i class="l95"></i>p95 <i class="l99"></i>p99 {reference}</span>'
    caption = f'<figcaption><b>Latency</b> <span class="unit">of the answers in each round</span>{key}</figcaption>'
    return f'<figure>{caption}<div class="pair">{"".join(panels)}</div></figure>'


Pieces = dict[str, list[list[tuple[float, float]]]]


def heading(report: Report, name: str, small: str = "") -> str:
    """Above one release's latencies; with its colour, where that is the same on all hosts."""
    found = {colour for row in report.hosts if (colour := row["new colour"])}
    new = found.pop() if len(found) == 1 else ""
    colour = new if name == "new" else {"blue": "green", "green": "blue"}.get(new, "")
    shown = f"{name} release{f', {colour}' if colour else ''}"
    return f'<h3><i class="requests {name}"></i>{esc(shown)}{f" <small>{esc(small)}</small>" if small else ""}</h3>'


def panel(report: Report, frame: Frame, axis: list[float], name: str, pieces: Pieces) -> str:
    """The latencies of one release."""
    body = "".join(
        band(frame, low, high, f"band {name}")
        for low, high in zip(pieces["p50"], pieces["p99"], strict=False)
        if len(low) > 1 and [at for at, _ in low] == [at for at, _ in high]
    )
    body += "".join(line(frame, piece, f"{quantile} {name}") for quantile in QUANTILES for piece in pieces[quantile])
    after = [one for one in report.rounds if one.phase == "watch"]
    if name == "new" and after and report.before and report.before.p95 is not None:
        ends = (after[0].start, after[-1].end)
        body += line(frame, [(at, report.before.p95) for at in ends], "before")
    last = ", ".join(f"{q} {latency(pieces[q][-1][-1][1])}" for q in QUANTILES if pieces[q])
    shown = drawing(frame, body + borders(report, frame), f"latency, {name} release", latency, axis, origin(report))
    return f"<div>{heading(report, name, f'last: {last}')}{shown}</div>"


def after(one: Round) -> str:
    """How the verdict after a round looks: good, bad, open (too little is known yet), or nothing."""
    if one.verdict == "so far":
        return "open" if one.reasons else "good"
    return mood(one.verdict) if one.verdict else ""


def lane(report: Report) -> str:
    """The verdict after each round, on the same scale as what visitors got."""
    window = watched(report)
    if window is None or not any(one.verdict for one in report.rounds):
        return ""
    frame, shapes = Frame(*window, 1), []
    for one in report.rounds:
        left, right = frame.x(one.start) / 10, frame.x(one.end) / 10
        word = SO_FAR.get(one.verdict, one.verdict or "unknown")
        told = f"{clock(one.end - origin(report))} {title(one.phase)}: {': '.join([word, *one.reasons[:1]])}"
        kind = " ".join(filter(None, (after(one), "" if one.verdict == "so far" else "final")))
        shapes.append(
            f'<i class="{kind}" style="left:{left:.2f}%;width:{max(0.2, right - left):.2f}%" title="{esc(told)}"></i>'
        )
    key = (
        '<span class="key"><i class="verdict good"></i>nothing against it <i class="verdict open"></i>too little known '
        '<i class="verdict bad"></i>fail</span>'
    )
    above = f'<figcaption><b>Verdict</b> <span class="unit">after each round</span>{key}</figcaption>'
    shown = f'<div class="lane" role="img" aria-label="Verdict after each round">{"".join(shapes)}</div>'
    return f"<figure>{above}{strip(report, *window)}{shown}</figure>"


def kpi_panel(report: Report, one: Kpi) -> str:
    """A KPI over time, with its threshold; a round in which it was not known is a gap."""
    window = watched(report)
    assert window is not None
    asked = [round_ for round_ in report.rounds if one.name in round_.kpis]
    values = [value for round_ in asked if (value := round_.kpis[one.name][0]) is not None]
    axis = scale([*values, *(bound for bound in (one.low, one.high) if bound is not None)] or [0.0])
    frame, shapes = Frame(*window, axis[-1], axis[0]), ""
    for bound, end in ((one.low, frame.low), (one.high, frame.high)):
        if bound is not None:
            shapes += box(frame, *window, min(bound, end), max(bound, end), "beyond", one.threshold)
            shapes += line(frame, [(at, bound) for at in window], "limit")
    for round_ in asked:
        value, why = round_.kpis[one.name]
        if value is None:
            told = f"{clock(round_.end - origin(report))} not known: {why}"
            shapes += box(frame, round_.start, round_.end, frame.low, frame.high, "unknown", told)
    pieces = joined(report, lambda round_: round_.kpis.get(one.name, (None, ""))[0])
    shapes += "".join(line(frame, piece, "value") for piece in pieces)
    shapes += "".join(line(frame, [place, place], "dot") for piece in pieces for place in piece if one.beyond(place[1]))
    body = shapes + borders(report, frame)
    said = " ".join(badge(word, f"{title(phase)} {VERDICTS.get(word, word)}") for phase, word, _ in one.said if word)
    small = ", ".join(filter(None, (one.threshold, f"last: {figure(values[-1])}" if values else "")))
    reasons = "".join(f"<li>{esc(title(phase))}: {esc(why)}</li>" for phase, _, why in one.said if why)
    return (
        f"<div><h3>{esc(one.name)} <small>{esc(small)}</small></h3><p>{said}</p>"
        + (f'<ul class="said">{reasons}</ul>' if reasons else "")
        + f'<pre class="query"><code>{esc(one.query)}</code></pre>'
        + (drawing(frame, body, one.name, figure, axis, origin(report)) if asked else "")
        + "</div>"
    )


def kpi_section(report: Report) -> str:
    """The KPIs; nothing in a run that asked for none."""
    if not report.kpis or not report.rounds:
        return ""
    key = (
        '<span class="key"><i class="lvalue"></i>value <i class="llimit"></i>threshold '
        '<i class="unknown"></i>not known</span>'
    )
    above = f'<figcaption><span class="unit">asked of Prometheus after each round</span>{key}</figcaption>'
    panels = "".join(kpi_panel(report, one) for one in report.kpis)
    return f'<section><h2>KPIs</h2><figure>{above}<div class="pair">{panels}</div></figure></section>'


# --- the page -----------------------------------------------------------------------------------------------------


def timeline(report: Report) -> str:
    """The phases, each where it lay in the run."""
    whole = span(report)
    if not report.phases or whole is None:
        return ""
    rows = []
    for one in report.phases:
        took = one.end - one.start if one.start is not None and one.end is not None else None
        bar, kind = "", "bad" if one.failed or one.name == BACK else ""
        if one.start is not None and one.end is not None and one.end >= one.start:
            frame = Frame(*whole, 1)
            left, right = frame.x(one.start) / 10, frame.x(one.end) / 10
            bar = f'<i class="{kind}" style="left:{min(left, 99.5):.2f}%;width:{max(0.5, right - left):.2f}%"></i>'
        failed = f'<small class="wrong">failed on {esc(", ".join(one.failed))}</small>' if one.failed else ""
        name = f"<span>{esc(title(one.name)) or '–'}</span>"
        rows.append(f"<li>{name}<div>{bar}</div><span>{length(took)}</span>{failed}</li>")
    return f'<section><h2>Phases</h2><ol class="phases">{"".join(rows)}</ol></section>'


def tiles(report: Report) -> str:
    """The figures that matter, large; nothing in a run without rounds."""
    if not report.rounds:
        return ""
    asked = {name: total(report, name, "requests") for name in SIDES}
    wrong = {name: total(report, name, "errors") for name in SIDES}
    share = {name: percent(error_share(asked[name], wrong[name])) for name in SIDES}
    worst = {name: latency(worst_p95(report, name)) for name in SIDES}
    cells = [
        ("requests judged", count(sum(asked.values())), f"{count(asked['new'])} by the new release"),
        ("errors, new release", count(wrong["new"]), f"{share['new']}, live {count(wrong['live'])} ({share['live']})"),
        ("highest p95, new release", worst["new"], f"live {worst['live']}"),
    ]
    shown = (
        f'<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd><dd class="small">{esc(more)}</dd></div>'
        for name, value, more in cells
    )
    return f'<dl class="tiles">{"".join(shown)}</dl>'


def worst_p95(report: Report, side: str) -> float | None:
    """The highest p95 of any round."""
    found = [one.sides[side].p95 for one in report.rounds if side in one.sides]
    return max((value for value in found if value is not None), default=None)


def badge(word: str, shown: str = "") -> str:
    """An ending, a verdict or a state in its colour."""
    return f'<span class="badge {mood(word)}">{esc(shown or word)}</span>' if word else "–"


def facts(report: Report) -> str:
    """How it ended, of what, where and when: first on the page."""
    why = "".join(f"<p>{esc(report.failure[key])}</p>" for key in ("what", "why") if key in report.failure)
    rows = [("why", f'<div class="reason">{why}</div>')] if why else []
    release = f"<code>{esc(report.sha) or '–'}</code>"
    release += f" <small>release {esc(report.about['release'])}</small>" if report.about.get("release") else ""
    rows.append(("commit", release))
    told = [("before", report.about.get("previous")), ("asked for", report.asked), ("by", report.about.get("by"))]
    told.append(("run", " · ".join(filter(None, (report.about.get("deploy_id"), report.about.get("run_url"))))))
    rows += [(name, esc(said)) for name, said in told if said]
    when = f"{esc(moment(report.started))} to {esc(moment(report.ended, '%H:%M:%S'))}"
    if report.started is not None and report.ended is not None:
        when += f" ({length(report.ended - report.started)})"
    rows.append(("time", when))
    if report.hosts:
        columns = [name for name in report.hosts[0] if name == "host" or any(row[name] for row in report.hosts)]
        cells = [[esc(row[name]) or "–" if name else badge(row[name]) for name in columns] for row in report.hosts]
        rows.append((f"hosts ({len(report.hosts)})", table(columns, cells)))
    body = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells that are markup already."""
    head = "".join(f"<th>{esc(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for cells in rows)
    return f'<div class="wide"><table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figures(side: Side | None) -> list[str]:
    """Requests, errors and quantiles as cells."""
    side = side or Side()
    wrong = f'<b class="wrong">{count(side.errors)}</b>' if side.errors else count(side.errors)
    return [count(side.requests), wrong, *(latency(getattr(side, name)) for name in QUANTILES)]


def judgement(report: Report) -> str:
    """The verdict on the canary and on the watch: the word, why, and the figures that it rests on."""
    parts = []
    for one in report.verdicts:
        against = "before the switch" if one.phase == "watch" else "live"
        said = "".join(f"<li>{esc(reason)}</li>" for reason in one.reasons)
        rows = [["new", *figures(one.sides.get("new"))], [against, *figures(one.sides.get("live"))]]
        word = badge(one.verdict, VERDICTS.get(one.verdict, ""))
        reasons = f'<ul class="said">{said}</ul>' if said else ""
        shown = table(["", "requests", "errors", *QUANTILES], rows)
        parts.append(f'<div class="verdict"><h3>{esc(title(one.phase))} {word}</h3>{reasons}{shown}</div>')
    return f'<section><h2>Verdicts</h2><div class="pair">{"".join(parts)}</div></section>' if parts else ""


def round_table(report: Report) -> str:
    """Every round in figures."""
    if not report.rounds:
        return ""
    columns = ["end", "phase", "share", "verdict"]
    columns += [f"{name} {what}" for name in reversed(SIDES) for what in ("requests", "errors", *QUANTILES)]
    columns += [*(one.name for one in report.kpis), "why"]
    shown = table(columns, [list(_cells(report, one)) for one in report.rounds])
    summary = f"<summary>All rounds in figures ({len(report.rounds)})</summary>"
    return f"<section><details>{summary}{shown}</details></section>"


def _cells(report: Report, one: Round) -> Iterator[str]:
    yield f'<span title="{esc(moment(one.end))}">{esc(clock(one.end - origin(report)))}</span>'
    yield from (esc(title(one.phase)), percent(one.share))
    word = SO_FAR.get(one.verdict, one.verdict)
    yield f'<span class="badge {after(one)}">{esc(word)}</span>' if word else "–"
    for name in reversed(SIDES):
        yield from figures(one.sides.get(name))
    for kpi in report.kpis:
        value, why = one.kpis.get(kpi.name, (None, "it was not asked for"))
        shown = f'<span title="{esc(why)}">–</span>' if value is None else esc(figure(value))
        yield f'<b class="wrong">{shown}</b>' if value is not None and kpi.beyond(value) else shown
    yield f'<div class="why">{esc(" · ".join(one.reasons))}</div>' if one.reasons else ""


def traffic(report: Report) -> str:
    """The drawings; nothing in a run without rounds."""
    if not report.rounds:
        return ""
    parts = [stack(report, "requests", "Requests", "per second, by the release that answered")]
    asked = sum(total(report, name, "requests") for name in SIDES)
    if any(total(report, name, "errors") for name in SIDES):
        parts.append(stack(report, "errors", "Errors", "per second, by the release that answered"))
    elif asked:
        parts.append(f'<p class="none good">No error in {count(asked)} requests.</p>')
    else:
        parts.append('<p class="none">No visitor asked for anything.</p>')
    return f"<section><h2>What visitors got</h2>{lane(report)}{''.join(parts)}{latencies(report)}</section>"


def remarks(report: Report) -> str:
    """What deserves attention, and all that went wrong where that is more than the reason above."""
    parts = []
    for name, found in (("Notes", report.notes), ("Problems", report.problems if len(report.problems) > 1 else [])):
        shown = "".join(f"<li>{esc(one)}</li>" for one in found)
        parts.append(f'<section><h2>{name}</h2><ul class="said">{shown}</ul></section>' if shown else "")
    return "".join(parts)


def page(report: Report) -> str:
    """The whole page. Raises OSError if its style sheet, which lies beside this file, cannot be read."""
    style = STYLE.read_text(encoding="utf-8")
    verb = title(report.about.get("verb") or "deploy")
    ended, todo = badge(report.ending or "unknown"), report.failure.get("next", "")
    next_step = f'<p class="todo"><b>Next</b> <code>{esc(todo)}</code></p>' if todo else ""
    unjudged = '<p class="none">In this run no visitor\'s request was judged.</p>' if not report.rounds else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta name="color-scheme" content="light dark"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{esc(report.app or verb)} {esc(report.sha[:12])}: {esc(report.ending or "report")}</title>
<style>
{style}</style>
</head>
<body class="{mood(report.ending)}">
<header><h1>{esc(verb)} {esc(report.app)} <code>{esc(report.sha[:12])}</code> {ended}</h1></header>
<main>
{next_step}
{facts(report)}
{tiles(report)}
{judgement(report)}
{traffic(report)}
{kpi_section(report)}
{unjudged}
{timeline(report)}
{remarks(report)}
{round_table(report)}
</main>
</body>
</html>
"""
