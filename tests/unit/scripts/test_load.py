"""The load client: every way an answer can go wrong is counted as what it is, and nothing is retried."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support import load as tool
from support.common import REPO, Failure
from tests.unit.firing import fire, until

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def answer(body: bytes = b"hello", status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


class Server:
    """A small HTTP server whose path says how it misbehaves."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        self.url = ""
        self.release = "aaaaaaaaaaaa-11111111"
        self.tasks: set[asyncio.Task[None]] = set()

    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.seen]

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while await self.one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            writer.close()

    async def one(self, reader: Reader, writer: Writer) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except asyncio.IncompleteReadError:
            return False
        method, path, _ = head.split("\r\n")[0].split(" ")
        lines = [line.partition(": ") for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, _, value in lines}
        if path == "/early":  # answers an upload before it has been sent
            writer.write(answer(b"too large", "413 Payload Too Large", "Connection: close\r\n"))
            await writer.drain()
            self.seen.append((method, path, headers, b""))
            return False
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.seen.append((method, path, headers, body))
        return await self.act(path, headers, writer)

    async def act(self, path: str, headers: dict[str, str], writer: Writer) -> bool:
        stamp = f"X-Bluegreen-Release: {self.release}\r\n" if "x-bluegreen-probe" in headers else ""
        fixed = {
            "/500": answer(b"oops", "500 Internal Server Error"),
            "/302": answer(b"", "302 Found", "Location: /\r\n"),
            "/204": b"HTTP/1.1 204 No Content\r\n\r\n",
            "/304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 700\r\n\r\n",
            "/hint": b"HTTP/1.1 103 Early Hints\r\nLink: </x.css>\r\n\r\n" + answer(),
            "/chunked": CHUNKED + b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX: y\r\n\r\n",
            "/page": answer(b'<link href="/static/a.css"><script src="/static/b.js"></script><a href="/away">'),
            "/static/b.js": answer(b"gone", "404 Not Found"),
        }
        last = {
            "/short": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
            "/short-chunk": CHUNKED + b"5\r\nhello\r\n",
            "/half-header": b"HTTP/1.1 200 OK\r\nContent-Le",
            "/bad-chunk": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
            "/not-http": b"220 mail.example.org ESMTP\r\n\r\n",
            "/until-close": b"HTTP/1.1 200 OK\r\n\r\nhello",
            "/close": answer(extra="Connection: close\r\n"),
            "/then-close": answer(),  # says nothing of closing: the client must notice by itself
            "/empty": b"",
        }
        if path in last:
            writer.write(last[path])
            await writer.drain()
            return False
        if path == "/reset":
            writer.transport.abort()
            return False
        if path == "/slow":
            await asyncio.sleep(0.3)
        if path == "/never":
            await asyncio.sleep(30)
        writer.write(fixed.get(path) or answer(extra=stamp))
        await writer.drain()
        return True


@asynccontextmanager
async def served() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in list(server.tasks):
            task.cancel()


