"""A small HTTP client: over a colour's socket or through this host's nginx, with cookies, without redirects."""

from __future__ import annotations

import dataclasses
import http.client
import http.cookies
import socket
import urllib.parse
from pathlib import Path

MAX_BODY = 8 << 20
STAMP = "X-Bluegreen-Release"
PROBE = "X-Bluegreen-Probe"


@dataclasses.dataclass(frozen=True)
class Where:
    """Where requests go: a socket's path, or the URL of this host's nginx."""

    target: str

    def connect(self, host: str, timeout: float) -> http.client.HTTPConnection:
        """An unconnected connection object."""
        if self.target.startswith("/"):
            return _SocketConnection(self.target, timeout)
        url = urllib.parse.urlsplit(self.target)
        if url.scheme == "https":
            return _front_tls(url.hostname or "127.0.0.1", url.port or 443, host, timeout)
        return http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=timeout)


class _SocketConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _front_tls(address: str, port: int, name: str, timeout: float) -> http.client.HTTPConnection:
    import ssl  # slow to import, and most hosts have TLS on the load balancer

    context = ssl.create_default_context()
    # the peer is this very host, reached over loopback; its certificate names the public domain
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    class Connection(http.client.HTTPSConnection):
        def connect(self) -> None:
            http.client.HTTPConnection.connect(self)
            self.sock = context.wrap_socket(self.sock, server_hostname=name)

    return Connection(address, port, timeout=timeout, context=context)


@dataclasses.dataclass
class Response:
    """An answer, its body read up to a limit."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The first value of a header, or an empty text."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class Visitor:
    """How a request looks when it has come through the front: Host, X-Forwarded-*, Referer on a POST."""

    domain: str
    https: bool
    token: str = ""

    @property
    def origin(self) -> str:
        return f"{'https' if self.https else 'http'}://{self.domain}"

    def headers(self, method: str, path: str, cookies: dict[str, str]) -> dict[str, str]:
        """The headers that a check sends besides its own."""
        result = {
            "Host": self.domain,
            "User-Agent": "bluegreen-smoke",
            "Accept": "*/*",
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Proto": "https" if self.https else "http",
        }
        if self.token:
            result[PROBE] = self.token
        if method not in ("GET", "HEAD"):
            result |= {"Origin": self.origin, "Referer": self.origin + path}
        if cookies:
            result["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return result


def request(
    where: Where,
    visitor: Visitor,
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    cookies: dict[str, str] | None = None,
    timeout: float = 10,
) -> Response:
    """One request on a connection of its own. `cookies` is updated by the answer.

    Raises OSError or http.client.HTTPException when there is no complete answer.
    """
    jar = cookies if cookies is not None else {}
    connection = where.connect(visitor.domain, timeout)
    try:
        connection.request(
            method, path, body, {**visitor.headers(method, path, jar), "Connection": "close", **(headers or {})}
        )
        answer = connection.getresponse()
        content = answer.read(MAX_BODY)
        found = answer.getheaders()
    finally:
        connection.close()
    for name, value in found:
        if name.lower() == "set-cookie":
            for key, morsel in http.cookies.SimpleCookie(value).items():
                jar[key] = morsel.value
    return Response(answer.status, found, content)


def exists(path: Path) -> bool:
    """Whether a socket file is there."""
    return path.is_socket()
