"""The load client's other protocols: streams, HTTP/2 and websockets are judged by what their servers do to them."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RequestReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame
from websockets.asyncio.server import Server as Sockets
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from support import load as tool
from support.common import Failure
from support.load.http2 import frames, goaway
from tests.unit.firing import fire, until

RELEASE = "aaaaaaaaaaaa-11111111"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    key, chain = folder / "key.pem", folder / "chain.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-keyout", str(key), "-out", str(chain), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(words, check=True, capture_output=True)
    return folder


def tls(folder: Path, *protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "chain.pem", folder / "key.pem")
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


# --- streams ------------------------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP/1.1 server of slow streams; the path says how they end."""
    try:
        while True:
            path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            writer.write(CHUNKED if path != "/until-close" else b"HTTP/1.1 200 OK\r\n\r\n")
            for word in (b"one\n", b"two\n", b"end\n" if path != "/no-end" else b"six\n"):
                writer.write(b"4\r\n" + word + b"\r\n" if path != "/until-close" else word)
                await writer.drain()
                await asyncio.sleep(0.03)
                if path == "/cut":
                    break
            if path in ("/cut", "/until-close"):
                break
            writer.write(b"0\r\n\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def stream(path: str, **options: Any) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        server = await asyncio.start_server(streams, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        shape = tool.Shape("stream", path, ends="end\n")
        report = await fire(tool.Load([tool.parse_target(url)], profile=[shape], rate=50, **options), 0.1)
        server.close()
        return report

    return asyncio.run(work())


def test_a_whole_stream_is_no_failure_and_takes_its_time() -> None:
    report = stream("/")
    assert report["failed"] == 0, report["failures"]
    assert report["kinds"]["stream"]["p50_ms"] >= 80


@pytest.mark.parametrize(
    ("path", "says"),
    [("/cut", "after 4 bytes"), ("/until-close", "nobody can tell"), ("/no-end", "six")],
)
@pytest.mark.parametrize("delay", [0, 20])
def test_a_stream_without_its_end_is_a_failure(path: str, says: str, delay: float) -> None:
    report = stream(path, delay=delay)
    assert report["failed_by_class"] == {"truncated": report["requests"]}
    assert report["requests"] >= 2
    assert says in report["failures"][0]["detail"]


# --- HTTP/2 -------------------------------------------------------------------------------------------------------


class H2Server(asyncio.Protocol):
    """A small HTTP/2 server; the path of a request says how it misbehaves."""

    made: ClassVar[list[H2Server]] = []
    window = 65535

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        H2Server.made.append(self)
        self.transport = transport
        self.wire = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.wire.initiate_connection()
        self.wire.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: self.window})
        self.asked: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, int] = {}
        self.cancelled: list[int] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.flush()

    def flush(self) -> None:
        self.transport.write(self.wire.data_to_send())

    def data_received(self, data: bytes) -> None:
        for event in self.wire.receive_data(data):  # raises if the client sends more than a window allows
            self.take(event)
        self.flush()

    def take(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            headers = dict(event.headers or ())
            self.asked[event.stream_id] = headers
            self.bodies[event.stream_id] = 0
            if headers[":path"] == "/early":
                self.answer(event.stream_id, "413")
        elif isinstance(event, DataReceived):
            self.bodies[event.stream_id] += len(event.data or b"")
            asyncio.get_running_loop().call_later(0.01, self.more_room, event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamReset):
            self.cancelled.append(event.stream_id)
        elif isinstance(event, StreamEnded) and event.stream_id is not None:
            task = asyncio.get_running_loop().create_task(self.act(event.stream_id))
            self.tasks.add(task)

    def more_room(self, length: int, stream: int) -> None:
        self.wire.acknowledge_received_data(length, stream)
        self.flush()

    def go_away(self, last: int) -> None:
        frame = GoAwayFrame(stream_id=0, last_stream_id=last, error_code=0)
        self.transport.write(frame.serialize())

    def answer(self, stream: int, status: str = "200", body: bytes = b"hello") -> None:
        headers = [(":status", status)]
        if "x-bluegreen-probe" in self.asked[stream]:
            headers.append(("x-bluegreen-release", RELEASE))
        self.wire.send_headers(stream, headers)
        self.wire.send_data(stream, body, end_stream=True)
        self.flush()

    async def act(self, stream: int) -> None:
        path = self.asked[stream][":path"]
        if path == "/slow":
            await asyncio.sleep(0.3)
        elif path == "/never":
            await asyncio.sleep(30)
        elif path == "/goaway-before":  # this one was not looked at
            self.go_away(max(0, stream - 2))
            return
        elif path == "/goaway-after":  # this one was, and is answered
            self.go_away(stream)
            await asyncio.sleep(0.1)
        elif path in ("/reset", "/refused"):
            self.wire.reset_stream(
                stream, ErrorCodes.REFUSED_STREAM if path == "/refused" else ErrorCodes.INTERNAL_ERROR
            )
        elif path in ("/cut", "/drop-within"):
            self.wire.send_headers(stream, [(":status", "200")])
            self.wire.send_data(stream, b"hello")
        if path == "/cut":
            self.wire.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        if path in ("/reset", "/refused", "/cut", "/drop-within"):
            self.flush()
            if path == "/drop-within":
                await asyncio.sleep(0.05)
                self.transport.abort()
            return
        if path == "/drop":
            self.transport.abort()
            return
        self.answer(stream, "500" if path == "/500" else "200", str(self.bodies[stream]).encode())


@asynccontextmanager
async def h2_served(folder: Path, *protocols: str, window: int = 65535) -> AsyncIterator[str]:
    H2Server.made, H2Server.window = [], window
    loop = asyncio.get_running_loop()
    server = await loop.create_server(H2Server, "127.0.0.1", 0, ssl=tls(folder, *(protocols or ("h2",))))
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for one in H2Server.made:
            for task in one.tasks:
                task.cancel()
            one.transport.abort()


def h2(
    folder: Path, *shapes: tool.Shape, seconds: float = 0.1, enough: int = 3, window: int = 65535, **options: Any
) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        async with h2_served(folder, window=window) as url:
            load = tool.Load([tool.parse_target(url)], profile=shapes, **({"rate": 50.0} | options))
            return await fire(load, seconds, enough)

    return asyncio.run(work())


@pytest.mark.parametrize("delay", [0, 10])
def test_many_requests_share_few_connections(certificate: Path, delay: float) -> None:
    shapes = (tool.Shape("h2", "/"), tool.Shape("h2", "/form", "POST", "a=1"), tool.Shape("h2", "/slow"))
    report = h2(certificate, *shapes, seconds=0.5, enough=30, rate=100, probe_token="secret", delay=delay)
    assert report["failed"] == 0, report["failures"]
    assert report["requests"] >= 30
    assert len(H2Server.made) == report["connections"]["opened"] == 2
    assert report["releases"][RELEASE]["answers"] == report["requests"]
    asked = [headers for one in H2Server.made for headers in one.asked.values()]
    assert {headers[":method"] for headers in asked} == {"GET", "POST"}
    assert len(asked) == report["requests"], "nothing is sent twice"


def test_an_upload_keeps_to_the_servers_windows(certificate: Path) -> None:
    shape = tool.Shape("h2", "/upload", "POST", 200_000, seconds=0.05)
    report = h2(certificate, shape, window=20_000)
    assert report["failed"] == 0, report["failures"]
    bodies = [size for one in H2Server.made for size in one.bodies.values()]
    assert bodies == [200_000] * report["requests"]
    assert bodies


def test_an_early_answer_ends_the_upload(certificate: Path) -> None:
    shape = tool.Shape("h2", "/early", "POST", 200_000, seconds=0.2, expect=(413,))
    report = h2(certificate, shape)
    assert report["failed"] == 0, report["failures"]
    assert sum(len(one.cancelled) for one in H2Server.made) == report["requests"]
    assert all(size < 200_000 for one in H2Server.made for size in one.bodies.values())


@pytest.mark.parametrize(
    ("path", "category", "says"),
    [
        ("/500", "status", "status 500"),
        ("/reset", "reset", "INTERNAL_ERROR before any answer"),
        ("/cut", "truncated", "INTERNAL_ERROR after 5 bytes"),
        ("/drop", "reset", "before any answer"),
        ("/drop-within", "truncated", "after 5 bytes"),
        ("/never", "timeout", "within 0.2 s"),
    ],
)
def test_each_misbehaviour_of_http2_has_its_class(certificate: Path, path: str, category: str, says: str) -> None:
    # one at a time where a connection is dropped: what else is asked on it is lost too, in its own way
    one = {"most_in_flight": 1, "seconds": 0.5} if path == "/drop-within" else {}
    report = h2(certificate, tool.Shape("h2", path), timeout=0.2 if category == "timeout" else 10, **one)
    assert report["failed_by_class"] == {category: report["requests"]}, report["failures"]
    assert report["requests"] >= 2
    assert says in report["failures"][0]["detail"]
    assert sum(len(one.asked) for one in H2Server.made) == report["requests"], "nothing is sent twice"


@pytest.mark.parametrize(("path", "says"), [("/goaway-before", "GOAWAY"), ("/refused", "REFUSED_STREAM")])
def test_what_the_server_refused_is_counted_apart(certificate: Path, path: str, says: str) -> None:
    log = StringIO()
    report = h2(certificate, tool.Shape("h2", path), log=log)
    assert (report["failed"], report["refused"]) == (0, report["requests"])
    assert report["kinds"]["h2"]["refused"] == report["requests"] >= 2
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert {(line["ok"], line["apart"]) for line in lines} == {(False, "refused")}
    assert all(says in line["detail"] for line in lines)
    assert report["targets"][next(iter(report["targets"]))]["longest_gap_seconds"] > 0.05, "a refusal is no answer"


def test_what_was_accepted_before_goaway_is_awaited_and_the_rest_goes_to_a_new_connection(certificate: Path) -> None:
    report = h2(certificate, tool.Shape("h2", "/goaway-after"), seconds=0.5, enough=10, h2_connections=1)
    assert report["failed"] == 0, report["failures"]
    assert len(H2Server.made) > 1
    assert report["requests"] - report["refused"] >= len(H2Server.made), "the one that each GOAWAY names is answered"
    assert sum(len(one.asked) for one in H2Server.made) == report["requests"]


def test_a_server_without_http2_is_a_connect_failure(certificate: Path) -> None:
    async def work() -> dict[str, Any]:
        async with h2_served(certificate, "http/1.1") as url:
            return await fire(tool.Load([tool.parse_target(url)], profile=[tool.Shape("h2", "/")]), 0.1)

    report = asyncio.run(work())
    assert report["failed_by_class"] == {"connect": report["requests"]}
    assert "no HTTP/2" in report["failures"][0]["detail"]


def test_http2_needs_tls() -> None:
    with pytest.raises(Failure, match="over TLS only"):
        tool.Load([tool.parse_target("http://127.0.0.1:1")], profile=[tool.Shape("h2", "/")])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.load.traffic.find_spec", lambda name: None)
    target = tool.parse_target("https://127.0.0.1:1")
    for kind, library in (("h2", "h2"), ("websocket", "websockets")):
        with pytest.raises(Failure, match=f"package {library}: run scripts/setup"):
            tool.Load([target], profile=[tool.Shape(kind, "/")])
    tool.Load([target], profile=[tool.Shape("stream", "/")])


def test_frames_are_cut_as_they_arrive() -> None:
    whole = GoAwayFrame(stream_id=0, last_stream_id=7, error_code=2).serialize()
    buffer = bytearray()
    found = []
    for byte in whole + whole[:5]:
        buffer.append(byte)
        found += list(frames(buffer))
    assert found == [whole]
    assert bytes(buffer) == whole[:5]
    assert goaway(found[0]) == (7, 2)
    with pytest.raises(Exception, match="not HTTP/2"):
        list(frames(bytearray(b"HTTP/1.1 400 Bad Request\r\n")))


# --- HTTP/1.1 over TLS --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 10])
def test_http1_kinds_go_over_tls(certificate: Path, delay: float) -> None:
    async def work() -> dict[str, Any]:
        server = await asyncio.start_server(streams, "127.0.0.1", 0, ssl=tls(certificate, "http/1.1"))
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        shapes = [tool.Shape(kind, "/") for kind in ("get", "fresh", "stream")]
        report = await fire(tool.Load([tool.parse_target(url)], profile=shapes, rate=60, delay=delay), 0.4, 6)
        server.close()
        return report

    report = asyncio.run(work())
    assert report["failed"] == 0, report["failures"]
    assert set(report["kinds"]) == {"get", "fresh", "stream"}


# --- websockets ---------------------------------------------------------------------------------------------------


class Echo:
    """A websocket server; the path says how it misbehaves."""

    def __init__(self) -> None:
        self.visits = 0
        self.words: list[str] = []
        self.live: set[ServerConnection] = set()

    async def handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        path = connection.request.path
        self.visits += 1
        self.live.add(connection)
        async for number, word in enumerated(connection):
            self.words.append(str(word))
            if path == "/mute":
                continue
            await connection.send("something else" if path == "/wrong" else word)
            if number == 2 and path == "/abort":
                connection.transport.abort()
            if number == 2 and path.startswith("/close/"):
                await connection.close(int(path.rpartition("/")[2]))

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/redirect":
            answer = connection.respond(302, "elsewhere")
            answer.headers["Location"] = "/echo"
            return answer
        return connection.respond(503, "full") if request.path == "/full" else None

    def stamp(self, connection: ServerConnection, request: Request, response: Response) -> None:
        if "X-Bluegreen-Probe" in request.headers:
            response.headers["X-Bluegreen-Release"] = RELEASE


async def enumerated(connection: ServerConnection) -> AsyncIterator[tuple[int, str | bytes]]:
    number = 0
    async for word in connection:
        number += 1
        yield number, word


def sockets(
    path: str,
    *,
    enough: Callable[[tool.Load, Echo], bool] = lambda load, _: load.tally.requests >= 8,
    during: Callable[[Echo, Sockets], Awaitable[None]] | None = None,
    connections: int = 2,
    secure: Path | None = None,
    **options: Any,
) -> tuple[dict[str, Any], Echo]:
    async def work() -> tuple[dict[str, Any], Echo]:
        echo = Echo()
        context = tls(secure) if secure else None
        server = await serve(
            echo.handle, "127.0.0.1", 0, process_request=echo.answer, process_response=echo.stamp, ssl=context
        )
        url = f"http{'s' if secure else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        shape = tool.Shape("websocket", path, seconds=0.05, connections=connections)
        load = tool.Load([tool.parse_target(url)], profile=[shape], **options)
        running = asyncio.create_task(fire(load, 0.3, lambda: enough(load, echo)))
        if during is not None:
            await until(lambda: len(echo.live) == connections and len(echo.words) >= connections)
            await during(echo, server)
        report = await running
        server.close()
        return report, echo

    return asyncio.run(work())


@pytest.mark.parametrize("delay", [0, 10])
def test_websockets_stay_open_for_the_whole_run(delay: float) -> None:
    report, echo = sockets("/echo", delay=delay, probe_token="secret")
    assert (report["failed"], report["closed"]) == (0, 0), report["failures"]
    assert echo.visits == 2
    assert report["requests"] == 2 + len(echo.words) >= 8
    assert report["releases"][RELEASE]["answers"] == report["requests"]
    assert report["kinds"]["websocket"]["p50_ms"] >= delay


def test_websockets_over_tls(certificate: Path) -> None:
    report, echo = sockets("/echo", secure=certificate)
    assert (report["failed"], echo.visits) == (0, 2), report["failures"]


@pytest.mark.parametrize("code", [1001, 1012])
def test_a_close_that_asks_to_come_back_is_counted_apart_and_the_visitor_comes_back(code: int) -> None:
    report, echo = sockets(f"/close/{code}", enough=lambda load, _: load.tally.apart["closed"] >= 2)
    assert report["failed"] == 0, report["failures"]
    assert report["closed"] == report["kinds"]["websocket"]["closed"] >= 2
    assert echo.visits >= report["closed"]


@pytest.mark.parametrize(
    ("path", "category", "says"),
    [
        ("/abort", "reset", "1006"),
        ("/close/1011", "reset", "1011"),
        ("/wrong", "malformed", "something else"),
        ("/full", "status", "503"),
        ("/redirect", "status", "302"),
        ("/mute", "timeout", "within 0.2 s"),
    ],
)
def test_each_misbehaviour_of_a_websocket_has_its_class(path: str, category: str, says: str) -> None:
    report, _ = sockets(
        path, enough=lambda load, _: load.tally.failed >= 2, timeout=0.2 if category == "timeout" else 10
    )
    assert list(report["failed_by_class"]) == [category]
    assert report["failed"] >= 2
    assert says in report["failures"][0]["detail"]
    assert report["closed"] == 0


def test_a_server_that_restarts_closes_websockets_while_they_are_silent() -> None:
    async def restart(_echo: Echo, server: Sockets) -> None:
        server.close(code=1012)
        await server.wait_closed()

    report, _ = sockets("/echo", during=restart, enough=lambda load, _: load.tally.classes["connect"] > 0)
    assert report["closed"] == 2
    assert set(report["failed_by_class"]) == {"connect"}, "nobody listens after it"


def test_a_process_that_dies_is_a_failure_for_each_websocket() -> None:
    async def die(echo: Echo, _server: Sockets) -> None:
        for connection in list(echo.live):
            connection.transport.abort()

    report, echo = sockets("/echo", during=die, connections=3, enough=lambda _, echo: echo.visits == 6)
    assert report["failed_by_class"] == {"reset": 3}
    assert echo.visits == 6


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"kind": "websocket", "path": "/ws", "connections": 0}, "connections is 0"),
        ({"kind": "websocket", "path": "/ws", "connections": True}, "connections is True"),
        ({"kind": "stream", "path": "/s", "ends": 3}, "ends must be text"),
        ({"kind": "stream", "path": "/s", "body": 3}, "body must be text"),
    ],
)
def test_refused_profiles(entry: dict[str, object], says: str) -> None:
    with pytest.raises(Failure, match=says):
        tool.parse_profile([entry])


def test_a_delay_that_is_no_delay() -> None:
    for delay in (-1.0, float("nan"), 1e9):
        with pytest.raises(Failure, match="delay is"):
            tool.Load([tool.parse_target("http://127.0.0.1:1")], delay=delay)
