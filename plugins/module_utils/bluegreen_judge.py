"""Whether a new release may go on, judged by what visitors got. Pure functions.

In a canary both colours serve at the same time, so each round, host and group of paths is a small experiment. Given
how many of its requests failed, the number that fell to the new colour is hypergeometric if the releases are alike
(Fisher's exact test). The likelihood ratio of higher odds against equal ones is then an e-value, and the product over
all these experiments a test martingale: by Ville's inequality (1939) P(ever >= 1/alpha) <= alpha, so that every round
may be looked at. Averaged over several odds it is the mixture test of Robbins (1970); Johari et al., "Always valid
inference" (2022), use it for A/B tests. Single groups share alpha by Bonferroni: Holm's first step, and one rejection
ends a run.

Latency: requests slower than the pooled median, and than the pooled 90 %, count as failures do above (Mood's median
test, 1954), after the live colour's times were multiplied by the square root of the factor that must be found.

After a switch there is one colour: it is compared with the window before, look by look, with alpha divided by the
number of looks (Markov's inequality for each e-value), and the factor to the power 3/4.

Error rates, measured: docs/decisions/0006-judging.md.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Tally = Mapping[str, Any]
Groups = Mapping[str, Tally]
Logs = list[float]

PASS, FAIL, INCONCLUSIVE, SO_FAR = "pass", "fail", "inconclusive", "so far"
CLASSES = ("ok", "client", "server", "none", "gone")
STEP = 1.05  # of the hosts' histograms: bucket b ends at 1.05^b ms
TOTAL = ""  # the name of all groups together
ODDS = (4.0, 20.0, 100.0)  # how much worse a release may be, when looking at failures
SLOW_ODDS = (1.5, 3.0, 8.0)
QUANTILES = (0.5, 0.9)
ALPHA_ERRORS = 0.006  # together less than 0.01: how often a release as good as the live one is stopped
ALPHA_SLOW = 0.003
ALPHA_LIMIT = 0.0005
DOUBT = 0.05  # a chance below which too many errors are no accident
LEAST_ERRORS = 3
LEAST_EXCESS = 0.002  # of the requests: less is not worth an abort, however certain
LEAST_EXCESS_AFTER = 0.01  # between two windows of time
LEAST_SLOWER = 0.010  # seconds
EXACT = 400  # terms; for more the binomial bound (Hoeffding 1963) serves


@dataclasses.dataclass(frozen=True)
class Limits:
    """The settings judge_*: shares are 0 to 1, `max_p95` is in seconds (0: none)."""

    max_error_share: float = 0.05
    max_p95: float = 0.0
    error_budget: float = 0.01
    min_requests: int = 50
    latency_factor: float = 2.0


def limits(settings: Mapping[str, Any]) -> Limits:
    """The limits out of a run's inputs; what is not there has its default."""
    names = [field.name for field in dataclasses.fields(Limits)]
    return Limits(**{name: settings[name] for name in names if settings.get(name) is not None})


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the fleet's requests say, and why, a sentence each. doubts: why it would be inconclusive if it ended now."""

    verdict: str
    reasons: tuple[str, ...] = ()
    new: Tally = dataclasses.field(default_factory=dict)
    live: Tally = dataclasses.field(default_factory=dict)
    doubts: tuple[str, ...] = ()


# tallies and histograms


def empty() -> dict[str, Any]:
    """A tally of nothing."""
    return {**dict.fromkeys(CLASSES, 0), "hist": {}}


def merge(tallies: Iterable[Tally]) -> dict[str, Any]:
    """The sum of tallies."""
    total = empty()
    for tally in tallies:
        for kind in CLASSES:
            total[kind] += int(tally.get(kind) or 0)
        for place, many in (tally.get("hist") or {}).items():
            total["hist"][str(place)] = total["hist"].get(str(place), 0) + int(many)
    return total


