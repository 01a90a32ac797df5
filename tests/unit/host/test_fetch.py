"""An https store: all of a file in time, or one line that says why not; and the token for the store alone."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen import fetch, images, privileges
from bluegreen.errors import BluegreenError
from tests.unit.tls_server import TlsServer, make_certificate, serving

TOKEN = "marker-of-a-token"
MORE = {"most": 1 << 20, "seconds": 10.0}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TlsServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(certificate) as made:
        yield made


def read(url: str, **more: Any) -> bytes:
    parts: list[bytes] = []
    fetch.fetch(url, parts.append, **more)
    return b"".join(parts)


def refused(url: str, words: str, **more: Any) -> None:
    with pytest.raises(BluegreenError, match=words) as caught:
        read(url, token=TOKEN, **(MORE | more))
    assert TOKEN not in repr(caught.value.as_dict("stage"))
    assert "\n" not in str(caught.value)
    assert "artifact_store" in caught.value.todo


def test_a_file_comes_whole_and_the_token_goes_along(server: TlsServer) -> None:
    server.answers["/x"] = (200, {}, b"content")
    assert read(server.url("/x"), token=TOKEN, accept="text/x", **MORE) == b"content"
    assert server.tokens() == [f"Bearer {TOKEN}"]
    assert server.seen[0][1]["accept"] == "text/x"


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_store_that_refuses(server: TlsServer, status: int) -> None:
    server.answers["/x"] = (status, {}, b"why")
    refused(server.url(f"/x?signature={TOKEN}"), rf"localhost:\d+/x cannot be fetched \((404|{status})\)")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_token_goes_to_the_store_and_to_nobody_it_names(server: TlsServer, host: str) -> None:
    """Assets of a release are answered with an address at another host, which must not learn the token."""
    server.answers["/x"] = (302, {"Location": server.url("/y", host)}, b"")
    server.answers["/y"] = (200, {}, b"content")
    assert read(server.url("/x"), token=TOKEN, **MORE) == b"content"
    assert server.tokens() == [f"Bearer {TOKEN}", f"Bearer {TOKEN}" if host == "localhost" else ""]


def test_a_way_back_does_not_bring_the_token_back(server: TlsServer) -> None:
    server.answers["/x"] = (302, {"Location": server.url("/y", "127.0.0.1")}, b"")
    server.answers["/y"] = (302, {"Location": server.url("/z")}, b"")
    server.answers["/z"] = (200, {}, b"content")
    read(server.url("/x"), token=TOKEN, **MORE)
    assert server.tokens() == [f"Bearer {TOKEN}", "", ""]


def test_redirects_have_an_end_and_stay_with_tls(server: TlsServer) -> None:
    server.answers["/x"] = (302, {"Location": "http://127.0.0.1/x"}, b"")
    refused(server.url("/x"), "leads to an address without TLS: http://127.0.0.1/x")
    server.answers["/x"] = (302, {"Location": server.url("/x")}, b"")
    refused(server.url("/x"), r"cannot be fetched \(302\)")
    server.answers["/x"] = (302, {"Location": "file:///etc/passwd"}, b"")
    refused(server.url("/x"), r"cannot be fetched \(302\)")


def test_only_https(server: TlsServer) -> None:
    for url in ("http://localhost/x", "file:///etc/passwd", "https:///x", "x"):
        refused(url, "is not an https address")


def test_half_a_file(server: TlsServer) -> None:
    server.answers["/x"] = (200, {"Content-Length": "100"}, b"half")
    refused(server.url("/x"), "came incompletely: 4 of 100 bytes|connection broke")
    server.answers["/x"] = (200, {"Transfer-Encoding": "chunked"}, b"a\r\nhalf")
    refused(server.url("/x"), "cannot be fetched: the connection broke")


def test_more_than_may_be(server: TlsServer) -> None:
    server.answers["/x"] = (200, {}, b"x" * 100)
    refused(server.url("/x"), "too large: it has 100 bytes, and 99 may be", most=99)
    server.answers["/x"] = (200, {"Transfer-Encoding": "chunked"}, b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")
    refused(server.url("/x"), "too large: more than 99 bytes came", most=99)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_store_that_answers_for_ever(server: TlsServer, part: str) -> None:
    """Each byte comes in time, and there is no end of them."""

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if part == "body" else b"X: "))
        while not server.stopped.wait(0.02):
            handler.wfile.write(b"x")

    server.answers["/x"] = drip
    began = time.monotonic()
    refused(server.url("/x"), r"no end after 0.3 s \(artifact_timeout\)", seconds=0.3)
    assert time.monotonic() - began < 3


def test_a_store_that_says_nothing(server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SILENCE", 0.1)
    server.answers["/x"] = lambda handler: server.stopped.wait(5)  # type: ignore[assignment, return-value]
    refused(server.url("/x"), "not a byte for 0.1 s")


def test_a_store_that_is_not_there(server: TlsServer) -> None:
    url = server.url("/x")
    server.close()
    refused(url, "cannot be fetched: Connection refused")
    server.server.server_close()


def test_a_certificate_that_is_not_trusted(server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    server.answers["/x"] = (200, {}, b"content")
    refused(server.url("/x"), "its certificate is not trusted: self.signed certificate")
    assert server.seen == []


# on a host that fetches for itself


def source(server: TlsServer, path: str = "/image") -> dict[str, Any]:
    return {"url": server.url(path), "accept": "application/octet-stream", "token": TOKEN, "seconds": 5}


def test_a_host_fetches_an_image(host: Any, server: TlsServer) -> None:
    server.answers["/image"] = (200, {}, host.bytes_of(1))
    answer = host.do("stage", manifest=host.artifact(1), source=source(server))
    assert answer["have"]
    assert server.tokens() == [f"Bearer {TOKEN}"]
    assert TOKEN not in repr(answer)
    assert host.do("stage", manifest=host.artifact(1), source=source(server))["have"]
    assert len(server.seen) == 1, "what is there is not fetched again"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {}, b""), r"cannot be fetched \(404\)"),
        ((200, {"Content-Length": "999999"}, b"half"), "too large"),
        ((200, {}, b"short"), "is not the image of .*: 5 bytes instead of"),
        ((200, {}, None), "is not the image of .*: sha256"),
    ],
)
def test_what_is_not_the_image_leaves_nothing_behind(host: Any, server: TlsServer, answer: Any, words: str) -> None:
    manifest = host.artifact(1)
    server.answers["/image"] = (*answer[:2], b"x" * manifest["image"]["bytes"] if answer[2] is None else answer[2])
    with pytest.raises(BluegreenError, match=words) as caught:
        host.do("stage", manifest=manifest, source=source(server))
    assert TOKEN not in repr(caught.value.as_dict("stage"))
    assert list(host.paths.images.iterdir()) == []


@pytest.mark.parametrize("wrong", [{}, {"url": "http://x/y", "seconds": 5}, {"url": "https://x/y", "seconds": "5"}])
def test_a_source_that_is_none(host: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(BluegreenError, match=r"source must be|is not an https address"):
        host.do("stage", manifest=host.artifact(1), source=wrong)
    assert list(host.paths.images.iterdir()) == []


# the child that fetches


def me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def test_what_a_child_writes_is_read_here() -> None:
    got: list[bytes] = []

    def keep(reader: Any) -> None:
        got.append(reader.read())

    def work(write: Any) -> int:
        for _ in range(100):
            write(b"x" * 10_000)  # more than a pipe holds
        return os.getpid()

    assert privileges.stream(work, keep, me(), 10) != os.getpid()
    assert got == [b"x" * 1_000_000]


def test_the_reason_of_a_child_that_failed_is_told() -> None:
    def work(write: Any) -> None:
        write(b"some")
        raise images.refused("gone")

    with pytest.raises(BluegreenError, match=r"^gone$"):
        privileges.stream(work, lambda reader: reader.read(), me(), 10)


def test_a_reader_that_gives_up_ends_the_child() -> None:
    def keep(reader: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        privileges.stream(lambda write: [write(b"x" * 100_000) for _ in range(100)], keep, me(), 10)
