"""Answers for machines: is the process alive, can it serve, do its workers work."""

import time
from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.core.cache import cache
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.utils import timezone
from django.views.decorators.cache import never_cache

from shop.version import VERSION

from .models import Heartbeat
from .tasks import heartbeat

FRESH = timedelta(seconds=15)
PATIENCE = 3.0


@never_cache
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers; asks neither database nor cache."""
    return JsonResponse({"status": "ok", "version": VERSION, "release": settings.RELEASE or "local"})


@never_cache
def readiness(request: HttpRequest) -> JsonResponse:
    """200 when pages can be served, otherwise 503; workers do not count here."""
    parts = {"database": _database(), "cache": _cache()}
    parts["migrations"] = _migrations() if parts["database"] == "ok" else "unknown"
    ready = set(parts.values()) == {"ok"}
    return JsonResponse({"status": "ok" if ready else "not ready", **parts}, status=200 if ready else 503)


@never_cache
def workers(request: HttpRequest) -> JsonResponse:
    """200 when a worker of this release gave a sign of life lately or gives one when asked, otherwise 503."""
    queue = settings.CELERY_TASK_DEFAULT_QUEUE
    deadline = time.monotonic() + PATIENCE
    while not _fresh():
        _ask()
        if time.monotonic() >= deadline:
            return JsonResponse({"status": "no worker answers", "queue": queue}, status=503)
        time.sleep(0.1)
    return JsonResponse({"status": "ok", "queue": queue})


def _fresh() -> bool:
    return Heartbeat.objects.filter(release=settings.RELEASE or "local", at__gt=timezone.now() - FRESH).exists()


def _ask() -> None:
    """Ask for a heartbeat, at most once in two seconds however many requests come in."""
    # Cache and broker are one Redis: whatever either raises means that no worker can be asked.
    with suppress(Exception):
        if cache.add(f"ask-{settings.CELERY_TASK_DEFAULT_QUEUE}", 1, timeout=2):
            heartbeat.apply_async(expires=30)


def _database() -> str:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return "does not answer"
    return "ok"


def _cache() -> str:
    try:
        cache.set("readiness", "1", 10)
        return "ok" if cache.get("readiness") == "1" else "forgets"
    except Exception:  # noqa: BLE001 - each cache backend raises its own errors
        return "does not answer"


def _migrations() -> str:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return "ok" if not missing else f"{len(missing)} missing"