def merge_groups(parts: Iterable[Groups]) -> dict[str, dict[str, Any]]:
    """The sum of tallies by group."""
    found: dict[str, list[Tally]] = {}
    for groups in parts:
        for name, tally in groups.items():
            found.setdefault(name, []).append(tally)
    return {name: merge(tallies) for name, tallies in found.items()}


def requests(tally: Tally) -> int:
    """All requests; those whose visitor left are not among them: nobody knows how they would have ended."""
    return sum(int(tally.get(kind) or 0) for kind in ("ok", "client", "server", "none"))


def errors(tally: Tally) -> int:
    """Requests that failed by the server's fault: a status of 500 or more, or no answer."""
    return int(tally.get("server") or 0) + int(tally.get("none") or 0)


def share(tally: Tally) -> float:
    """The share of requests that failed, 0 to 1."""
    return errors(tally) / requests(tally) if requests(tally) else 0.0


def histogram(tally: Tally) -> dict[int, int]:
    """Bucket → requests."""
    return {int(place): int(many) for place, many in (tally.get("hist") or {}).items()}


def seconds_of(bucket: int) -> float:
    """The upper end of a bucket."""
    return STEP**bucket / 1000


def quantile(tally: Tally, part: float) -> float | None:
    """A quantile of the latency in seconds (within 5 %); None without requests."""
    hist = histogram(tally)
    left = math.ceil(part * sum(hist.values()))
    if not left:
        return None
    for place in sorted(hist):
        left -= hist[place]
        if left <= 0:
            return seconds_of(place)
    return None


@functools.lru_cache(maxsize=4096)
def shifted(bucket: int, factor: float) -> int:
    """The bucket of a latency that is `factor` times as long, and at least 10 ms longer."""
    longer = max(seconds_of(bucket) * factor, seconds_of(bucket) + LEAST_SLOWER)
    return round(math.log(longer * 1000, STEP))


def slow_counts(new: Tally, live: Tally, part: float, factor: float) -> tuple[int, int, int, int]:
    """How many are slower than the pooled quantile, after the live ones were made `factor` times slower.

    Returns (slow new, new, slow live, live).
    """
    mine = histogram(new)
    theirs: dict[int, int] = {}
    for place, many in histogram(live).items():
        theirs[shifted(place, factor)] = theirs.get(shifted(place, factor), 0) + many
    ours, others = sum(mine.values()), sum(theirs.values())
    allowed = math.floor((1 - part) * (ours + others))
    slow_new = slow_live = 0
    for place in sorted(set(mine) | set(theirs), reverse=True):
        here_new, here_live = mine.get(place, 0), theirs.get(place, 0)
        if slow_new + slow_live + here_new + here_live > allowed:
            break
        slow_new, slow_live = slow_new + here_new, slow_live + here_live
    return slow_new, ours, slow_live, others


# the statistics


def log_ratio(odds: float, mine: int, of_mine: int, theirs: int, of_theirs: int) -> float:
    """The logarithm of an e-value: that failures among `of_mine` have `odds` times the odds of those among `of_theirs`.

    Fisher's noncentral hypergeometric likelihood over the central one, given the number of all failures.
    """
    total = mine + theirs
    if not total or not of_mine or not of_theirs:
        return 0.0
    low, high = max(0, total - of_theirs), min(total, of_mine)
    if high - low > EXACT:
        part = of_mine / (of_mine + of_theirs)
        return mine * math.log(odds) - total * math.log1p(part * (odds - 1))
    weights = [log_choose(of_mine, k) + log_choose(of_theirs, total - k) for k in range(low, high + 1)]
    central = log_sum(weights)
    return mine * math.log(odds) - log_sum([w + k * math.log(odds) for k, w in enumerate(weights, low)]) + central


def log_choose(n: int, k: int) -> float:
    """The logarithm of a binomial coefficient."""
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def log_sum(values: Sequence[float]) -> float:
    """The logarithm of a sum of exponentials."""
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))


