"""KPIs: what Prometheus answers, what it means, and what becomes of a fleet."""

from __future__ import annotations

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.action import bluegreen_inputs
from plugins.action import bluegreen_kpis as action
from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_judge as judging
from plugins.module_utils import bluegreen_kpi as kpi
from plugins.module_utils import bluegreen_prometheus as prometheus
from plugins.module_utils import bluegreen_report as report
from plugins.module_utils import bluegreen_text as text
from plugins.module_utils.bluegreen_inputs import Refused
from tests.unit.plugins import test_canary as canary
from tests.unit.plugins import test_fleet as made
from tests.unit.plugins.test_action import HostVars, Templar
from tests.unit.plugins.test_fleet import HOSTS, B

TOKEN = "marker-of-a-secret"
ORDERS: dict[str, Any] = {"name": "orders_per_minute", "query": "sum(rate(orders_total[$window])) * 60", "min": 30}
NOW = 1_760_000_000.0


def vector(*values: object, at: float = NOW, kind: str = "vector") -> bytes:
    rows = [{"metric": {"n": str(place)}, "value": [at, value]} for place, value in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": rows}}).encode()


# questions


def test_a_query_is_filled_by_whole_names() -> None:
    query = 'x{app="$app",sha="$sha",c="$colour_new"}[$window] and y{path=~"/a$"}'
    values = {"app": "shop", "sha": "ab", "colour_new": "green", "window": "30s"}
    assert kpi.fill(query, values) == ('x{app="shop",sha="ab",c="green"}[30s] and y{path=~"/a$"}', [])
    assert kpi.unknown_placeholders("a{b='$app_name'}[$window]") == ["app_name"]


@pytest.mark.parametrize("value", ["", 'x"} or vector(9', "{{ lookup('env', 'HOME') }}", "a\n"])
def test_what_could_change_a_query_is_not_filled_in(value: str) -> None:
    assert kpi.fill('x{r="$release"}', {"release": value})[1] == ["release"]


plain = st.text(st.characters(exclude_characters="$")).map(lambda part: f"{{{part}}}")


@given(st.lists(plain | st.sampled_from(kpi.PLACEHOLDERS)), st.from_regex(kpi.SAFE, fullmatch=True))
def test_nothing_but_placeholders_changes(parts: list[str], value: str) -> None:
    query = "".join(f"${part}{{" if part in kpi.PLACEHOLDERS else part for part in parts)
    filled = "".join(f"{value}{{" if part in kpi.PLACEHOLDERS else part for part in parts)
    assert kpi.fill(query, dict.fromkeys(kpi.PLACEHOLDERS, value)) == (filled, [])
    assert kpi.fill(query, {}) == (query, sorted({part for part in parts if part in kpi.PLACEHOLDERS}))


# answers


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (vector("41"), 41.0),
        (vector("-0.5", at=NOW - 59), -0.5),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [1760000000, "7"]}}', 7.0),
    ],
)
def test_a_number_is_read(body: bytes, value: float) -> None:
    assert kpi.read(200, body, NOW) == kpi.Sample(value)


BAD_DATA = b'{"status": "error", "errorType": "bad_data", "error": "1:5: parse error: unclosed"}'


