"""What gunicorn loads instead of the application: the application itself, with every answer stamped.

The stamp says which release answered. nginx logs it and hides it from visitors. Runs in the release's virtualenv as
the application's user; standard library only.
"""

import importlib
import os
from typing import Any

STAMP = "X-Bluegreen-Release"
RELEASE = os.environ["BLUEGREEN_RELEASE"]


def load(target: str) -> Any:
    """The object that `package.module:attribute.attribute` names."""
    module, _, attributes = target.partition(":")
    found: Any = importlib.import_module(module)
    for name in attributes.split("."):
        found = getattr(found, name)
    return found


def wsgi(inner: Any) -> Any:
    """A WSGI application that stamps what `inner` answers."""

    def stamped(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            kept = [(name, value) for name, value in headers if name.lower() != STAMP.lower()]
            return start_response(status, [*kept, (STAMP, RELEASE)], *rest)

        return inner(environ, start)

    return stamped


def asgi(inner: Any) -> Any:
    """An ASGI application that stamps what `inner` answers, websocket handshakes included."""
    name, value = STAMP.lower().encode(), RELEASE.encode()

    async def stamped(scope: Any, receive: Any, send: Any) -> None:
        async def forward(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                kept = [(key, item) for key, item in message.get("headers", ()) if key.lower() != name]
                message = {**message, "headers": [*kept, (name, value)]}
            await send(message)

        await inner(scope, receive, forward)

    return stamped


application = (asgi if os.environ["BLUEGREEN_INTERFACE"] == "asgi" else wsgi)(load(os.environ["BLUEGREEN_TARGET"]))
