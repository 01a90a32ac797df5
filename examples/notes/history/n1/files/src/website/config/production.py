"""Settings in production."""

import os
from pathlib import Path

from django.core.exceptions import ImproperlyConfigured

from .base import *  # noqa: F403

if secret_file := os.environ.get("NOTES_SECRET_FILE"):
    SECRET_KEY = Path(secret_file).read_text(encoding="utf-8").strip()
else:
    SECRET_KEY = os.environ.get("NOTES_SECRET", "")
if not SECRET_KEY:
    raise ImproperlyConfigured("set NOTES_SECRET, or NOTES_SECRET_FILE to a file that holds it")

DEBUG = False
ALLOWED_HOSTS = os.environ.get("NOTES_HOSTS", "").split()
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = os.environ.get("NOTES_SECURE_COOKIES", "no") == "yes"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"},
}
