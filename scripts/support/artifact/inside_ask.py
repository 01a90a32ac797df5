"""Runs in the place of the build, under the virtualenv's Python: what only this place can tell, as JSON in a file."""

import json
import os
import platform
import sys
from pathlib import Path


def machine() -> dict[str, str]:
    """What an artifact that is built here needs of a host."""
    release = platform.freedesktop_os_release()
    return {
        "python": f"{sys.version_info[0]}.{sys.version_info[1]}",
        "arch": platform.machine(),
        "os": f"{release['ID']}-{release.get('VERSION_ID', '')}",
        "glibc": (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc "),
    }


def static() -> dict[str, str]:
    """Where the settings collect static files, and the URL under which pages name them."""
    from django.conf import settings  # type: ignore[import-not-found,unused-ignore]

    return {"root": str(settings.STATIC_ROOT or ""), "url": str(settings.STATIC_URL or "")}


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps({"machine": machine, "static": static}[sys.argv[1]]()), encoding="utf-8")
