"""Files from an https store: bounded in size and time, the token for the store alone.

Used by the controller, and by a host that fetches for itself (`artifact_fetch: host`), there without privileges.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from typing import IO, Any

from bluegreen.errors import BluegreenError, bad_input, check_failed

CHUNK = 1 << 20
SILENCE = 30.0  # seconds without a byte after which a store counts as gone
REDIRECTS = 5
AGENT = "bluegreen"
REASONS = {
    401: "it wants a token: set artifact_token",
    403: "it refuses: artifact_token is missing, wrong, or may not read",
    404: "there is no such file, or artifact_token may not see it",
}


def failed(what: str, why: str) -> BluegreenError:
    """The store did not give the file: neither the commit nor the host is to blame."""
    return check_failed(what, why, "mend that (artifact_store, artifact_token), then type the same again")


def shown(url: str) -> str:
    """An address as it may be printed: without query and account, which may be secrets."""
    parts = urllib.parse.urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: who is spoken to."""
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or 443


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only; the token goes on to the store itself and to nobody else."""

    max_redirections = REDIRECTS
    max_repeats = 2

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise failed(f"{shown(req.full_url)} leads to an address without TLS", shown(newurl))
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if made is not None and token and origin(newurl) == origin(req.full_url):
            made.add_unredirected_header("Authorization", token)
        return made


class _Watch:
    """Ends a connection at the deadline, whatever it waits for: a store that answers for ever is none."""

    def __init__(self, seconds: float) -> None:
        self.sockets: list[socket.socket] = []
        self.until = time.monotonic() + seconds
        self.timer = threading.Timer(seconds, self.end)
        self.timer.daemon = True

    def end(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.timer.cancel()
        for one in self.sockets:
            one.close()

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.until


class _Connection(http.client.HTTPSConnection):
    """A connection that is watched."""

    def __init__(self, host: str, *, watch: _Watch, **more: Any) -> None:
        super().__init__(host, **more)

        def create(*words: Any, **options: Any) -> socket.socket:
            made = socket.create_connection(*words, **options)
            # a second descriptor of the connection: TLS takes the first one away
            watch.sockets.append(made.dup())
            return made

        self._create_connection = create


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, watch: _Watch, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._watch, self._tls = watch, context

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        made = functools.partial(_Connection, watch=self._watch, context=self._tls)
        return self.do_open(made, req)


@contextlib.contextmanager
def opened(url: str, token: str, accept: str, seconds: float) -> Iterator[tuple[Any, _Watch]]:
    """An answer of the store, and the watch over it. Raises BluegreenError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise bad_input(
            f"{shown(url)} is not an https address", "", "artifact_store: https://artifacts.example.org/app"
        )
    watch = _Watch(seconds)
    request = urllib.request.Request(url, headers={"User-Agent": AGENT, "Accept": accept or "*/*"})  # noqa: S310
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    # certificates of the system, or of SSL_CERT_FILE
    opener = urllib.request.build_opener(_Secure(watch, ssl.create_default_context()), _Redirects())
    watch.timer.start()
    try:
        with opener.open(request, timeout=min(SILENCE, seconds)) as answer:
            yield answer, watch
    except urllib.error.HTTPError as problem:
        problem.close()
        why = REASONS.get(problem.code, f"the store answers {problem.code}")
        raise failed(f"{shown(url)} cannot be fetched ({problem.code})", why) from None
    except (OSError, ValueError, http.client.HTTPException) as problem:
        raise failed(f"{shown(url)} cannot be fetched", why_not(problem, watch.over, seconds)) from None
    finally:
        watch.close()


def why_not(problem: Exception, over: bool, seconds: float) -> str:
    """Why a store gave no answer, in some words; never its address, which may hold a secret."""
    inner = getattr(problem, "reason", problem)
    if over:
        return f"no end after {seconds:g} s (artifact_timeout)"
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {inner.verify_message}"
    if isinstance(inner, TimeoutError):
        return f"not a byte for {min(SILENCE, seconds):g} s"
    if isinstance(inner, socket.gaierror):
        return "its name is not known"
    if isinstance(inner, OSError) and inner.strerror:
        return str(inner.strerror)
    return "the connection broke" + (f" ({type(inner).__name__})" if isinstance(inner, Exception) else "")


def fetch(
    url: str, write: Callable[[bytes], Any], *, token: str = "", accept: str = "", most: int, seconds: float
) -> int:
    """Give the bytes of a file to `write`, piece by piece. Returns their number.

    most: bytes; seconds: for all of it. Raises BluegreenError for an answer that is no file, too large, too late or
    cut short, and what `write` raises.
    """
    got = 0
    with opened(url, token, accept, seconds) as (answer, watch):
        wanted = answer.length  # None where the store does not say
        if wanted is not None and wanted > most:
            raise failed(f"{shown(url)} is too large", f"it has {wanted} bytes, and {most} may be")
        while chunk := answer.read1(CHUNK):
            got += len(chunk)
            if got > most:
                raise failed(f"{shown(url)} is too large", f"more than {most} bytes came")
            write(chunk)
            if watch.over:
                break
        if watch.over:
            raise failed(f"{shown(url)} cannot be fetched", f"no end after {seconds:g} s (artifact_timeout)")
        if wanted is not None and got != wanted:
            raise failed(f"{shown(url)} came incompletely", f"{got} of {wanted} bytes")
    return got
