"""The account that smoke tests sign in with."""

import os
from typing import Literal

from django.contrib.auth import get_user_model


def ensure_account(username: str, password: str) -> Literal["created", "updated", "unchanged"]:
    """Make sure that `username` can sign in with `password`; it gets no rights beyond that."""
    user, created = get_user_model().objects.get_or_create(username=username)
    # A password that is right already is left alone: setting it again would end the account's sessions.
    if not created and user.is_active and user.check_password(password):
        return "unchanged"
    user.is_active = True
    user.set_password(password)
    user.save()
    return "created" if created else "updated"


def after_migrate(**_: object) -> None:
    """Create the account `smoke` when SMOKE_PASSWORD is set."""
    if password := os.environ.get("SMOKE_PASSWORD"):
        ensure_account("smoke", password)
