"""One release of the orders example, running: takes questions as lines of JSON and answers them in the same way.

Started in the release's tree by its own Python; the other releases run beside it on the same database.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import django

PAGES = ("/", "/products/sidamo/", "/orders/", "/orders/new/", "/api/products/", "/accounts/login/", "/readiness")


def migrate() -> None:
    """Apply this release's migrations."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def order(waits: bool = False) -> int:
    """Order a coffee through the page; its number. waits: the worker has not come to it yet."""
    from django.test import Client
    from orders import views

    usual = views.ask_for_confirmation
    views.ask_for_confirmation = (lambda number: None) if waits else usual
    try:
        form = {"product": 1, "quantity": 2, "customer": "Ada", "note": "ground"}
        answer = Client().post("/orders/new/", form)
    finally:
        views.ask_for_confirmation = usual
    assert answer.status_code == 302, answer.content
    return int(answer["Location"].strip("/").split("/")[-1])


def confirm(number: int) -> bool:
    """What the worker does with an order."""
    from orders.tasks import confirm_order

    return bool(confirm_order(number))


def seen() -> dict[str, str]:
    """The latest orders as this release shows them: number → how far."""
    from django.test import Client

    return {str(one["number"]): one["state"] for one in Client().get("/api/orders/").json()["orders"]}


def pages() -> dict[str, int]:
    """The status of every page."""
    from django.test import Client

    return {path: Client().get(path).status_code for path in PAGES}


def switch(name: str) -> None:
    """Turn a switch on."""
    from waffle.models import Switch

    Switch.objects.update_or_create(name=name, defaults={"active": True})


def manage(command: str) -> str:
    """What a management command says."""
    from django.core.management import call_command

    name, *words = command.split()
    out = io.StringIO()
    call_command(name, *words, stdout=out)
    return out.getvalue()


def footprint() -> dict[str, Any]:
    """What this release expects of the schema."""
    from bluegreen.schema import service

    return service.footprint({})


def read() -> dict[str, Any]:
    """What a verdict needs of the database."""
    from bluegreen.schema import service

    return service.read({})


VERBS = {one.__name__: one for one in (migrate, order, confirm, seen, pages, switch, manage, footprint, read)}


def main() -> None:
    """Answer until there are no more questions; a failure is an answer too."""
    out, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, "")
    django.setup()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"value": VERBS[asked["verb"]](**asked["with"])}
        except BaseException as problem:  # noqa: BLE001  the one who asked judges it
            answer = {"error": f"{type(problem).__name__}: {problem}"}
        print(json.dumps(answer), file=out, flush=True)


if __name__ == "__main__":
    main()