def log_mean(values: Sequence[float]) -> float:
    """The logarithm of the mean of exponentials: a mixture of e-values."""
    return log_sum(values) - math.log(len(values)) if values else 0.0


def tail(mine: int, of_mine: int, part: float) -> float:
    """The chance of at least `mine` failures in `of_mine` requests that fail with probability `part` (binomial)."""
    if mine <= part * of_mine or not 0 < part < 1:
        return 1.0
    term = math.exp(log_choose(of_mine, mine) + mine * math.log(part) + (of_mine - mine) * math.log1p(-part))
    total, k = 0.0, mine
    while term > total * 1e-12 and k <= of_mine:
        total += term
        term *= (of_mine - k) / (k + 1) * part / (1 - part)
        k += 1
    return total


def error_logs(new: Tally, live: Tally) -> Logs:
    """The evidence of one round on one host that the new release fails more often: an entry for each of ODDS."""
    return [log_ratio(odds, errors(new), requests(new), errors(live), requests(live)) for odds in ODDS]


def slow_logs(new: Tally, live: Tally, factor: float) -> Logs:
    """The evidence that the new release is more than `factor` times slower: an entry for each quantile and odds."""
    found = []
    for part in QUANTILES:
        slow_new, ours, slow_live, others = slow_counts(new, live, part, factor)
        found += [log_ratio(odds, slow_new, ours, slow_live, others) for odds in SLOW_ODDS]
    return found


# one host's rounds, added up


def add_round(
    earlier: Mapping[str, Any] | None, colours: Mapping[str, Groups], new: str, factor: float
) -> dict[str, Any]:
    """What one host has seen in a step or watch so far, with one more round: {new, live, warm, errors, slow, looks}.

    `colours`: what `measure` answered; `new`: the new release's colour. The latencies of the first round are shown and
    not judged: what was idle a moment ago is slower, whatever its release.
    """
    before = earlier or {}
    looks = int(before.get("looks") or 0)
    mine, theirs = colours.get(new) or {}, colours.get(other(new)) or {}
    sums = {role: merge_groups([before.get(role) or {}, more]) for role, more in (("new", mine), ("live", theirs))}
    sums["warm"] = merge_groups([before.get("warm") or {}, mine if looks else {}])
    failing = {name: list(logs) for name, logs in (before.get("errors") or {}).items()}
    slow = {name: list(logs) for name, logs in (before.get("slow") or {}).items()}
    for name in sorted(set(mine) | set(theirs)):
        here, there = mine.get(name) or empty(), theirs.get(name) or empty()
        failed, late = error_logs(here, there), slow_logs(here, there, math.sqrt(factor)) if looks else []
        for into in (name, TOTAL):  # a group is an experiment of its own also in the total
            failing[into] = add(failing.get(into), failed)
            slow[into] = add(slow.get(into), late)
    return {**sums, "errors": failing, "slow": slow, "looks": looks + 1}


def other(colour: str) -> str:
    """The other colour."""
    return "green" if colour == "blue" else "blue"


def add(earlier: Sequence[float] | None, more: Sequence[float]) -> Logs:
    """The sum of two rows of logarithms; an empty one says nothing."""
    if not earlier or not more:
        return list(earlier or more)
    return [a + b for a, b in zip(earlier, more, strict=True)]


def add_hosts(parts: Sequence[Mapping[str, Any]], key: str) -> dict[str, Logs]:
    """The evidence of all hosts together, by group."""
    found: dict[str, Logs] = {}
    for part in parts:
        for name, logs in (part.get(key) or {}).items():
            found[name] = add(found.get(name), logs)
    return found


def proven(evidence: Mapping[str, Logs], alpha: float) -> list[str]:
    """The groups (TOTAL among them) whose evidence suffices: half of alpha is for all together, half for the groups."""
    groups = sum(name != TOTAL for name in evidence)
    if groups <= 1:
        evidence = {name: logs for name, logs in evidence.items() if name == TOTAL}
    bars = {name: 2 / alpha if name == TOTAL else 2 * groups / alpha for name in evidence}
    return [name for name in sorted(evidence) if evidence[name] and log_mean(evidence[name]) >= math.log(bars[name])]