def drive(work: Callable[[Server], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with served() as server:
            return await work(server)

    return asyncio.run(main())


def shoot(*shapes: tool.Shape, count: int = 3, rate: float = 200.0, **options: Any) -> tuple[dict[str, Any], Server]:
    """Sends `count` requests of the mix, or some more, to a test server; gives the report and the server."""

    async def work(server: Server) -> tuple[dict[str, Any], Server]:
        load = tool.Load([tool.parse_target(server.url)], profile=shapes, rate=rate, **options)
        report = await fire(load, max(0.15, count / rate), count)
        return report, server

    result: tuple[dict[str, Any], Server] = drive(work)
    return result


@pytest.mark.parametrize(
    "path", ["/", "/302", "/204", "/304", "/hint", "/chunked", "/until-close", "/close", "/then-close", "/slow"]
)
@pytest.mark.parametrize("kind", ["get", "fresh"])
def test_a_complete_answer_is_no_failure(path: str, kind: str) -> None:
    report, _ = shoot(tool.Shape(kind, path))
    assert report["failed"] == 0, report["failures"]
    assert report["requests"] >= 2
    assert report["kinds"][kind]["requests"] == report["requests"]


@pytest.mark.parametrize(
    ("path", "category", "says"),
    [
        ("/500", "status", "status 500"),
        ("/reset", "reset", "before any answer"),
        ("/empty", "reset", "before any answer"),
        ("/short", "truncated", "after 5 bytes"),
        ("/short-chunk", "truncated", "after 5 bytes"),
        ("/half-header", "truncated", "within the header"),
        ("/bad-chunk", "malformed", "chunk size"),
        ("/not-http", "malformed", "not an HTTP answer"),
        ("/never", "timeout", "within 0.2 s"),
    ],
)
@pytest.mark.parametrize("kind", ["get", "fresh", "post"])
def test_each_misbehaviour_has_its_class(path: str, category: str, says: str, kind: str) -> None:
    method = "POST" if kind == "post" else "GET"
    # only the path that never answers may meet the timeout: a busy machine is slow
    report, server = shoot(tool.Shape(kind, path, method, body="a=1"), timeout=0.2 if category == "timeout" else 10)
    assert report["failed"] == report["requests"] >= 2
    assert report["failed_by_class"] == {category: report["requests"]}
    assert says in report["failures"][0]["detail"]
    assert len(server.seen) <= report["requests"], "nothing is sent twice"
    assert category == "timeout" or len(server.seen) == report["requests"], "a busy machine times out before it sends"


def test_no_listener_is_a_connect_failure() -> None:
    async def work(server: Server) -> dict[str, Any]:
        free = tool.parse_target("http://127.0.0.1:1")
        return await fire(tool.Load([free], rate=50), 0.1)

    report = drive(work)
    assert report["failed"] == report["requests"] > 0
    assert list(report["failed_by_class"]) == ["connect"]


def test_a_connection_closed_while_idle_is_replaced_without_a_failure() -> None:
    report, server = shoot(tool.Shape("get", "/then-close"), count=20, rate=100, connections=2)
    assert report["failed"] == 0
    assert report["connections"]["closed_while_idle"] > 0
    assert server.connections == report["connections"]["opened"]


def test_a_reset_on_a_reused_connection_is_a_failure_and_not_retried() -> None:
    mix = (tool.Shape("get", "/", weight=3), tool.Shape("get", "/reset"))

    async def work(server: Server) -> tuple[dict[str, Any], Server]:
        load = tool.Load([tool.parse_target(server.url)], profile=mix, rate=200, connections=1)

        def reused() -> bool:
            return any("earlier requests" in str(failure["detail"]) for failure in load.tally.failures)

        return await fire(load, 0.1, reused), server

    report, server = drive(work)
    assert report["failed"] == server.paths().count("/reset") > 0
    assert report["failed_by_class"] == {"reset": report["failed"]}
    assert any("earlier requests" in failure["detail"] for failure in report["failures"])
    assert len(server.seen) == report["requests"]


def test_kept_alive_connections_are_all_used_and_fresh_ones_never_reused() -> None:
    report, server = shoot(tool.Shape("get", "/"), count=40, connections=4)
    # four are kept; where many requests wait for a busy machine there may be more for a moment
    assert 4 <= report["connections"]["opened"] == server.connections < report["requests"]
    report, server = shoot(tool.Shape("fresh", "/"), count=20)
    assert server.connections == report["requests"]
    assert {headers["connection"] for _, _, headers, _ in server.seen} == {"close"}


def test_what_is_sent() -> None:
    async def work(server: Server) -> Server:
        shapes = (
            tool.Shape("post", "/form", "POST", body="drink=flat+white&milk=å"),
            tool.Shape("upload", "/up", "POST", body=5000, content_type="application/octet-stream", seconds=0.05),
        )
        target = tool.parse_target(server.url, "orders.example.org")
        await fire(tool.Load([target], profile=shapes, rate=100, probe_token="secret"), 0.1)
        return server

    seen = drive(work).seen
    form = next(entry for entry in seen if entry[1] == "/form")
    upload = next(entry for entry in seen if entry[1] == "/up")
    assert form[0] == "POST"
    assert form[3].decode() == "drink=flat+white&milk=å"
    assert form[2]["host"] == "orders.example.org"
    assert form[2]["x-bluegreen-probe"] == "secret"
    assert upload[3] == b"x" * 5000


def test_an_early_answer_to_an_upload_counts_as_what_it_says() -> None:
    report, _ = shoot(tool.Shape("upload", "/early", "POST", body=400_000, seconds=0.2), count=3, rate=20)
    assert report["failed_by_class"] == {"status": report["requests"]}
    report, _ = shoot(tool.Shape("upload", "/early", "POST", body=400_000, seconds=0.2, expect=(413,)), rate=20)
    assert report["failed"] == 0


def test_expected_statuses() -> None:
    report, _ = shoot(tool.Shape("get", "/500", expect=(500,)))
    assert report["failed"] == 0
    report, _ = shoot(tool.Shape("get", "/", expect=(204,)))
    assert report["failed"] == report["requests"]


def test_assets_are_read_from_the_page_and_a_missing_one_is_a_failure() -> None:
    report, server = shoot(tool.Shape("asset", "/page"), count=12)
    assert {"/page", "/static/a.css", "/static/b.js"} == set(server.paths())
    assert report["failed"] == server.paths().count("/static/b.js") > 0


def test_releases_are_told_apart_only_with_the_probe_token() -> None:
    async def work(server: Server, token: str) -> dict[str, Any]:
        load = tool.Load([tool.parse_target(server.url)], rate=100, probe_token=token)
        running = asyncio.create_task(load.run(seconds=30))
        await until(lambda: load.tally.requests >= 10)
        server.release = "bbbbbbbbbbbb-22222222"
        await until(lambda: load.tally.requests >= 20)
        load.stop()
        return await running

    assert drive(lambda server: work(server, ""))["releases"] == {}
    report = drive(lambda server: work(server, "token"))
    old, new = report["releases"]["aaaaaaaaaaaa-11111111"], report["releases"]["bbbbbbbbbbbb-22222222"]
    assert old["last"]["monotonic"] <= new["first"]["monotonic"]
    assert old["answers"] + new["answers"] == report["requests"]
    assert old["last_quick"] == old["last"]
    assert list(report["releases_by_target"].values()) == [report["releases"]]


def test_the_mix_follows_the_weights_in_every_stretch() -> None:
    shapes = (tool.Shape("get", "/", weight=7), tool.Shape("fresh", "/", weight=2), tool.Shape("slow", "/s", weight=1))
    mix = tool.Mix(shapes)
    for _ in range(5):
        kinds = [mix.next().kind for _ in range(10)]
        assert [kinds.count(kind) for kind in ("get", "fresh", "slow")] == [7, 2, 1]


def test_silence_is_measured_also_at_the_start_and_the_end() -> None:
    moments = iter([10.0, 10.0, 20.0, 25.0])
    target = tool.parse_target("http://127.0.0.1:8000")
    tally = tool.Tally([target], lambda: tool.Moment(0, next(moments)))
    tally.start()

    def record(at: float, failure: str = "") -> tool.Record:
        moment = tool.Moment(0, at)
        return tool.Record(target.url, "get", "GET", "/", moment, moment, failure=failure)

    for at, failure in ((12, ""), (13, ""), (18, "reset"), (19, "")):
        tally.add(record(at, failure))
    assert tally.report()["targets"][target.url]["longest_gap_seconds"] == 6
    tally.end()
    place = tally.report()["targets"][target.url]
    assert (place["longest_gap_seconds"], place["longest_gap_from_second"]) == (6, 3)


def test_quantiles() -> None:
    assert tool.quantile([], 0.5) == 0
    assert tool.quantile([7.0], 0.99) == 7
    hundred = [float(number) for number in range(1, 101)]
    assert [tool.quantile(hundred, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]


def test_the_thread_runs_beside_other_work_and_gives_its_report() -> None:
    async def work(server: Server) -> dict[str, Any]:
        traffic = tool.LoadThread(tool.Load([tool.parse_target(server.url)], rate=100)).start()
        await until(lambda: traffic.load.tally.requests > 10)
        return await asyncio.to_thread(traffic.stop)

    report = drive(work)
    assert report["requests"] > 10
    assert report["failed"] == 0


def test_what_is_in_flight_at_the_end_is_awaited_and_counted() -> None:
    report, server = shoot(tool.Shape("slow", "/slow"), count=100, rate=50)
    assert report["requests"] == len(server.seen)
    assert report["failed"] == 0


# --- bad input: one line that says what would be right ------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://9.9.9.9", "public address"),
        ("http://[2620:fe::fe]", "public address"),
        ("ftp://127.0.0.1", "not a base URL"),
        ("127.0.0.1", "not a base URL"),
        ("http://127.0.0.1:99999", "not a URL"),
        ("http://127.0.0.1/orders", "load profile"),
        ("http://user@127.0.0.1", "base URL"),
    ],
)
def test_refused_targets(url: str, says: str) -> None:
    with pytest.raises(Failure, match=says) as refused:
        tool.parse_target(url)
    assert "\n" not in str(refused.value)
    assert refused.value.code == 2


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://10.213.60.11", "https://192.168.1.4", "http://[::1]:80"]
)
def test_private_targets_are_taken(url: str) -> None:
    assert tool.parse_target(url).url == url


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({}, "a list"),
        ([], "a list"),
        (["/"], "entry 1: must be an object"),
        ([{"kind": "get", "path": "/"}, {"kind": "nosuch", "path": "/"}], "entry 2: kind"),
        ([{"kind": "get"}], "path"),
        ([{"kind": "get", "path": "/a b"}], "blanks"),
        ([{"kind": "get", "path": "/\r\nX: y"}], "blanks"),
        ([{"kind": "get", "path": "/", "weight": 0}], "weight"),
        ([{"kind": "get", "path": "/", "weight": True}], "weight"),
        ([{"kind": "get", "path": "/", "expect": "200"}], "expect"),
        ([{"kind": "get", "path": "/", "method": "BREW"}], "method"),
        ([{"kind": "get", "path": "/", "body": 7}], "body"),
        ([{"kind": "post", "path": "/", "content_type": "a\r\nb"}], "content_type"),
        ([{"kind": "get", "path": "/", "wait": 1}], "unknown key 'wait'"),
    ],
)
def test_refused_profiles(data: object, says: str) -> None:
    with pytest.raises(Failure, match=says):
        tool.parse_profile(data)


