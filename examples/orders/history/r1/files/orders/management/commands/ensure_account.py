"""manage.py ensure_account: the account of the smoke tests; may run any number of times."""

import os
from argparse import ArgumentParser

from django.core.management.base import BaseCommand, CommandError

from orders.accounts import ensure_account


class Command(BaseCommand):
    help = (
        "Make sure that an account can sign in. Its password comes from the environment, never from the command line."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username", default="smoke")
        parser.add_argument("--password-env", default="SMOKE_PASSWORD", help="variable that holds the password")

    def handle(self, *args: object, **options: str) -> None:
        password = os.environ.get(options["password_env"])
        if not password:
            raise CommandError(f"{options['password_env']} is empty: set it to the password of {options['username']}")
        self.stdout.write(f"{options['username']}: {ensure_account(options['username'], password)}")