# verdicts


def judge_canary(parts: Sequence[Mapping[str, Any]], limit: Limits, plan: Plan) -> Verdict:
    """The verdict on one step of a canary. `parts`: each host's sums (`add_round`), or {unreadable}."""
    good = [part for part in parts if not part.get("unreadable")]
    new, live = (merge_groups(part.get(role) or {} for part in good) for role in ("new", "live"))
    alpha_errors, alpha_slow = ALPHA_ERRORS / plan.steps, ALPHA_SLOW / plan.steps
    failing = [
        error_sentence(name, new, live)
        for name in proven(add_hosts(good, "errors"), alpha_errors)
        if worse(pick(new, name), pick(live, name), LEAST_EXCESS)
    ]
    late = add_hosts(good, "slow")
    slow = [
        slow_sentence(name, new, live, late)
        for name in proven(late, alpha_slow)
        if requests(pick(new, name)) >= min(limit.min_requests, 20)
    ]
    return conclude(parts, (*in_short(failing), *in_short(slow)), new, live, limit, plan)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How far a step or watch is: `spent` of `seconds`, the looks that its rounds will make, and the run's steps."""

    seconds: float
    spent: float
    looks: int = 1
    steps: int = 1
    done: bool = False


def judge_watch(parts: Sequence[Mapping[str, Any]], before: Sequence[Groups], limit: Limits, plan: Plan) -> Verdict:
    """The verdict on the watch after a switch, against the window before it. `before`: each host's groups, if any."""
    good = [part for part in parts if not part.get("unreadable")]
    new, live = merge_groups(part.get("new") or {} for part in good), merge_groups(before)
    warm = merge_groups(part.get("warm") or {} for part in good)
    failing: dict[str, Logs] = {}
    slow: dict[str, Logs] = {}
    for name in new:
        there = live.get(name) or empty()
        for into in (name, TOTAL):
            failing[into] = add(failing.get(into), error_logs(new[name], there))
            slow[into] = add(slow.get(into), slow_logs(warm.get(name) or empty(), there, limit.latency_factor**0.75))
    looks = max(1, plan.looks)
    found = [
        error_sentence(name, new, live, "before")
        for name in proven(failing, ALPHA_ERRORS / looks)
        if worse(pick(new, name), pick(live, name), LEAST_EXCESS_AFTER)
    ]
    late = [
        slow_sentence(name, new, live, slow, "before")
        for name in proven(slow, ALPHA_SLOW / looks)
        if requests(pick(new, name)) >= limit.min_requests
    ]
    return conclude(parts, (*in_short(found), *in_short(late)), new, live, limit, plan)


def conclude(
    parts: Sequence[Mapping[str, Any]], found: Sequence[str], new: Groups, live: Groups, limit: Limits, plan: Plan
) -> Verdict:
    """The verdict from what the comparison found, the absolute limits, and whether enough is known at the end."""
    all_new, all_live = merge(new.values()), merge(live.values())
    reasons = (*found, *absolute(new, live, limit, plan))
    if reasons:
        return Verdict(FAIL, reasons, all_new, all_live)
    doubts = (*unreadable(parts), *too_few(all_new, limit), *alike(new, live, limit))
    if not plan.done:
        return Verdict(SO_FAR, (), all_new, all_live, doubts)
    return Verdict(INCONCLUSIVE if doubts else PASS, doubts, all_new, all_live)


def with_kpis(said: Verdict, fails: Sequence[str], doubts: Sequence[str], done: bool) -> Verdict:
    """A verdict on requests together with what the KPIs say (bluegreen_kpi.judge): the worse of the two."""
    if fails:
        first = said.reasons if said.verdict == FAIL else ()
        return dataclasses.replace(said, verdict=FAIL, reasons=(*first, *fails), doubts=())
    if not doubts or said.verdict == FAIL:
        return said
    if done:
        return dataclasses.replace(said, verdict=INCONCLUSIVE, reasons=(*said.reasons, *doubts))
    return dataclasses.replace(said, doubts=(*said.doubts, *doubts))


