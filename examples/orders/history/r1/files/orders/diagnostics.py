"""Slow answers and uploads, for practising deploys; closed by DIAGNOSTICS=0."""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps

from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt

from shop.version import VERSION

LONGEST = 30.0


def diagnostic(view: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Answer 404 where diagnostics are switched off."""

    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponseBase:
        if not settings.DIAGNOSTICS:
            raise Http404
        return view(request)

    return guarded


def seconds(request: HttpRequest) -> float:
    """Return the wanted duration, between 0 and 30 s; 1 s if none is given or it is not a number."""
    try:
        wanted = float(request.GET.get("seconds", "1"))
    except ValueError:
        return 1.0
    return min(max(wanted, 0.0), LONGEST) if math.isfinite(wanted) else 1.0


@diagnostic
def slow(request: HttpRequest) -> HttpResponseBase:
    """Answer after some seconds."""
    duration = seconds(request)
    time.sleep(duration)
    return JsonResponse({"slept": duration, "version": VERSION})


@diagnostic
def stream(request: HttpRequest) -> HttpResponseBase:
    """Send a line every 0.2 s; the last one says "end", so that a cut stream is recognised."""

    lines = [f"{step} version {VERSION}\n" for step in range(int(seconds(request) * 5))]

    def slowly() -> Iterator[str]:
        for line in lines:
            yield line
            time.sleep(0.2)
        yield "end\n"

    async def slowly_async() -> AsyncIterator[str]:  # of the other kind Django would send everything at the end
        for line in lines:
            yield line
            await asyncio.sleep(0.2)
        yield "end\n"

    content = slowly_async() if isinstance(request, ASGIRequest) else slowly()
    return StreamingHttpResponse(content, content_type="text/plain; charset=utf-8", headers={"X-Accel-Buffering": "no"})


@csrf_exempt  # Nothing is kept and no session is looked at.
@diagnostic
def upload(request: HttpRequest) -> HttpResponseBase:
    """GET: a form. POST: size and SHA-256 of the file (field "file") or of the raw body; nothing is kept."""
    if request.method != "POST":
        return render(request, "orders/upload.html")
    digest, size = hashlib.sha256(), 0
    source = request.FILES.get("file")
    chunks = source.chunks() if source else iter(lambda: request.read(65536), b"")
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
    return JsonResponse({"bytes": size, "sha256": digest.hexdigest(), "version": VERSION})
