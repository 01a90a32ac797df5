"""WSGI entry point: website.wsgi:app."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.config.production")

app = get_wsgi_application()