def pick(groups: Groups, name: str) -> Tally:
    """A group's tally; TOTAL is all of them."""
    return merge(groups.values()) if name == TOTAL else groups.get(name) or empty()


def worse(new: Tally, live: Tally, excess: float) -> bool:
    """Whether a difference in failures is worth an abort."""
    return errors(new) >= LEAST_ERRORS and share(new) - share(live) >= excess and share(new) >= 1.5 * share(live)


def in_short(sentences: Sequence[str]) -> tuple[str, ...]:
    """The first two of several sentences of one kind."""
    return tuple(sentences[:2])


def absolute(groups: Groups, live_groups: Groups, limit: Limits, plan: Plan) -> list[str]:
    """The limits that do not depend on the live release; where that one fails too, the new one is not to blame."""
    new, live = merge(groups.values()), merge(live_groups.values())
    alpha, found = ALPHA_LIMIT / max(1, plan.looks * plan.steps), []
    blamed = share(live) < share(new) / 2
    bar = max(limit.max_error_share, share(live))  # a burst that hits both colours hits a small share by chance harder
    if blamed and errors(new) >= LEAST_ERRORS and tail(errors(new), requests(new), bar) <= alpha:
        found.append(
            f"{percent(share(new))} of the new release's requests fail, "
            f"more than {percent(limit.max_error_share)} (judge_max_error_share){most_in(groups)}"
        )
    late = sum(many for place, many in histogram(new).items() if seconds_of(place - 1) >= limit.max_p95)
    known = quantile(live, 0.95)
    concerned = limit.max_p95 > 0 and (known is None or known <= limit.max_p95)
    if concerned and tail(late, sum(histogram(new).values()), 0.05) <= alpha:
        found.append(
            f"p95 of the new release is {time_text(quantile(new, 0.95))}, "
            f"more than {time_text(limit.max_p95)} (judge_max_p95)"
        )
    expected = share(live) * requests(new)
    because = errors(new) - expected - 3 * math.sqrt(expected)
    total = (requests(new) + requests(live)) * max(1.0, plan.seconds / max(plan.spent, 0.1))
    allowed = max(5.0, limit.error_budget * total)
    if blamed and because > allowed:
        found.append(
            f"about {because:.0f} requests failed because of the new release, "
            f"{allowed:.0f} may (judge_error_budget {percent(limit.error_budget)}){most_in(groups)}"
        )
    return found


