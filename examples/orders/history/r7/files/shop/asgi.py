"""ASGI entry point: shop.asgi:application. With diagnostics the websocket /ws/echo sends back what it gets."""

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

django = get_asgi_application()


async def application(scope: Message, receive: Receive, send: Send) -> None:
    """Give websockets to `echo`, lifespan events an answer, and everything else to Django."""
    if scope["type"] == "websocket":
        await echo(scope, receive, send)
    elif scope["type"] == "lifespan":
        await lifespan(receive, send)
    else:
        await django(scope, receive, send)


async def echo(scope: Message, receive: Receive, send: Send) -> None:
    """Send back each message until the visitor leaves."""
    from django.conf import settings

    await receive()
    if scope["path"] != "/ws/echo" or not settings.DIAGNOSTICS:
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text") or ""})


async def lifespan(receive: Receive, send: Send) -> None:
    """There is nothing to start or to stop."""
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