@pytest.mark.parametrize(
    ("status", "body", "why", "mistake"),
    [
        (200, vector(), "finds nothing", False),
        (200, vector("1", "2"), "gives 2 series: aggregate it", True),
        (200, vector("NaN"), "the value is nan", False),
        (200, vector("+Inf"), "the value is inf", False),
        (200, vector("1", at=NOW - 61), "61 s old, 60 s may be", False),
        (200, vector("1", at=NOW + 90), "90 s ahead of the clock here", False),
        (200, vector("1", kind="matrix"), "gives a matrix, not a number", True),
        (200, vector("one"), "not a Prometheus's JSON", False),
        (200, vector(None), "not a Prometheus's JSON", False),
        (200, b"<html>Sign in</html>", "not a Prometheus's JSON", False),
        (200, b"[]", "not a Prometheus's JSON", False),
        (200, b"[" * 100_000, "not a Prometheus's JSON", False),
        (200, b'{"status": "success", "data": {"resultType": "vector", "result": [7]}}', "not a Prom", False),
        (200, b'{"status": "success", "data": {"resultType": "scalar", "result": [NaN, 1]}}', "ahead", False),
        (200, BAD_DATA, "not a Prometheus's JSON", False),
        (400, BAD_DATA, "HTTP status 400: 1:5: parse error: unclosed", True),
        (503, b"down", "HTTP status 503", False),
        (302, b"", "HTTP status 302", False),
    ],
)
def test_what_is_no_number_says_why(status: int, body: bytes, why: str, mistake: bool) -> None:
    found = kpi.read(status, body, NOW)
    assert (found.value, found.mistake) == (None, mistake)
    assert why in found.why
    assert found.why.isprintable()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
results = json_values | st.builds(lambda pair: [{"value": pair}], st.lists(json_values, max_size=3))


@given(st.sampled_from([200, 400, 500]), st.sampled_from(["vector", "scalar", "string"]), results)
def test_no_answer_is_too_strange(status: int, kind: str, result: object) -> None:
    body = json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
    found = kpi.read(status, body, NOW)
    assert (found.value is None) == bool(found.why)
    assert found.value is None or math.isfinite(found.value)


@given(st.binary())
def test_no_bytes_are_too_strange(body: bytes) -> None:
    assert kpi.read(200, body, NOW).value is None


# over HTTP


class Source(ThreadingHTTPServer):
    """A Prometheus that answers as it is told; keeps what it was asked."""

    daemon_threads = True
    answer: tuple[int, bytes] | Callable[[Any], None] = (200, b"")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.tokens: list[str | None] = []
        self.gone = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that does not wait for the end is what these tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Source

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append({"path": self.path} | {name: found[0] for name, found in fields.items()})
        self.server.tokens.append(self.headers["Authorization"])
        if callable(self.server.answer):
            self.server.answer(self)
            return
        status, body = self.server.answer
        self.send_response(status)
        self.send_header("Location", f"{self.server.url}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.headers["Content-Length"] = "0"  # what follows a redirection
        self.do_POST()

    def log_message(self, *_: Any) -> None:
        """Nothing on the screen."""


@pytest.fixture
def source() -> Iterator[Source]:
    with Source() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.gone.set()
        server.shutdown()


def test_a_source_is_asked_as_prometheus_wants_it(source: Source) -> None:
    source.answer = (200, vector(f"{time.time()}", at=time.time()))
    assert prometheus.ask_all(f"{source.url}/prefix/", TOKEN, ["up"])[0].value
    assert source.asked == [
        {"path": "/prefix/api/v1/query", "query": query, "lookback_delta": "60s", "timeout": "2000ms"}
        for query in ("up", "timestamp((up\n))")
    ]
    assert source.tokens == [f"Bearer {TOKEN}"] * 2


@pytest.mark.parametrize(("age", "value"), [(57, 41.0), (150, None), (None, 41.0)])
def test_the_age_of_a_series_is_asked_for(source: Source, age: float | None, value: float | None) -> None:
    def answer(handler: Any) -> None:
        of_age = handler.server.asked[-1]["query"].startswith("timestamp")
        handler.send_response(400 if of_age and age is None else 200)
        handler.end_headers()
        said = time.time() - (age or 0) if of_age else 41
        handler.wfile.write(BAD_DATA if of_age and age is None else vector(str(said), at=time.time()))

    source.answer = answer
    (found,) = prometheus.ask_all(source.url, "", ["up"])
    assert found.value == value
    assert found.why == ("" if value else "the value is 150 s old, 60 s may be")


def silent(handler: Any) -> None:
    handler.server.gone.wait(5)


def dripping(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n")
    with contextlib.suppress(OSError):
        while not handler.server.gone.wait(0.1):
            handler.wfile.write(b"X: y\r\n")


def hanging_up(handler: Any) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def echoing(handler: Any) -> None:
    handler.send_response(400)
    handler.end_headers()
    said = f"{'x' * (kpi.TOLD - 8)} {handler.headers['Authorization']}"
    handler.wfile.write(json.dumps({"error": said}).encode())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((500, b"oops"), "HTTP status 500"),
        ((401, b""), "HTTP status 401"),
        ((302, b""), "HTTP status 302"),
        ((200, b"<html>"), "not a Prometheus's JSON"),
        ((200, vector()), "the query finds nothing"),
        ((200, vector("1", "2")), "gives 2 series"),
        ((200, vector("NaN", at=time.time())), "the value is nan"),
        ((200, vector("1")), "s old, 60 s may be"),
        (silent, "no answer within 0.4 s"),
        (dripping, "no answer within 0.4 s"),
        (hanging_up, "no answer: "),
        (echoing, "HTTP status 400"),
    ],
)
def test_every_way_to_fail_says_which_and_takes_no_longer(source: Source, answer: Any, why: str) -> None:
    source.answer = answer
    patience = 0.4 if "within" in why else 10.0
    began = time.monotonic()
    (found,) = prometheus.ask_all(source.url, TOKEN, ["up"], patience)
    assert time.monotonic() - began < patience + 1.6
    assert found.value is None
    assert why in found.why
    assert TOKEN[:8] not in found.why
    assert len(source.asked) == 1  # no redirection is followed: the token would go with it


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    (found,) = prometheus.ask_all(f"http://127.0.0.1:{port}", "", ["up"])
    assert found.why == "no answer: Connection refused"


