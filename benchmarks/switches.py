#!/usr/bin/env python3
"""Switches, deploys and rollbacks under every kind of client: does a request fail? See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "benchmarks")]

from support.common import CACHE, Failure, Progress, program, run, run_main, use_project_python  # noqa: E402

use_project_python()

from faults.rig import NEW, OLD, Rig, interrupt  # noqa: E402

from support.example_fleet import APP, DOMAIN, Fleet, versions  # noqa: E402
from support.hosts import inventory_name  # noqa: E402
from support.load import Load, LoadThread, Shape, parse_target  # noqa: E402
from support.load.tally import Seen  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
HOSTS = "Debian 13 containers with systemd, on the machine that sends the requests"
WORK = CACHE / "benchmarks-switches"
RATE = 40.0  # requests per second, beside the websockets
BEFORE = AFTER = 4.0  # seconds of traffic before the first and after the last change: more than the longest answer
PAUSE = 0.5  # seconds from one switch to the next
SEEN = 20.0  # seconds after which the load must have met the release that was switched to
TTL = 60.0  # of a switch and of the lease, in seconds
SECURE = "TLS, HTTP/1.1 and HTTP/2"
DELAYS = (0.0, 10.0)  # milliseconds of round trip that are added
CERTIFICATE, KEY = "/etc/ssl/bluegreen-switches.pem", "/etc/ssl/private/bluegreen-switches.key"

QUOTE = '{"product": "sidamo", "quantity": 2}'
# Without a pool, slow machines soon need more connections than PostgreSQL has: see docs/settings.md, ASGI.
POOLED = """\
from shop.settings import *  # noqa: F403
from shop.settings import DATABASES

DATABASES["default"] |= {"CONN_MAX_AGE": 0, "OPTIONS": {"pool": {"min_size": 1, "max_size": 4}}}
"""
WORKERS = {"asgi": "", "wsgi": ", threads", "sync": ", sync workers"}  # as they are told in a series' name
SETTINGS: dict[str, dict[str, object]] = {
    "wsgi": {"app_threads": 16},  # with fewer, slow answers alone keep all of them busy
    "sync": {"app_workers": 12, "app_threads": 1},
    "asgi": {
        "app_wsgi": "",
        "app_asgi": "shop.asgi:application",
        "app_extra_requirements": [
            "gunicorn>=23,<28",
            "uvicorn>=0.34,<1",
            "uvicorn-worker>=0.3,<1",
            "websockets>=13",
            "psycopg-pool>=3.2,<4",
        ],
    },
}
ON_HOSTS: dict[str, dict[str, object]] = {  # what an artifact is not built with
    "asgi": {"app_settings_module": "pooled_settings", "app_files": {"pooled_settings.py": POOLED}},
}


# --- what is sent -------------------------------------------------------------------------------------------------


def profile(secure: bool, server: str) -> tuple[Shape, ...]:
    """All kinds at once: HTTP/1.1, over TLS also HTTP/2; websockets where the application serves them.

    Slow answers, streams and uploads take longer than most switches, so that some are under way in each one.
    """
    quote = {"method": "POST", "body": QUOTE, "content_type": "application/json"}
    binary = "application/octet-stream"
    shapes = [
        Shape("get", "/", weight=20),
        Shape("get", "/healthz", weight=15),
        Shape("fresh", "/", weight=12),
        Shape("post", "/api/quote/", "POST", QUOTE, "application/json", weight=15),
        Shape("asset", "/", weight=5),
        Shape("slow", "/slow?seconds=2", weight=2),
        Shape("stream", "/stream?seconds=3", weight=2, ends="end\n"),
        Shape("upload", "/upload", "POST", 262144, binary, weight=2, seconds=2),
    ]
    if secure:
        shapes += [
            Shape("h2", "/", weight=15),
            Shape("h2", "/api/quote/", quote["method"], quote["body"], quote["content_type"], weight=10),
            Shape("h2", "/slow?seconds=2", weight=1),
            Shape("h2", "/stream?seconds=3", weight=1, ends="end\n"),
            Shape("h2", "/upload", "POST", 262144, binary, weight=1, seconds=2),
        ]
    if server == "asgi":
        shapes.append(Shape("websocket", "/ws/echo", connections=6))
    return tuple(shapes)


# --- what is counted ----------------------------------------------------------------------------------------------


SLOW_KINDS = ("slow", "stream", "upload")


@dataclass(frozen=True)
class Request:
    """One request of a visitor, no websocket; sent and answered on the monotonic clock."""

    sent: float
    answered: float
    release: str
    failed: bool
    quick: bool


class Log(StringIO):
    """Takes the load's lines and keeps what is asked of them."""

    def __init__(self, requests: list[Request]) -> None:
        super().__init__()
        self.requests = requests

    def write(self, line: str) -> int:
        found = json.loads(line)
        if found["kind"] == "websocket":
            return len(line)  # it stays where it is
        answered = float(found["monotonic"])
        sent = answered - (float(found["answered"]) - float(found["sent"]))
        quick = found["kind"] not in SLOW_KINDS
        self.requests.append(Request(sent, answered, str(found["release"]), "failure" in found, quick))
        return len(line)


