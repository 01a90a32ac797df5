"""WSGI entry point: website.wsgi:application."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.config.production")

application = get_wsgi_application()
