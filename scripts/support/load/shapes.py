"""What is sent, in which mixture, and where to."""

from __future__ import annotations

import ipaddress
import math
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from support.common import Failure

KINDS = ("get", "post", "fresh", "slow", "upload", "asset", "stream", "h2", "websocket")
LONG = ("slow", "upload", "stream", "websocket")  # take long by intention


class BadInput(Failure):
    """An input the user must correct; its text is the one line to print."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)


@dataclass(frozen=True)
class Shape:
    """One kind of request in the mix.

    kind: `get`, `post` (kept-alive), `fresh` (a new connection each), `slow` (kept-alive, expected to take long),
    `upload` (a body sent in pieces), `asset` (a page is read, then one static file that it names), `stream` (an answer
    in chunks whose end must be marked), `h2` (HTTP/2 over TLS, any method), `websocket` (stays open for the whole run;
    a word every `seconds` has to come back).
    body: text, or for an upload and h2 the number of bytes, sent in pieces. weight: its share of the mix (a websocket
    has none). expect: statuses that are right; empty means every 2xx and 3xx. ends: what the body must end with.
    """

    kind: str
    path: str
    method: str = "GET"
    body: str | int = ""
    content_type: str = "application/x-www-form-urlencoded"
    weight: float = 1.0
    expect: tuple[int, ...] = ()
    seconds: float = 0.5  # how long an upload takes to send; the time between two words on a websocket
    ends: str = ""
    connections: int = 2  # websockets for each target

    def expected(self, status: int) -> bool:
        """Whether this status is a right answer."""
        return status in self.expect if self.expect else 200 <= status < 400


def parse_profile(data: object) -> tuple[Shape, ...]:
    """The mix of requests from decoded JSON: a list of {kind, path, method, body, weight, expect, …}.

    Raises BadInput, naming the entry.
    """
    if not isinstance(data, list) or not data:
        raise BadInput('a load profile is a list with at least one request: [{"kind": "get", "path": "/"}]')
    return tuple(_parse_shape(entry, f"load profile, entry {number}") for number, entry in enumerate(data, 1))


def _parse_shape(entry: object, where: str) -> Shape:
    if not isinstance(entry, dict):
        raise BadInput(f"{where}: must be an object with kind and path, not {type(entry).__name__}")
    known = ("kind", "path", "method", "body", "content_type", "weight", "expect", "seconds", "ends", "connections")
    unknown = sorted(set(entry) - set(known))
    if unknown:
        raise BadInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    kind, path = entry.get("kind"), entry.get("path")
    if kind not in KINDS:
        raise BadInput(f"{where}: kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    if not isinstance(path, str) or not re.fullmatch(r"/[!-~]*", path):
        raise BadInput(f"{where}: path is {path!r}; it must begin with / and hold no blanks")
    posts = kind in ("post", "upload")
    method = entry.get("method", "POST" if posts else "GET")
    if method not in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        raise BadInput(f"{where}: method is {method!r}; it must be GET, POST, PUT, PATCH or DELETE")
    body = entry.get("body", 262144 if kind == "upload" else "")
    counted = kind in ("upload", "h2")
    if isinstance(body, bool) or not isinstance(body, (str, int) if counted else str):
        raise BadInput(f"{where}: body must be text" + (" or a number of bytes" if counted else ""))
    weight, seconds = entry.get("weight", 1), entry.get("seconds", 0.5)
    for name, value in (("weight", weight), ("seconds", seconds)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise BadInput(f"{where}: {name} is {value!r}; it must be a number above 0")
    expect = entry.get("expect", [])
    expect = [expect] if isinstance(expect, int) else expect
    if not isinstance(expect, list) or not all(isinstance(code, int) and 100 <= code <= 599 for code in expect):
        raise BadInput(f"{where}: expect is {expect!r}; it must be an HTTP status or a list of them")
    content_type = entry.get("content_type", "application/octet-stream" if kind == "upload" else Shape.content_type)
    if not isinstance(content_type, str) or not re.fullmatch(r"[ -~]+", content_type):
        raise BadInput(f"{where}: content_type must be one line of text")
    ends, connections = _parse_ends(entry, where)
    times = float(weight), tuple(expect), float(seconds)
    return Shape(kind, path, method, body, content_type, *times, ends, connections)


def _parse_ends(entry: dict[str, object], where: str) -> tuple[str, int]:
    ends, connections = entry.get("ends", ""), entry.get("connections", 2)
    if not isinstance(ends, str):
        raise BadInput(f"{where}: ends must be text")
    if isinstance(connections, bool) or not isinstance(connections, int) or not 1 <= connections <= 1000:
        raise BadInput(f"{where}: connections is {connections!r}; it must be a number from 1 to 1000")
    return ends, connections


DEFAULT_PROFILE = (
    Shape("get", "/", weight=70),
    Shape("fresh", "/", weight=30),
)


class Mix:
    """Hands out shapes so that every stretch of the stream has the same mixture (smooth weighted round robin)."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self._shapes = tuple(shapes)
        self._total = sum(shape.weight for shape in shapes)
        self._credit = [0.0] * len(self._shapes)

    def next(self) -> Shape:
        """The next shape to send."""
        for index, shape in enumerate(self._shapes):
            self._credit[index] += shape.weight
        best = max(range(len(self._shapes)), key=self._credit.__getitem__)
        self._credit[best] -= self._total
        return self._shapes[best]


@dataclass(frozen=True)
class Target:
    """One address that is sent traffic; `host` is what goes into the Host header."""

    url: str
    scheme: str
    address: str
    port: int
    host: str


def parse_target(url: str, host: str = "") -> Target:
    """A target from its base URL. Only loopback and private addresses: this program is for one's own test hosts.

    Raises BadInput.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise BadInput(f"{url!r} is not a URL: {error}; give for example http://10.0.0.11") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadInput(f"{url!r} is not a base URL; give for example http://10.0.0.11 or https://127.0.0.1:8443")
    if parts.path not in ("", "/") or parts.query or parts.username:
        raise BadInput(f"{url!r}: give only the base URL; paths belong in the load profile")
    if host and not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", host):
        raise BadInput(f"--host {host!r} is not a host name; give for example orders.example.org")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise BadInput(f"{url}: {parts.hostname} has no address ({error.strerror or error})") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        known = ipaddress.ip_address(address.partition("%")[0])
        if not (known.is_loopback or known.is_private):
            raise BadInput(f"{url}: {address} is a public address; only loopback and private addresses are loaded")
    shown = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    shown += f":{parts.port}" if parts.port is not None else ""
    return Target(f"{parts.scheme}://{shown}", parts.scheme, addresses[0], port, host or shown)
