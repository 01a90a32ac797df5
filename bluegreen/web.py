"""A small HTTP client: over a colour's socket or through this host's nginx, with cookies, without redirects."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

MAX_BODY = 8 << 20
STAMP = "X-Bluegreen-Release"
PROBE = "X-Bluegreen-Probe"


class NoAnswer(Exception):
    """There was no complete answer. `refused`: the request was certainly not sent."""

    def __init__(self, problem: BaseException, refused: bool):
        super().__init__(str(problem) or type(problem).__name__)
        self.refused = refused


@dataclasses.dataclass(frozen=True)
class Where:
    """Where requests go: a socket's path, or the URL of this host's nginx."""

    target: str

    def connect(self, name: str, timeout: float) -> socket.socket:
        """A connected socket. `name` is the domain that TLS asks for."""
        import socket  # slow to import, and most verbs ask nobody
        import urllib.parse

        if self.target.startswith("/"):
            plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            plain.settimeout(timeout)
            try:
                plain.connect(self.target)
            except OSError:
                plain.close()
                raise
            return plain
        url = urllib.parse.urlsplit(self.target)
        tls = url.scheme == "https"
        plain = socket.create_connection((url.hostname or "127.0.0.1", url.port or (443 if tls else 80)), timeout)
        if not tls:
            return plain
        import ssl  # slow to import, and most hosts have TLS on the load balancer

        context = ssl.create_default_context()
        # the peer is this very host, reached over loopback; its certificate names the public domain
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context.wrap_socket(plain, server_hostname=name)


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
    """One request on a connection of its own. `cookies` is updated by the answer. Raises NoAnswer."""
    import http.client  # slow to import, and most verbs ask nobody

    jar = cookies if cookies is not None else {}
    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    try:
        connection.sock = where.connect(visitor.domain, timeout)
    except OSError as problem:
        raise NoAnswer(problem, refused=True) from None
    try:
        connection.request(
            method, path, body, {**visitor.headers(method, path, jar), "Connection": "close", **(headers or {})}
        )
        answer = connection.getresponse()
        content = answer.read(MAX_BODY)
        if answer.length and len(content) < MAX_BODY:
            raise http.client.IncompleteRead(content, answer.length)
        found = answer.getheaders()
    except (OSError, http.client.HTTPException) as problem:
        raise NoAnswer(problem, refused=False) from None
    finally:
        connection.close()
    for name, value in found:
        if name.lower() == "set-cookie":
            key, _, rest = value.partition("=")
            jar[key.strip()] = rest.partition(";")[0].strip()
    return Response(answer.status, found, content)