@dataclass(frozen=True)
class Change:
    """One switch. started, done: on the monotonic clock; `done` is when every host had routed."""

    started: float
    done: float
    late: float  # seconds after `done` at which the last request was sent that the old release still answered; 0: none

    @property
    def seconds(self) -> float:
        """What the switch took."""
        return self.done - self.started


@dataclass
class Series:
    """One measured stretch of traffic and what happened in it."""

    hosts: int
    what: str
    protocol: str
    delay: float  # milliseconds of added round trip
    kinds: dict[str, dict[str, float]]
    seconds: float
    sent_late: int
    changes: list[Change] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    stated: tuple[str, ...] = ()  # kinds whose failures are told and not judged
    server: str = "asgi"
    by: str = ""  # the commit of bluegreen

    def total(self, what: str) -> int:
        """requests, failed, refused or closed over all kinds."""
        return int(sum(kind[what] for kind in self.kinds.values()))

    @property
    def late(self) -> float | None:
        """The worst of the switches; None where none was timed."""
        return max((one.late for one in self.changes), default=None)

    @property
    def good(self) -> bool:
        """No request failed, all kinds were sent, and none was answered by a release that was left."""
        answered = all(kind["requests"] > kind["refused"] + kind["closed"] for kind in self.kinds.values())
        failed = sum(kind["failed"] for name, kind in self.kinds.items() if name not in self.stated)
        return failed == 0 and bool(self.kinds) and answered and not self.late

    def as_json(self) -> dict[str, Any]:
        """For the results."""
        totals = {what: self.total(what) for what in ("requests", "failed", "refused", "closed")}
        return asdict(self) | totals | {"late": self.late, "good": self.good}


def series(
    hosts: int, what: str, protocol: str, delay: float, report: Mapping[str, Any], changes: Iterable[Change] = ()
) -> Series:
    """A series from the load's report."""
    wanted = ("requests", "failed", "refused", "closed", "p50_ms", "p99_ms", "max_ms")
    kinds = {name: {key: kind[key] for key in wanted} for name, kind in report["kinds"].items()}
    failures = list(report["failures"][:20])
    return Series(hosts, what, protocol, delay, kinds, report["seconds"], report["sent_late"], list(changes), failures)


def lateness(requests: Iterable[Request], old: str, done: float, until: float) -> float:
    """Seconds after `done` at which the last request was sent that the old release answered; 0 if none was.

    until: when the next switch began, on the monotonic clock. What is answered after it says nothing: by then the
    old release may serve again, and an upload is given to the release that serves when it has come.
    """
    sent = [one.sent for one in requests if one.release == old and done < one.sent and one.answered < until]
    return round(max(sent, default=done) - done, 4)


def timed(requests: Sequence[Request], times: Sequence[tuple[float, float, str]]) -> list[Change]:
    """The switches of a series that has ended. times: when each began and was done, and the release that it left."""
    ends = [started for started, _, _ in times[1:]] + [float("inf")]
    return [
        Change(started, done, lateness(requests, old, done, until))
        for (started, done, old), until in zip(times, ends, strict=True)
    ]