def unreadable(parts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was not to be had, from any host."""
    return [f"no data: {part['unreadable']}" for part in parts if part.get("unreadable")][:1]


def too_few(new: Tally, limit: Limits) -> list[str]:
    """Whether there were too few requests to say anything."""
    if requests(new) >= limit.min_requests:
        return []
    return [f"too few requests: {number(requests(new))} of the new release, {limit.min_requests} wanted"]


def alike(groups: Groups, live_groups: Groups, limit: Limits) -> list[str]:
    """Whether the new release failed often, and the live one as well: what both depend on is broken."""
    new, live = merge(groups.values()), merge(live_groups.values())
    if tail(errors(new), requests(new), limit.max_error_share) > DOUBT:
        return []
    words = "both colours fail alike" if share(live) >= share(new) / 2 else "many errors, and nothing is proven"
    return [f"{words}: new {percent(share(new))}, live {percent(share(live))}{most_in(groups)}"]


# sentences


def most_in(groups: Groups) -> str:
    """Where most of the new release's failures were, also where they are too few to prove anything of one group."""
    failed = {name: errors(tally) for name, tally in groups.items() if errors(tally)}
    if not failed:
        return ""
    worst = max(sorted(failed), key=lambda name: failed[name])
    return f"; {f'{number(failed[worst])} of' if len(failed) > 1 else 'all'} its errors in {worst}"


def error_sentence(group: str, new: Groups, live: Groups, against: str = "live") -> str:
    """Who fails how often; of all groups together, with the one in which it happened."""
    mine, theirs = pick(new, group), pick(live, group)
    how = "gives no answer" if int(mine.get("none") or 0) * 2 > errors(mine) else "answers with errors"
    return (
        f"the new release {how}{f' in {group}' if group else ''}: {number(errors(mine))} of {number(requests(mine))} "
        f"requests ({percent(share(mine))}), {against} {number(errors(theirs))} of {number(requests(theirs))}"
        f"{'' if group else most_in(new)}"
    )


def slow_sentence(group: str, new: Groups, live: Groups, evidence: Mapping[str, Logs], against: str = "live") -> str:
    """Who is slower by how much; of all groups together, with the one of which there is the most evidence."""
    mine, theirs = pick(new, group), pick(live, group)
    halves = f"p50 {time_text(quantile(mine, 0.5))}, {against} {time_text(quantile(theirs, 0.5))}"
    ends = f"p95 {time_text(quantile(mine, 0.95))}, {against} {time_text(quantile(theirs, 0.95))}"
    known = {name: log_mean(logs) for name, logs in evidence.items() if name != TOTAL and logs}
    where = f"; most of all in {max(sorted(known), key=lambda name: known[name])}" if known and group == TOTAL else ""
    return f"the new release is slower{f' in {group}' if group else ''}: {halves}; {ends}{where}"


def percent(part: float) -> str:
    """`5 %`, `0.3 %`."""
    return f"{part * 100:.3g} %"


def number(count: int) -> str:
    """`3,911`."""
    return f"{count:,}"


def counted(count: int, noun: str) -> str:
    """`1 error`, `3,911 requests`."""
    return f"{number(count)} {noun}{'' if count == 1 else 's'}"


def time_text(value: float | None) -> str:
    """A latency: `41 ms`, `1.3 s`."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.1f} s"


def quantiles_text(tally: Tally) -> str:
    """p50, p95 and p99 of the latency, the unit once where it is the same: `38/41/60 ms`."""
    texts = [time_text(quantile(tally, part)) for part in (0.5, 0.95, 0.99)]
    units = {text.partition(" ")[2] for text in texts}
    if len(units) > 1:
        return "/".join(texts)
    return f"{'/'.join(text.partition(' ')[0] for text in texts)} {units.pop()}".rstrip()


def round_line(title: str, spent: float, verdict: Verdict, against: str = "live", told: Sequence[str] = ()) -> str:
    """What a person sees after a round.

    `canary 5 %: 35 s, new 212 requests, 0 errors, p50/p95/p99 38/41/60 ms (live 3,911, 2, 37/40/58 ms): pass so far`.

    `told`: what the KPIs say, a few words each.
    """
    new, live = verdict.new, verdict.live
    shown = f"new {counted(requests(new), 'request')}, {counted(errors(new), 'error')}"
    other_side = f"{number(requests(live))}, {number(errors(live))}, {quantiles_text(live)}"
    word = {SO_FAR: "pass so far"}.get(verdict.verdict, verdict.verdict)
    why = f": {verdict.reasons[0]}" if verdict.reasons else ""
    requested = f"{spent:.0f} s, {shown}, p50/p95/p99 {quantiles_text(new)} ({against} {other_side})"
    return f"{title}: {', '.join([requested, *told])}: {word}{why}"


def summary(tally: Tally) -> dict[str, Any]:
    """A tally for the report: counts and quantiles, in seconds."""
    known = {f"p{part * 100:.0f}": quantile(tally, part) for part in (0.5, 0.95, 0.99)}
    quantiles = {name: None if value is None else round(value, 4) for name, value in known.items()}
    counts = {kind: int(tally.get(kind) or 0) for kind in CLASSES}
    return {"requests": requests(tally), "errors": errors(tally), **counts, **quantiles}