def test_a_profile() -> None:
    shapes = tool.parse_profile(
        [{"kind": "get", "path": "/", "expect": 301}, {"kind": "post", "path": "/p", "body": "{}", "weight": 2}]
    )
    assert shapes[0].expect == (301,)
    assert (shapes[1].method, shapes[1].weight) == ("POST", 2)


# --- the program --------------------------------------------------------------------------------------------------


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "scripts" / "load"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_program_reports_and_logs(tmp_path: Path) -> None:
    async def work(server: Server) -> subprocess.CompletedProcess[str]:
        token = tmp_path / "token"
        token.write_text("secret\n")
        return await asyncio.to_thread(
            program,
            *(server.url, "--rate", "100", "--duration", "0.5", "--post-path", "/form", "--probe-token-file", token),
            *("--report", tmp_path / "r.json", "--log", tmp_path / "l.jsonl", "--host", "orders.example.org"),
        )

    done = drive(work)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert report["requests"] == len(lines) > 10
    assert {line["release"] for line in lines} == {"aaaaaaaaaaaa-11111111"}
    assert f"{report['requests']} requests in" in done.stdout
    assert "secret" not in done.stdout + done.stderr + (tmp_path / "l.jsonl").read_text()


def test_the_program_ends_with_its_file_and_fails_with_a_failure(tmp_path: Path) -> None:
    flag = tmp_path / "done"

    async def work(server: Server) -> subprocess.CompletedProcess[str]:
        running = asyncio.create_task(
            asyncio.to_thread(program, server.url, "--until-file", flag, "--path", "/500", "--rate", "20")
        )
        await asyncio.sleep(1)
        flag.touch()
        return await running

    started = time.monotonic()
    done = drive(work)
    assert done.returncode == 1
    assert "status 500" in done.stdout
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["http://9.9.9.9"], "public address"),
        (["http://127.0.0.1:1", "--rate", "0"], "rate is 0"),
        (["http://127.0.0.1:1", "--duration", "-1"], "--duration"),
        (["http://127.0.0.1:1", "--timeout", "nan"], "--timeout"),
        (["http://127.0.0.1:1", "--profile", "/nonexistent.json"], "No such file"),
        (["http://127.0.0.1:1", "--report", "/nonexistent/r.json"], "cannot write"),
        (["http://127.0.0.1:1", "--host", "a b"], "--host"),
    ],
)
def test_the_program_refuses_in_one_line(arguments: list[str], says: str) -> None:
    done = program(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
