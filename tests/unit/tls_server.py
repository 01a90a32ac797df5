"""A web server with TLS on this machine, for tests of stores: each path answers as the test says."""

from __future__ import annotations

import contextlib
import http.server
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Answer = tuple[int, dict[str, str], bytes]


class TlsServer:
    """`answers`: path → (status, headers, body), or a function of the request's handler that answers by itself."""

    def __init__(self, certificate: Path, address: str = "127.0.0.1") -> None:
        self.answers: dict[str, Answer | Callable[[Any], None]] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.stopped = threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = outer.answers.get(self.path, (404, {}, b"no such file"))
                if callable(answer):
                    answer(self)
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.handle_error = lambda *_: None  # type: ignore[method-assign]  a client that hangs up is no news
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str, host: str = "localhost") -> str:
        return f"https://{host}:{self.port}{path}"

    def tokens(self) -> list[str]:
        """What each request had for a token, "" for none."""
        return [headers.get("authorization", "") for _, headers in self.seen]

    def close(self) -> None:
        self.stopped.set()
        self.server.shutdown()
        self.server.server_close()


def make_certificate(folder: Path, address: str = "127.0.0.1") -> Path:
    """A certificate for localhost and an address with its key, in one file; only.pem beside it has no key."""
    path = folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-addext", f"subjectAltName=DNS:localhost,IP:{address}"]
    subprocess.run([*command, "-keyout", path, "-out", folder / "only.pem"], check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "only.pem").read_text())
    return path


@contextlib.contextmanager
def serving(certificate: Path, address: str = "127.0.0.1") -> Iterator[TlsServer]:
    server = TlsServer(certificate, address)
    try:
        yield server
    finally:
        server.close()
