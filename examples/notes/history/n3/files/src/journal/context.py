"""What every template knows."""

from django.http import HttpRequest

VERSION = "3"


def version(request: HttpRequest) -> dict[str, str]:
    """Return the version for the footer."""
    return {"version": VERSION}
