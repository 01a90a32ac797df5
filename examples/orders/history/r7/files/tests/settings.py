"""Settings of the tests: PostgreSQL and Redis as CI offers them, or wherever DATABASE_URL and REDIS_URL say."""

import os

os.environ.setdefault("SECRET_KEY", "only-for-tests")
os.environ.setdefault("DATABASE_URL", "postgresql://postgres:test@127.0.0.1:5432/postgres")
os.environ.setdefault("REDIS_URL", "redis://127.0.0.1:6379/0")
os.environ.update(HTTPS="0", LOG_LEVEL="CRITICAL", DIAGNOSTICS="1")
os.environ.pop("SMOKE_PASSWORD", None)

from shop.settings import *  # noqa: F403
from shop.settings import CACHES, DATABASES, STORAGES

# Tests that run beside each other share one Redis: each process has names of its own.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "main")
CACHES["default"] |= {"KEY_PREFIX": f"test-{WORKER}", "OPTIONS": {}}  # a busy machine answers late
CELERY_TASK_DEFAULT_QUEUE = f"test-{WORKER}"
DATABASES["default"]["CONN_MAX_AGE"] = 0  # threads of a server or a worker leave nothing open
CELERY_TASK_ALWAYS_EAGER = True  # tests of the worker itself switch it off
STORAGES["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
