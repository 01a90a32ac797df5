"""WSGI entry point: shop.wsgi:application."""

import os

from django.core.wsgi import get_wsgi_application
from request_tracing import traced

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

application = traced(get_wsgi_application())
