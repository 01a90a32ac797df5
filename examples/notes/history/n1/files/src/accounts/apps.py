"""Set-up of the application."""

import os

from django.apps import AppConfig
from django.db.models.signals import post_migrate

SMOKE = "smoke@example.org"


def ensure_smoke_account(**_: object) -> None:
    """Make sure that smoke tests can sign in when NOTES_SMOKE_PASSWORD is set."""
    from .models import User

    password = os.environ.get("NOTES_SMOKE_PASSWORD")
    if not password:
        return
    user = User.objects.filter(email=SMOKE).first() or User(email=SMOKE)
    # A password that is right already is left alone: setting it again would end the account's sessions.
    if user.pk is None or not user.check_password(password):
        user.set_password(password)
        user.save()


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        post_migrate.connect(ensure_smoke_account, sender=self, dispatch_uid="accounts.smoke")