def test_one_silent_answer_does_not_cost_the_others(source: Source) -> None:
    def answer(handler: Any) -> None:
        if handler.server.asked[-1]["query"] == "slow":
            silent(handler)
        handler.send_response(200)
        handler.end_headers()
        moment = handler.server.asked[-1]["query"].startswith("timestamp")
        handler.wfile.write(vector(str(time.time()) if moment else "3", at=time.time()))

    source.answer = answer
    asked = [("slow", "slow", []), ("none", "$sha", ["sha"]), ("fast", "fast", [])]
    found = prometheus.samples(source.url, "", asked, 1.0)
    assert [(one["name"], one["value"]) for one in found] == [("slow", None), ("none", None), ("fast", 3.0)]
    assert found[0]["why"] == "no answer within 1 s"
    assert found[1]["why"] == "$sha is not known or not the same on all hosts"


# verdicts


def rounds(*values: float | None) -> list[dict[str, Any]]:
    return [
        {"round": place, "kpis": [{"name": ORDERS["name"], "value": value, "why": "" if value is not None else "gone"}]}
        for place, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize(
    ("values", "fails", "doubts"),
    [
        ([41], 0, 0),
        ([12], 0, 1),
        ([41, 12], 0, 1),
        ([12, 12], 1, 0),
        ([12, 41], 0, 0),
        ([12, None, 12], 0, 1),
        ([41, None], 0, 1),
        ([30, 30], 0, 0),
    ],
)
def test_two_rounds_in_a_row_fail_and_one_proves_nothing(values: list[float | None], fails: int, doubts: int) -> None:
    found = kpi.judge([ORDERS], rounds(*values), len(values))
    assert (len(found[0]), len(found[1])) == (fails, doubts)


@given(st.lists(st.none() | st.floats(0, 60), min_size=1), st.integers(0, 3))
def test_only_a_known_and_good_last_round_is_free_of_doubt(values: list[float | None], missed: int) -> None:
    fails, doubts = kpi.judge([ORDERS], rounds(*values), len(values) + missed)
    good = not missed and values[-1] is not None and values[-1] >= 30
    assert (not fails and not doubts) == good
    beyond = [value is not None and value < 30 for value in values[-2:]]
    assert bool(fails) == (not missed and beyond == [True, True])


def test_a_kpi_in_words() -> None:
    both = ORDERS | {"max": 2000.5}
    assert kpi.words(ORDERS, rounds(41)[0]) == "orders_per_minute 41 (min 30)"
    assert kpi.words(both, rounds(1234.5678)[0]) == "orders_per_minute 1,234.57 (min 30, max 2,000.5)"
    assert kpi.words(ORDERS, rounds(None)[0]) == "orders_per_minute ? (gone)"
    assert kpi.judge([both], rounds(3000, 3000), 2)[0] == [
        "orders_per_minute is 3,000, more than 2,000.5 (judge_kpis), in 2 rounds in a row"
    ]


# a fleet


JUDGE = canary.JUDGE | {"kpis": [ORDERS], "prometheus": "http://192.0.2.41:9090"}


class Run(canary.Run):
    """A deploy whose rounds ask for KPIs."""

    def __init__(self, **asked: Any) -> None:
        super().__init__(**({"judge": JUDGE} | asked))
        self.kpis: dict[str, Any] = {}
        self.queries: list[str] = []

    @property
    def fleet(self) -> fleets.Fleet:
        variables: dict[str, dict[str, Any]] = {host: {} for host in HOSTS}
        for phase, found in self.phases.items():
            for host in HOSTS:
                mine = found if "verdict" in found else found.get(host)
                if mine is not None:
                    variables[host][f"__{phase}_result"] = mine
        for phase, answer in self.kpis.items():
            variables["web1"][fleets.ASKED[phase]] = answer
            variables["web2"][fleets.ASKED[phase]] = {"skipped": True}
        return fleets.build(self.inputs, HOSTS, variables)

    def judged(self, phase: str, value: float | None, found: Any = canary.GOOD, seconds: float = 5.0) -> list[str]:
        """One round, and what the source says in it. The hosts of the round."""
        hosts = self.round(phase, found, seconds)
        state = self.fleet
        if hosts:
            wanted = fleets.worth_asking(state, phase)
            self.queries += [query for _, query, _ in fleets.kpi_questions(state, phase)] if wanted else []
            said = {"name": ORDERS["name"], "value": value, "why": "" if value is not None else "no answer within 2 s"}
            self.kpis[phase] = fleets.carry_kpis(state, phase, [said] if wanted else [])
        return hosts


def test_a_kpi_beyond_its_threshold_sends_the_fleet_back() -> None:
    run = Run()
    run.judged("canary", 41)
    run.judged("canary", 12)
    assert run.fleet.canary.verdict == judging.SO_FAR  # one value may be a mistake of the measurement
    run.judged("canary", 11)
    assert run.judged("canary", 50) == []
    (problem,) = fleets.problems(run.fleet)
    assert problem.what == "orders_per_minute is 11, less than 30 (judge_kpis), in 2 rounds in a row"
    assert problem.code == fleets.CHECK_FAILED
    (told,) = report.kpis(run.fleet)
    assert told["verdicts"] == {"canary": {"verdict": "fail", "reason": problem.what}}
    assert fleets.phase_hosts(run.fleet, "switch") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    (call,) = fleets.prepare([{"verb": "revert"}], run.fleet, "web1", {})
    assert call["bad"]
    assert run.queries[1] == "sum(rate(orders_total[10s])) * 60"


def test_the_line_of_a_round_and_the_report_have_the_value() -> None:
    run = Run(deploy_id="d1", report="/tmp/r")
    run.judged("canary", 41)
    line = fleets.round_line(run.fleet, "canary")
    assert line.endswith("(live 540, 0, 41/41/41 ms), orders_per_minute 41 (min 30): pass so far")
    run.judged("canary", None)
    assert "orders_per_minute ? (no answer within 2 s): pass so far" in fleets.round_line(run.fleet, "canary")
    found = json.loads(text.as_json(report.build(run.fleet, text.outcome(run.fleet))))
    assert [one["kpis"][0]["value"] for one in found["rounds"]] == [41, None]
    (told,) = found["kpis"]
    assert (told["name"], told["query"], told["min"], told["max"]) == (ORDERS["name"], ORDERS["query"], 30, None)
    said = {"verdict": "inconclusive", "reason": "orders_per_minute is not known: no answer within 2 s"}
    assert told["verdicts"] == {"canary": said}
    assert "prometheus_token" not in json.dumps(found)


def test_a_good_canary_and_watch_with_kpis_are_live() -> None:
    run = Run()
    while run.judged("canary", 41):
        pass
    assert run.fleet.canary.verdict == judging.PASS
    run.switch()
    while run.judged("watch", 41):
        pass
    assert run.fleet.watch.verdict == judging.PASS
    assert fleets.unjudged(run.fleet) == ""
    assert fleets.phase_hosts(run.fleet, "confirm") == list(HOSTS)


@pytest.mark.parametrize("last", [None, 12])
def test_a_canary_whose_kpi_proves_nothing_goes_back_and_blames_nobody(last: float | None) -> None:
    run = Run(canary=[5])
    for value in (41, 41, 41, last):
        run.judged("canary", value)
    (problem,) = fleets.problems(run.fleet)
    assert problem.what.startswith("inconclusive: orders_per_minute is ")
    assert problem.code != fleets.CHECK_FAILED
    assert "-e inconclusive=go_on" in problem.todo
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    again = Run(canary=[5], judge=JUDGE | {"inconclusive": "go_on"})
    for value in (41, 41, 41, last):
        again.judged("canary", value)
    assert fleets.phase_hosts(again.fleet, "switch") == list(HOSTS)


def test_a_canary_that_was_not_asked_in_its_last_round_proves_nothing() -> None:
    run = Run(canary=[5])
    for _ in range(3):
        run.judged("canary", 41)
    run.round("canary")
    assert run.fleet.canary.reasons == ("orders_per_minute is not known: it was not asked for",)


def test_a_watch_without_its_kpi_confirms_as_unjudged() -> None:
    run = Run(canary=[])
    run.switch()
    while run.judged("watch", None):
        pass
    assert fleets.problems(run.fleet) == []
    assert fleets.unjudged(run.fleet) == "orders_per_minute is not known: no answer within 2 s"
    run.phases["confirm"] = made.FINAL
    assert fleets.ending(run.fleet) == "live"
    assert any("unjudged: orders_per_minute" in note for note in text.outcome(run.fleet)["notes"])
    assert fleets.history(run.fleet)["judged"] == "unjudged: orders_per_minute is not known: no answer within 2 s"


def test_a_kpi_beyond_its_threshold_in_the_watch_sends_the_fleet_back() -> None:
    run = Run(canary=[])
    run.switch()
    run.judged("watch", 12)
    run.judged("watch", 12)
    assert fleets.problems(run.fleet)[0].phase == "watch"
    assert fleets.phase_hosts(run.fleet, "confirm") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)


