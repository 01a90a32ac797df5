"""What every template knows."""

from django.conf import settings
from django.http import HttpRequest

from shop.version import VERSION


def release(request: HttpRequest) -> dict[str, str]:
    """Return version and release id for the footer."""
    return {"version": VERSION, "release": settings.RELEASE or "local"}
