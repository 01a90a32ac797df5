"""Background work. Every task may run twice without harm."""

import logging
from datetime import timedelta

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from .models import Heartbeat, Order

logger = logging.getLogger(__name__)


@shared_task
def confirm_order(number: int) -> bool:
    """Confirm one order if it still waits; False if another worker was first."""
    changed = Order.objects.filter(pk=number, archived_at=None).update(
        archived_at=timezone.now(), confirmed_by=settings.RELEASE or "local"
    )
    if changed:
        logger.info("order %s confirmed", number)
    return bool(changed)


@shared_task
def confirm_waiting() -> int:
    """Confirm what was overlooked (its task got lost, or waited in the queue of a release that is gone)."""
    overdue = timezone.now() - timedelta(seconds=20)
    waiting = Order.objects.filter(archived_at=None, taken_at__lt=overdue)
    return sum(confirm_order(number) for number in waiting.values_list("pk", flat=True)[:500])


@shared_task
def heartbeat() -> None:
    """Write down that a worker of this release is alive."""
    Heartbeat.objects.update_or_create(release=settings.RELEASE or "local", defaults={"at": timezone.now()})