def test_errors_of_visitors_come_before_kpis_and_need_no_source() -> None:
    run = Run()
    run.judged("canary", 41)
    run.judged("canary", 41, canary.measured(canary.tally(0, none=30), canary.tally(180)))
    assert len(run.queries) == 1
    assert len(run.fleet.asked["canary"]) == 1  # what was known before is not lost
    assert "gives no answer" in fleets.problems(run.fleet)[0].what
    assert "orders_per_minute" not in fleets.round_line(run.fleet, "canary")


def test_one_host_of_those_still_here_asks() -> None:
    run = Run()
    assert not fleets.worth_asking(run.fleet, "canary")  # no round yet
    run.round("canary")
    assert fleets.worth_asking(run.fleet, "canary")
    assert [host for host in HOSTS if fleets.asks(run.fleet, "canary", host, HOSTS)] == ["web1"]
    assert [host for host in HOSTS if fleets.asks(run.fleet, "canary", host, HOSTS[1:])] == ["web2"]
    run.round("canary", {"web1": canary.GOOD, "web2": {"verdict": "fail", "unreachable": True}, "web3": canary.GOOD})
    assert not fleets.worth_asking(run.fleet, "canary")


def test_a_kpi_is_asked_for_in_its_phase_and_never_in_a_rollback() -> None:
    only = JUDGE | {"kpis": [ORDERS | {"for": "watch"}]}
    assert fleets.kpis(Run(judge=only).fleet, "canary") == []
    assert not any(fleets.asks(Run(judge=only).fleet, "canary", host, HOSTS) for host in HOSTS)
    assert len(fleets.kpis(Run(judge=only).fleet, "watch")) == 1
    assert fleets.kpis(Run(verb="rollback", to=None).fleet, "watch") == []


