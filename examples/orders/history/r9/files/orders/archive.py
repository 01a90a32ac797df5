"""From `state` and `confirmed_at` to `archived_at`: what is written while all are there, and what old orders get."""

from dataclasses import dataclass

from django.db import transaction
from django.db.models import Case, DateTimeField, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce
from waffle import switch_is_active

from .models import Order

# Switches: whoever confirms an order archives it too; old orders may be changed.
WRITES, BACKFILL = "archive_writes", "archive_backfill"

# What archived_at has to be, by what is read today. An order that was confirmed by hand may lack the time.
SINCE = Coalesce("confirmed_at", "taken_at")
WANTED = Case(When(state=Order.State.CONFIRMED, then=SINCE), default=Value(None), output_field=DateTimeField())


def writes() -> bool:
    """Whether archived_at is written beside the state."""
    return bool(switch_is_active(WRITES))


def differing() -> QuerySet[Order]:
    """The orders whose archived_at is not what the other columns say."""
    confirmed = Q(state=Order.State.CONFIRMED) & ~Q(archived_at=SINCE)
    return Order.objects.filter(confirmed | Q(state=Order.State.WAITING, archived_at__isnull=False))


@dataclass(frozen=True)
class Batch:
    """Orders that were looked at: the last number, 0 at the end of the table, and how many were changed."""

    last: int
    changed: int


def fill(after: int, size: int) -> Batch:
    """Mend up to `size` orders with numbers above `after`. What somebody else holds is left for the next round."""
    with transaction.atomic():
        wrong = differing().filter(pk__gt=after).order_by("pk").select_for_update(skip_locked=True)
        numbers = list(wrong.values_list("pk", flat=True)[:size])
        changed = Order.objects.filter(pk__in=numbers).update(archived_at=WANTED)
    return Batch(numbers[-1] if len(numbers) == size else 0, changed)
