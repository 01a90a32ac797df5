#!/usr/bin/env python3
"""Ways to put a release in front of visitors, side by side on one host. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "benchmarks")]

from support.common import CACHE, Failure, Progress, run_main, use_project_python  # noqa: E402

use_project_python()

from faults.rig import interrupt  # noqa: E402
from switches import Log, Request, Stage, about, profile  # noqa: E402

from support.example_fleet import APP, DOMAIN  # noqa: E402
from support.load import Load, LoadThread, parse_target  # noqa: E402
from support.load.tally import quantile  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
WORK = CACHE / "benchmarks-ways"
RATE = 60.0  # requests per second
DELAY = 10.0  # milliseconds of added round trip
APART = 12.0  # seconds from one change to the next
AROUND = 5.0  # seconds before and after a change whose answers are timed
RELOADED, PLAIN, WITHOUT = 8081, 8082, 8083  # ports
INCLUDE = "/etc/nginx/ways.include"
NAMED = "/run/ways.env"
EXPECTED = 1.03  # of the latency with the slots to that of a plain proxy_pass: what was hoped for
BLOCKS, BLOCK = 30, 100  # of requests one after the other, for the added latency

SITE = """\
upstream ways_reloaded {{ include {include}; }}
upstream ways_plain {{ server unix:/run/bluegreen/{app}/{colour}.sock; }}
server {{
    listen {reloaded};
    location / {{ proxy_http_version 1.1; proxy_set_header Host $host; proxy_pass http://ways_reloaded; }}
}}
server {{
    listen {plain};
    location / {{ proxy_http_version 1.1; proxy_set_header Host $host; proxy_pass http://ways_plain; }}
}}
"""

# The toolkit's own site once more, in front of one socket.
SINGLE = """\
sed -n '/^server {{/,$p' /etc/nginx/conf.d/bluegreen-app-{app}.conf |
  sed -e 's/listen 80;/listen {port};/' -e '/listen \\[::\\]/d' -e 's|http://$bg_{app}_target;|http://ways_plain;|'
"""

# Ends with the last worker of before: what those hold open would be closed under the next measurement.
RELOAD = """\
before=$(pgrep -f 'nginx: worke[r]'); nginx -t -q && nginx -s reload || exit 1
for pid in $before; do timeout 40 tail --pid=$pid -f /dev/null || exit 1; done
"""

MEMORY = """\
sum() {
  for pid in $1; do cat /proc/$pid/smaps_rollup 2>/dev/null; done | awk '/^Pss:/ {total += $2} END {print total + 0}'
}
echo $(sum "$(pgrep -f 'gunicor[n]')") $(sum "$(pgrep -x nginx)") $(pgrep -xc nginx)
"""


@dataclass(frozen=True)
class Change:
    """One change of the release: when its command was started and had ended, and the release that it took away."""

    started: float
    done: float
    old: str


@dataclass
class Way:
    """A way, and what visitors had of it."""

    name: str
    requests: int = 0
    failed: int = 0
    took: list[float] = field(default_factory=list)  # seconds of the command
    last_old: list[float] = field(default_factory=list)  # seconds from its start to the old release's last quick answer
    p99_ms: list[float] = field(default_factory=list)  # of quick requests in the seconds around it
    gaps: list[float] = field(default_factory=list)  # longest time in seconds without a good quick answer after it
    application_kb: int = 0
    nginx_kb: int = 0
    nginx_processes: int = 0


def judged(name: str, requests: Sequence[Request], changes: Sequence[Change]) -> Way:
    """What the visitors had of a way."""
    way = Way(name, len(requests), sum(one.failed for one in requests))
    for change in changes:
        way.took.append(change.done - change.started)
        old = [one.answered for one in requests if one.quick and one.release == change.old and not one.failed]
        near = [moment for moment in old if moment < change.started + APART]
        way.last_old.append(max(0.0, max(near, default=0.0) - change.started))
        times = [
            (one.answered - one.sent) * 1000
            for one in requests
            if one.quick and not one.failed and abs(one.sent - change.started) <= AROUND
        ]
        way.p99_ms.append(quantile(sorted(times), 0.99))
        good = sorted(one.answered for one in requests if one.quick and not one.failed)
        after = [moment for moment in good if change.started - 1 <= moment <= change.started + APART]
        way.gaps.append(max((later - earlier for earlier, later in itertools.pairwise(after)), default=APART))
    return way


# --- what is shown ------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], unit: str, digits: int = 2) -> str:
    """Median (minimum to maximum)."""
    if not values:
        return "–"
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return f"{statistics.median(values):.{digits}f} {unit} ({low} to {high})"


def table(ways: Sequence[Way]) -> str:
    """One row for each way, as a Markdown table."""
    lines = [
        "| way | failed | the command takes | last answer of the old one | p99 around it | application, nginx |",
        "|---|---|---|---|---|---|",
    ]
    for way in ways:
        share = f"{way.failed} of {way.requests}" + (
            f" ({100 * way.failed / way.requests:.2f} %)" if way.failed else ""
        )
        memory = f"{way.application_kb / 1024:.0f} MB, {way.nginx_kb / 1024:.0f} MB in {way.nginx_processes} processes"
        spreads = [spread(way.took, "s"), spread(way.last_old, "s"), spread(way.p99_ms, "ms", 0)]
        lines.append(f"| {way.name} | {share} | {' | '.join(spreads)} | {memory} |")
    return "\n".join(lines)


def killed_table(ways: Sequence[Way]) -> str:
    """One row for each way, as a Markdown table."""
    lines = ["| the live colour is killed | times | failed | longest time without an answer |", "|---|---|---|---|"]
    for way in ways:
        failed = f"{way.failed} of {way.requests}"
        lines.append(f"| {way.name} | {len(way.gaps)} | {failed} | {spread(way.gaps, 's')} |")
    return "\n".join(lines)


def latency_table(latency: Mapping[str, Mapping[str, list[float]]]) -> str:
    """One row for each path, as a Markdown table."""
    lines = [
        "| path | 20 slots | the same without slots | plain | slots to without | slots to plain |",
        "|---|---|---|---|---|---|",
    ]
    for path, found in latency.items():
        spreads = [spread([value * 1000 for value in values], "ms") for values in found.values()]
        ratios = [
            f"{statistics.median(a / b for a, b in zip(found['slots'], found[name], strict=True)):.3f}"
            for name in ("without", "plain")
        ]
        lines.append(f"| {path} | {' | '.join(spreads)} | {' | '.join(ratios)} |")
    return "\n".join(lines)


def expected(latency: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Whether what was expected of the slots came true, and where the rest comes from."""
    found = [
        (statistics.median(a / b for a, b in zip(times["slots"], times["plain"], strict=True)), times)
        for times in latency.values()
    ]
    added = [statistics.median(times["slots"]) - statistics.median(times["plain"]) for _, times in found]
    ratios = " and ".join(f"{ratio:.3f}" for ratio, _ in found)
    seconds = " and ".join(f"{value * 1000:.2f} ms" for value in added)
    word = "missed" if max(ratio for ratio, _ in found) >= EXPECTED else "met"
    return f"""\
Expected: under {EXPECTED} times plain. This is {word}: {ratios}, that is {seconds} more. The slots themselves cost what
*slots to without* says; the rest is what plain does not do at all (cookie, log, headers for the application)."""


def text(
    ways: Sequence[Way],
    killed: Sequence[Way],
    latency: Mapping[str, Mapping[str, list[float]]],
    facts: Mapping[str, Any],
) -> str:
    """The page of results."""
    made = facts["versions"]
    return f"""\
# Ways to change the release, side by side

{facts["date"]}, {made["processors"]} processors, {made["hosts"]}. bluegreen {made["bluegreen"]}.
How: [../README.md](../README.md).

{table(ways)}

Medians (smallest to largest). Memory: proportional set size right after the last change.

## A crash of the live colour

SIGKILL to all its processes; systemd starts it again. With a warm idle colour nginx asks that one meanwhile. What the
colour was answering when it died is lost either way, but for what nginx may ask again (not POST).

{killed_table(killed)}

## Added latency

Requests one after the other, the three in turns, all to the same socket; medians of {BLOCK}, {BLOCKS} times. *The same
without slots* is this toolkit's site with one fixed upstream. *Plain* is a `proxy_pass` with nothing beside it: no
cookie, no log in JSON, and nothing that tells the application of the visitor.

{latency_table(latency)}

{expected(latency)}

Again: `{facts["command"]}`
"""


# --- what is measured ---------------------------------------------------------------------------------------------


class Site(Stage):
    """One app server with two warm releases, and beside its own site two that are made the common ways."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(1, "wsgi", progress, WORK / "ways", "10.213.79.0/24")
        self.colour = self.included = ""

    def others(self) -> None:
        """The two other sites, in front of the same sockets."""
        self.colour = str(self.status()[self.hosts[0]]["live"]["colour"])
        site = SITE.format(app=APP, colour=self.colour, include=INCLUDE, reloaded=RELOADED, plain=PLAIN)
        drop = f"/etc/systemd/system/{APP}@{self.colour}.service.d"
        self.included = self.colour
        self.include(self.colour)
        site += self.on(self.hosts[0], SINGLE.format(app=APP, port=WITHOUT))
        self.on(self.hosts[0], "cat > /etc/nginx/conf.d/ways.conf", stdin=site.encode())
        self.on(
            self.hosts[0],
            f"mkdir -p {drop}; printf '[Service]\\nEnvironmentFile=-{NAMED}\\n' > {drop}/ways.conf;"
            f" systemctl daemon-reload; {RELOAD}",
        )

    def include(self, colour: str) -> None:
        """The file that the common way writes."""
        line = f"server unix:/run/bluegreen/{APP}/{colour}.sock;\n"
        self.on(self.hosts[0], f"cat > {INCLUDE}.new && mv {INCLUDE}.new {INCLUDE}", stdin=line.encode())

    def slots(self, _number: int) -> Change:
        """This toolkit's switch."""
        started, done, old, _new = self.switch()
        return Change(started, done, old)

    def reload(self, _number: int) -> Change:
        """Write an include and reload nginx."""
        states = self.status()[self.hosts[0]]
        colours = {str(states[role]["colour"]): str(states[role]["release"]) for role in ("live", "idle")}
        old = self.included
        self.included = next(colour for colour in colours if colour != old)
        started = time.monotonic()
        self.include(self.included)
        self.on(self.hosts[0], "nginx -s reload")
        return Change(started, time.monotonic(), colours[old])

    def restart(self, number: int) -> Change:
        """Restart the one gunicorn that there is."""
        old = f"ways-{number - 1}" if number else str(self.status()[self.hosts[0]]["live"]["release"])
        self.on(self.hosts[0], f"echo BLUEGREEN_RELEASE=ways-{number} > {NAMED}")
        started = time.monotonic()
        self.on(self.hosts[0], f"systemctl restart {APP}@{self.colour}")
        return Change(started, time.monotonic(), old)

    def kill(self, _number: int) -> Change:
        """Every process of the live colour dies."""
        live = self.status()[self.hosts[0]]["live"]
        started = time.monotonic()
        self.on(self.hosts[0], f"systemctl kill -s KILL {APP}@{live['colour']}")
        return Change(started, time.monotonic(), str(live["release"]))

    def stop_idle(self) -> None:
        """No fallback."""
        idle = self.status()[self.hosts[0]]["idle"]
        self.on(self.hosts[0], f"systemctl stop {APP}@{idle['colour']}")

    def measure(self, name: str, port: int, change: Callable[[int], Change], count: int) -> Way:
        """So many changes of one way, under traffic."""
        requests: list[Request] = []
        load = Load(
            [parse_target(f"http://{self.fleet.entrance.address}:{port}", DOMAIN)],
            profile=profile(False, "wsgi"),
            rate=RATE,
            connections=16,
            timeout=30,
            probe_token=self.token,
            delay=DELAY,
            log=Log(requests),
        )
        changes = []
        with LoadThread(load) as thread:
            time.sleep(AROUND)
            for number in range(count):
                changes.append(change(number))
                time.sleep(max(0.0, changes[-1].started + APART - time.monotonic()))
            memory = self.on(self.hosts[0], MEMORY).split()
            thread.stop()
        way = judged(name, requests, changes)
        way.application_kb, way.nginx_kb, way.nginx_processes = (int(word) for word in memory)
        self.progress(f"{name}: {way.failed} of {way.requests} failed")
        return way

    def latency(self, path: str) -> dict[str, list[float]]:
        """Seconds of a request to the same socket through the slots and without them, in turns."""
        ports = {"slots": 80, "without": WITHOUT, "plain": PLAIN}
        lines = {name: http.client.HTTPConnection(self.fleet.entrance.address, port) for name, port in ports.items()}
        found: dict[str, list[float]] = {name: [] for name in ports}
        for _ in range(BLOCKS):
            for line in lines.values():
                line.close()  # one connection stays with one of nginx's processes, and they are not equally fast
                self.asked(line, path)
            rounds = [{name: self.asked(line, path) for name, line in lines.items()} for _ in range(BLOCK)]
            for name, values in found.items():
                values.append(statistics.median(one[name] for one in rounds))
        return found

    def asked(self, line: http.client.HTTPConnection, path: str) -> float:
        """Seconds to a whole good answer. Raises Failure."""
        started = time.perf_counter()
        line.request("GET", path, headers={"Host": DOMAIN})
        answer = line.getresponse()
        answer.read()
        if answer.status != 200:
            raise Failure(f"port {line.port}: {path} answered {answer.status}")
        return time.perf_counter() - started


def write(
    ways: Sequence[Way],
    killed: Sequence[Way],
    latency: Mapping[str, Mapping[str, list[float]]],
    facts: Mapping[str, Any],
    folder: Path,
) -> None:
    """The results for people and for programs."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"ways": [asdict(way) for way in ways], "killed": [asdict(way) for way in killed]}
    content = {**facts, **found, "latency": latency}
    (folder / "ways.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "ways.md").write_text(text(ways, killed, latency, facts), encoding="utf-8")


def checked(arguments: list[str]) -> argparse.Namespace:
    """The options; raises Failure before anything is made."""
    parser = argparse.ArgumentParser(prog="ways.py", description=__doc__)
    parser.add_argument("--changes", type=int, default=10, help="of the release, each way (10)")
    parser.add_argument("--keep", action="store_true", help="leave the host running")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    given = parser.parse_args(arguments)
    if not 1 <= given.changes <= 1000:
        raise Failure(f"--changes {given.changes}: give a number from 1 to 1000", 2)
    return given


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    given = checked(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    progress = Progress()
    WORK.mkdir(parents=True, exist_ok=True)
    site = Site(progress)
    facts = about(f"benchmarks/ways.py --changes {given.changes}")
    try:
        site.prepare()
        site.others()
        latency = {path: site.latency(path) for path in ("/healthz", "/")}
        killed = [site.measure("with a warm idle colour", 80, site.kill, given.changes)]
        ways = [site.measure("bluegreen: one rename", 80, site.slots, given.changes)]
        site.others()
        ways.append(site.measure("include, then `nginx -s reload`", RELOADED, site.reload, given.changes))
        ways.append(site.measure("restart in place", PLAIN, site.restart, given.changes))
        site.stop_idle()
        killed.append(site.measure("without one", 80, site.kill, given.changes))
        write(ways, killed, latency, facts, given.results)
    finally:
        if not given.keep:
            with suppress(Failure, subprocess.SubprocessError):
                site.remove()
    print(table(ways))
    print(killed_table(killed))
    return 0 if ways[0].failed == 0 else 1


if __name__ == "__main__":
    sys.exit(run_main(main))