def answered_since(seen: Seen | None, moment: float) -> bool:
    """Whether a release has answered a request that was sent after a moment."""
    return bool(seen and seen.last_sent and seen.last_sent.monotonic > moment)


def fence(answers: Iterable[Mapping[str, Any]]) -> int | None:
    """The generation with which a fleet is changed: above all that any of its hosts has accepted."""
    leases = [answer["results"]["lease"] for answer in answers]
    known = [int(lease["generation"]) for lease in leases if lease.get("generation") is not None]
    known += [int(lease["fence"]) + 1 for lease in leases if lease.get("fence") is not None]
    return max(known, default=None)


# --- what is shown ------------------------------------------------------------------------------------------------


def shown(one: Series) -> str:
    """A series' name."""
    delay = f", +{one.delay:g} ms" if one.delay else ""
    return f"{one.what}, {one.protocol}{delay}{WORKERS[one.server]}"


def overview(found: Sequence[Series]) -> str:
    """One row for each series, as a Markdown table."""
    lines = [
        "| hosts | series | requests | failed | refused | closed | a switch took (median, max) | late | by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        took = sorted(change.seconds for change in one.changes)
        times = f"{took[len(took) // 2]:.2f} s, {took[-1]:.2f} s" if took else "–"
        late = "–" if one.late is None else "never" if one.late == 0 else f"up to {one.late:.3f} s"
        counts = " | ".join(str(one.total(what)) for what in ("requests", "failed", "refused", "closed"))
        lines.append(f"| {one.hosts} | {shown(one)} | {counts} | {times} | {late} | {one.by} |")
    return "\n".join(lines)


def by_kind(found: Sequence[Series]) -> str:
    """One row for each kind of request over all series, as a Markdown table."""
    lines = [
        "| kind | requests | failed | refused | closed | p99 |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({name for one in found for name in one.kinds}):
        kinds = [one.kinds[name] for one in found if name in one.kinds]
        counts = (str(int(sum(kind[what] for kind in kinds))) for what in ("requests", "failed", "refused", "closed"))
        slow, fast = max(kind["p99_ms"] for kind in kinds), min(kind["p99_ms"] for kind in kinds)
        lines.append(f"| {name} | {' | '.join(counts)} | {fast:.0f}–{slow:.0f} ms |")
    return "\n".join(lines)


def text(found: Sequence[Series], facts: Mapping[str, Any]) -> str:
    """The page of results."""
    made, notes = facts["versions"], "".join(f"\n{note}\n" for note in facts.get("notes") or [])
    requests, failed = sum(one.total("requests") for one in found), sum(one.total("failed") for one in found)
    # The rule of three: none in n leaves at most 3/n, at 95 %.
    bound = f" So fewer than 1 in {requests // 3} fail (95 %)." if requests >= 300 and not failed else ""
    failures = [
        f"- {one.hosts} host(s), {shown(one)}: "
        f"{failure['kind']} {failure['method']} {failure['path']}: {failure['detail']}"
        for one in found
        for failure in one.failures
    ]
    return f"""\
# Switches, deploys and rollbacks under every kind of client

{facts["date"]}, {made["ansible"]}, {made["processors"]} processors, {made["hosts"]}.
*by*: the commit of bluegreen. How: [../README.md](../README.md).

**{failed} of {requests} requests failed.**{bound}
{notes}
{overview(found)}

*refused*: HTTP/2 requests that the server, by GOAWAY or REFUSED_STREAM, said it had not looked at. *closed*: websockets
that were ended with the code 1001 or 1012, which asks the visitor to come back. *late*: whether a request
that was sent after every host had switched, and answered before the next switch, was answered by the release before.

## By kind

{by_kind(found)}

p99: the smallest and the largest of the series.

## What failed

{chr(10).join(failures) if failures else "Nothing."}

Again: `{facts["command"]}`
"""


# --- the hosts ----------------------------------------------------------------------------------------------------


class Stage(Rig):
    """A fleet with two warm releases on it; the load balancer, if there is one, is where visitors come in."""

    def __init__(self, app_servers: int, server: str, progress: Progress, home: Path, subnet: str) -> None:
        super().__init__(app_servers, 1, progress, TTL, TTL)
        self.fleet = Fleet(home / "inventory", home.parent / "work", app_servers, subnet)
        self.inventory = inventory_name(self.fleet.directory)
        self.logs = home / "logs"
        self.server = server
        self.secure = False

    def prepare(self) -> None:
        """Hosts without TLS, with two warm releases; those that were kept are used again."""
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.fleet.make_repository()
        if self.pid("web1") and (self.fleet.directory / "hosts.yml").is_file() and not self.certificates.exists():
            self.progress("the hosts of the last time are used again")
        else:
            self.make()
        self.token = self.fleet.probe_token()

    def make(self) -> None:
        """New hosts."""
        environment = {
            "ALLOWED_HOSTS": "{{ app_domain }}",
            "HTTPS": "{{ '1' if app_https else '0' }}",
            "BENCHMARK_ROUND": "{{ benchmark_round | default('0') }}",
        }
        self.fleet.write_inventory({"app_env": environment} | SETTINGS[self.server])
        for release in (OLD, NEW):
            self.progress(f"build {release}")
            self.must(self.fleet.build(release), f"build {release}", 1800)
        place = self.fleet.directory / "group_vars" / "app_servers" / "zzz-hosts.yml"
        place.write_text(f"---\n{json.dumps(ON_HOSTS.get(self.server, {}))}\n")
        self.progress(f"make and provision {len(self.fleet.nodes)} hosts")
        self.must(self.fleet.hosts("down"), "remove old hosts")
        self.must(self.fleet.hosts("up"), "make hosts", 1800)
        self.must(self.fleet.playbook("provision.yml"), "provision", 1800)
        self.warm()

    @property
    def certificates(self) -> Path:
        """The settings for TLS. Named so that they are read after zz-here.yml."""
        return self.fleet.directory / "group_vars" / "app_servers" / "zzz-tls.yml"

    def warm(self) -> None:
        """Both releases run on every host, the new one is live."""
        for release in (OLD, NEW):
            self.progress(f"deploy {release}")
            self.must(self.deploy_command(release), f"deploy {release}")

    def secured(self) -> None:
        """TLS where visitors come in, and both releases with the settings for it."""
        self.progress("provision with TLS")
        self.renew()
        more = {"app_tls_certificate": CERTIFICATE, "app_tls_key": KEY}
        self.certificates.write_text(f"---\n{json.dumps(more)}\n")
        self.must(self.fleet.playbook("provision.yml"), "provision with TLS", 1800)
        self.secure = True
        self.warm()

    def renew(self) -> None:
        """A new certificate where visitors come in; nginx does not know of it yet."""
        with tempfile.TemporaryDirectory() as place:
            chain, key = Path(place, "chain.pem"), Path(place, "key.pem")
            words = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            words += ["-nodes", "-days", "7", "-subj", f"/CN={DOMAIN}", "-keyout", str(key), "-out", str(chain)]
            run(words, what="make a certificate", timeout=60)
            for path, content in ((CERTIFICATE, chain.read_bytes()), (KEY, key.read_bytes())):
                self.on(self.fleet.entrance.name, f"umask 077; cat > {path}", stdin=content)

    def clients(self, delay: float, log: TextIO | None = None) -> Load:
        """Traffic of all kinds at the entrance."""
        url = f"http{'s' if self.secure else ''}://{self.fleet.entrance.address}"
        return Load(
            [parse_target(url, DOMAIN)],
            profile=profile(self.secure, self.server),
            rate=RATE,
            connections=12,
            timeout=30,
            probe_token=self.token,
            delay=delay,
            log=log,
        )

    @contextmanager
    def told(self, load: Load) -> Iterator[None]:
        """Tell what has failed, also where a series is broken off and has no results."""
        try:
            yield
        finally:
            for failure in load.tally.failures:
                self.progress(f"failed: {json.dumps(failure)}")

    def call(self, host: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """One batch of the host tool, as a controller calls it. Raises Failure."""
        command = f"exec /usr/local/bin/bluegreen batch --app {APP}"
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(self.on(host, command, stdin=json.dumps(message).encode(), check=False))
        if not answer.get("ok"):
            raise Failure(f"{host}: {json.dumps(answer.get('error') or 'the host tool gave no answer')}")
        return answer

    def patient(self, name: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """A call, again where the register is too busy to answer or was not told of a lease's end. Raises Failure."""
        until = time.monotonic() + 2 * TTL
        while True:
            try:
                return self.call(name, message)
            except Failure:
                if time.monotonic() > until:
                    raise
            time.sleep(1)

    def together(self, work: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
        """The same on all app servers at once; ends when all have ended."""
        with ThreadPoolExecutor(len(self.hosts)) as pool:
            return list(pool.map(work, self.hosts))

    def lease(self) -> dict[str, Any]:
        """What every call of a change says, once all hosts have given it the lease."""
        deploy = f"20260101t000000-{uuid.uuid4().hex[:6]}"
        call: dict[str, Any] = {"deploy_id": deploy, "holder": "switches", "fence": None}
        take = {"verb": "lease", "action": "take", "ttl": TTL, "what": "switches", "brief": True}
        call["fence"] = fence(self.together(lambda name: self.patient(name, call | {"steps": [take]})))
        return call

    def stop_idle(self, release: str) -> None:
        """Stop the idle colour as soon as nothing is in flight on it, and start its release again."""
        steps = [
            {"verb": "drain"},
            {"verb": "start", "release": release, "alive": 0.0},
            {"verb": "lease", "action": "release"},
        ]
        call = self.lease() | {"steps": steps}
        for answer in self.together(lambda name: self.call(name, call)):
            cut = answer["results"]["drain"]["cut"]
            self.progress(f"stopped the old colour: {cut['requests']} requests and {cut['websockets']} websockets left")

    def switch(self) -> tuple[float, float, str, str]:
        """All hosts to the release on their idle colour: beginning, moment when all had routed, old and new release."""
        states = self.status()
        new = {name: str(status["idle"]["release"]) for name, status in states.items()}
        old = {str(status["live"]["release"]) for status in states.values()}
        if len(set(new.values())) != 1 or len(old) != 1:
            raise Failure(f"the hosts do not hold the same two releases: live {sorted(old)}, idle {new}")
        call = self.lease()

        def route(name: str) -> dict[str, Any]:
            step = {"verb": "route", "release": new[name], "share": 100, "ttl": TTL, "kind": "deploy", "fresh": True}
            return self.call(name, call | {"steps": [{"verb": "resume"}, step]})

        def confirm(name: str) -> dict[str, Any]:
            steps = [
                {"verb": "decide", "decision": "COMMIT", "release": new[name]},
                {"verb": "confirm", "release": new[name]},
                {"verb": "processes", "action": "settle", "wait": False},
                {"verb": "lease", "action": "release"},
            ]
            return self.patient(name, call | {"steps": steps})

        started = time.monotonic()
        self.together(route)
        done = time.monotonic()
        self.together(confirm)
        return started, done, old.pop(), next(iter(new.values()))


# --- what is measured ---------------------------------------------------------------------------------------------


def switches(
    stage: Stage, count: int, delay: float, then: str = "", after: Callable[[str], None] | None = None
) -> Series:
    """So many switches in a row between two warm releases, under traffic.

    after: what is done right after each with the release that it left, which `then` says in the series' name.
    """
    requests: list[Request] = []
    load = stage.clients(delay, Log(requests))
    times: list[tuple[float, float, str]] = []
    with stage.told(load), LoadThread(load) as thread:
        time.sleep(BEFORE)
        for number in range(1, count + 1):
            started, done, old, new = stage.switch()
            times.append((started, done, old))
            if after:
                after(old)
            met(load, new, done)
            time.sleep(PAUSE)
            if number % 10 == 0:
                stage.progress(f"{number} switches, {load.tally.requests} requests, {load.tally.failed} failed")
        time.sleep(AFTER)
        report = thread.stop()
    protocol = SECURE if stage.secure else "HTTP/1.1"
    return series(len(stage.hosts), f"{count} switches{then}", protocol, delay, report, timed(requests, times))


def met(load: Load, release: str, since: float) -> None:
    """Waits until the load has been answered by the release that was switched to; raises Failure if it never is."""
    until = time.monotonic() + SEEN
    while not answered_since(load.tally.releases.get(release), since):
        if time.monotonic() > until:
            raise Failure(f"{SEEN:g} s after the switch the load has met {sorted(load.tally.releases)}, not {release}")
        time.sleep(0.02)


def playbooks(stage: Stage, count: int, delay: float) -> Series:
    """So many whole deploys, each followed by a rollback, under traffic. Each deploy starts new processes."""
    stage.given(OLD)
    load = stage.clients(delay)
    with stage.told(load), LoadThread(load) as thread:
        time.sleep(BEFORE)
        for number in range(1, count + 1):
            stage.must(stage.deploy_command(NEW), f"deploy {number}")
            stage.must(stage.fleet.playbook("rollback.yml"), f"rollback {number}")
            stage.progress(
                f"{number} deploys and rollbacks, {load.tally.requests} requests, {load.tally.failed} failed"
            )
        time.sleep(AFTER)
        report = thread.stop()
    protocol = SECURE if stage.secure else "HTTP/1.1"
    return series(len(stage.hosts), f"{count} deploys and {count} rollbacks", protocol, delay, report)


def stops(stage: Stage, count: int, delay: float) -> Series:
    """So many switches, after each of which the old colour stops at once: what is in flight there has to end first."""
    return switches(stage, count, delay, ", the old colour stopped at once", stage.stop_idle)


def forward(stage: Stage, count: int, delay: float) -> Series:
    """So many deploys with no rollback between them: each stops the colour that served until the one before.

    What is in flight there must end, and the websockets that are still open are closed.
    """
    stage.given(OLD)
    load = stage.clients(delay)
    with stage.told(load), LoadThread(load) as thread:
        time.sleep(BEFORE)
        for number in range(1, count + 1):
            stage.must(stage.deploy_command((OLD, NEW)[number % 2]), f"deploy {number} forward")
            stage.progress(f"{number} deploys forward, {load.tally.requests} requests, {load.tally.failed} failed")
        time.sleep(AFTER)
        report = thread.stop()
    protocol = SECURE if stage.secure else "HTTP/1.1"
    return series(len(stage.hosts), f"{count} deploys one after the other", protocol, delay, report)


def provisions(stage: Stage, count: int, delay: float) -> Series:
    """So many times provision.yml with a new certificate and another setting, so that nginx loads its configuration."""
    load = stage.clients(delay)
    with stage.told(load), LoadThread(load) as thread:
        time.sleep(BEFORE)
        for number in range(1, count + 1):
            stage.renew()
            stage.must(
                stage.fleet.playbook("provision.yml", web_server_patience=10, app_max_body=f"{100 + number}m"),
                f"provision {number}",
            )
            stage.progress(f"provisioned {number} times, {load.tally.requests} requests, {load.tally.failed} failed")
        time.sleep(AFTER)
        report = thread.stop()
    found = series(len(stage.hosts), f"{count} times provision.yml, which reloads nginx", SECURE, delay, report)
    found.stated = ("h2",)
    return found


def measure(stage: Stage, given: argparse.Namespace, put: Callable[[Series], None]) -> None:
    """Everything on one fleet: plain, then with TLS."""
    stage.prepare()
    for secure in (False, True):
        if secure:
            stage.secured()
        for delay in DELAYS if given.switches else ():
            put(switches(stage, given.switches, delay))
    if given.stops:
        put(stops(stage, given.stops, DELAYS[-1]))
    if given.deploys:
        put(playbooks(stage, given.deploys, DELAYS[-1]))
    if given.forward:
        put(forward(stage, given.forward, DELAYS[-1]))
    if given.provisions:
        put(provisions(stage, given.provisions, DELAYS[-1]))


def about(command: str) -> dict[str, Any]:
    """What is said of every measurement: when it was made, with what, and the command that repeats it."""
    date = datetime.now(UTC).date().isoformat()
    return {"format": 1, "date": date, "command": command, "versions": versions() | {"hosts": HOSTS}}


def earlier(folder: Path) -> tuple[list[Series], list[str]]:
    """The series and the notes of earlier results; none if there are none. Raises Failure."""
    path = folder / "switches.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        names = {one.name for one in fields(Series)}
        known = [{key: value for key, value in one.items() if key in names} for one in said["series"]]
        rows = [Series(**one | {"changes": [Change(**change) for change in one["changes"]]}) for one in known]
        return rows, list(said.get("notes") or [])
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, KeyError, TypeError):
        raise Failure(f"{path} cannot be read: leave --add out to write it anew", 2) from None


def joined(before: Iterable[Series], found: Sequence[Series]) -> list[Series]:
    """Earlier series and new ones; what was measured anew replaces what it was."""
    new = {(one.hosts, shown(one)) for one in found}
    kept = [one for one in before if (one.hosts, shown(one)) not in new]
    return sorted([*kept, *found], key=lambda one: (one.hosts, list(WORKERS).index(one.server)))


def write(found: Sequence[Series], facts: Mapping[str, Any], folder: Path) -> None:
    """The results for people and for programs; what was measured so far is kept if the rest fails."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [one.as_json() for one in found]
    (folder / "switches.json").write_text(json.dumps({**facts, "series": rows}, indent=1) + "\n", encoding="utf-8")
    (folder / "switches.md").write_text(text(found, facts), encoding="utf-8")


def checked(arguments: list[str]) -> argparse.Namespace:
    """The options; raises Failure before anything is made."""
    parser = argparse.ArgumentParser(prog="switches.py", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 3], help="fleets to measure, in app servers (1 3)")
    parser.add_argument("--switches", type=int, default=50, help="in a row, for each protocol and delay (50)")
    parser.add_argument("--stops", type=int, default=10, help="switches, the old colour stopped at once (10)")
    parser.add_argument("--deploys", type=int, default=10, help="whole deploys, each with a rollback after it (10)")
    parser.add_argument("--forward", type=int, default=4, help="whole deploys one after the other (4)")
    parser.add_argument("--provisions", type=int, default=3, help="of a live site, each reloads nginx (3)")
    parser.add_argument("--server", choices=sorted(SETTINGS), default="asgi", help="asgi has websockets (asgi)")
    parser.add_argument("--add", action="store_true", help="keep the earlier results that are not measured anew")
    parser.add_argument("--keep", action="store_true", help="leave the hosts running")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    given = parser.parse_args(arguments)
    for name in ("switches", "stops", "deploys", "forward", "provisions"):
        value = getattr(given, name)
        if not 0 <= value <= 1000:
            raise Failure(f"--{name} {value}: give a number from 0 to 1000", 2)
    if not any((given.switches, given.stops, given.deploys, given.forward, given.provisions)):
        raise Failure("0 of everything: nothing is left to measure", 2)
    return given


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    given = checked(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    progress = Progress()
    WORK.mkdir(parents=True, exist_ok=True)
    stages = [
        Stage(count, given.server, progress, WORK / f"{count}-{given.server}", f"10.213.{80 + count}.0/24")
        for count in given.hosts
    ]
    command = f"benchmarks/switches.py --hosts {' '.join(map(str, given.hosts))} --switches {given.switches}"
    facts = about(
        f"{command} --stops {given.stops} --deploys {given.deploys} --forward {given.forward} "
        f"--provisions {given.provisions} "
        f"--server {given.server}"
    )
    found: list[Series] = []
    before, notes = earlier(given.results) if given.add else ([], [])

    def put(one: Series) -> None:
        one.server, one.by = given.server, facts["versions"]["bluegreen"]
        found.append(one)
        write(joined(before, found), facts | {"notes": notes}, given.results)
        progress(f"{one.hosts} host(s), {shown(one)}: {one.total('failed')} of {one.total('requests')} failed")

    for stage in stages:
        try:
            measure(stage, given, put)
        finally:
            if not given.keep:
                with suppress(Failure, subprocess.SubprocessError):
                    stage.remove()
    print(overview(found))
    print()
    print(by_kind(found))
    return 0 if all(one.good for one in found) else 1


if __name__ == "__main__":
    sys.exit(run_main(main))
