"""Set-up of the application."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class OrdersConfig(AppConfig):
    """Creates the smoke-test account after migrations, so that the very first deploy can sign in."""

    name = "orders"

    def ready(self) -> None:
        from .accounts import after_migrate

        post_migrate.connect(after_migrate, sender=self, dispatch_uid="orders.ensure_account")