def test_the_placeholders_of_a_fleet() -> None:
    run = Run()
    run.round("canary")
    assert fleets.kpi_values(run.fleet, "canary") == {
        "app": "shop",
        "sha": made.SHA[B],
        "release": B,
        "colour_new": "green",
        "colour_live": "blue",
        "window": "5s",
    }
    sums = json.loads(run.phases["canary"]["web3"]["judged"])
    other = {"judged": json.dumps(sums | {"colour": "blue"}), "results": {"route": {"colour": "blue"}}}
    run.phases["canary"]["web3"] |= other
    assert fleets.kpi_values(run.fleet, "canary")["colour_new"] == ""
    run.inputs["judge"] = JUDGE | {"kpis": [ORDERS | {"query": "x{colour='$colour_live'}"}]}
    assert fleets.kpi_questions(run.fleet, "canary")[0][2] == ["colour_live"]


# the action, and the inputs


def test_the_action_adds_a_round_and_keeps_the_token_to_itself(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(judge=JUDGE | {"prometheus": source.url})
    run.judged("canary", 41)
    run.round("canary")
    source.answer = (200, vector(f"{time.time()}", at=time.time()))
    hosts: dict[str, Any] = {host: {f"__{phase}_result": found if "verdict" in found else found.get(host)
        for phase, found in run.phases.items()} for host in HOSTS}  # fmt: skip
    hosts["web1"]["__canary_kpis"] = run.kpis["canary"]
    hosts["localhost"] = {"__inputs_result": run.inputs}
    plugin = action.ActionModule.__new__(action.ActionModule)
    plugin._task = SimpleNamespace(args={"phase": "canary", "ttl": "60"})
    plugin._templar = Templar()
    monkeypatch.setattr(action.ActionBase, "run", lambda *_: {})
    found = plugin.run(None, {"hostvars": HostVars(hosts), "judge_prometheus_token": TOKEN})
    first, second = (one["kpis"][0]["value"] for one in json.loads(found["asked"])["rounds"])
    assert (first, second) == (41, pytest.approx(time.time(), abs=60))
    assert (found["changed"], set(source.tokens)) == (False, {f"Bearer {TOKEN}"})
    assert source.asked[0]["query"] == "sum(rate(orders_total[10s])) * 60"
    assert TOKEN not in json.dumps(found)


@pytest.mark.parametrize(("status", "body", "refused"), [
    (400, BAD_DATA, "parse error"), (200, vector("1", "2"), "gives 2 series"), (503, b"", ""), (200, vector(), ""),
])  # fmt: skip
def test_a_query_that_cannot_work_is_refused_before_any_change(
    source: Source, status: int, body: bytes, refused: str
) -> None:
    source.answer = (status, body)
    judge = bluegreen_inputs.judging({"inconclusive": ""}, {"judge_kpis": [ORDERS], "judge_prometheus_url": source.url})
    assert (judge["kpis"], judge["prometheus"]) == ([ORDERS], source.url)
    if not refused:
        bluegreen_inputs.check_queries(judge, "", "shop", "a" * 40)
        return
    with pytest.raises(Refused, match=f"judge_kpis: orders_per_minute: .*{refused}") as problem:
        bluegreen_inputs.check_queries(judge, "", "shop", "a" * 40)
    assert "rollout.yml" in problem.value.todo
    assert source.asked[0]["query"] == "sum(rate(orders_total[60s])) * 60"
