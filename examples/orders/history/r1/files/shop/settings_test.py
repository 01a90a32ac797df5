"""Settings for the tests: SQLite in memory, no Redis, static files without a manifest."""

import os

os.environ.update(SECRET_KEY="test", DATABASE_URL="sqlite:///:memory:", REDIS_URL="", HTTPS="0", LOG_LEVEL="CRITICAL")
os.environ.pop("SMOKE_PASSWORD", None)

from .settings import *  # noqa: F403
from .settings import STORAGES

STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
