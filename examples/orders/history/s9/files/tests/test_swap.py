"""Whichever release writes: the trigger keeps state and archive the same."""

import pytest
from django.db import connection

from orders.models import Order
from orders.tasks import confirm_order

from .factories import OrderFactory

pytestmark = pytest.mark.django_db


def columns(order: Order) -> tuple[object, ...]:
    """state, and whether the two times are the same and there."""
    with connection.cursor() as cursor:
        words = "state, confirmed_at IS NOT DISTINCT FROM archived_at, archived_at IS NOT NULL"
        cursor.execute(f"SELECT {words} FROM orders_order WHERE id = %s", [order.pk])
        return tuple(cursor.fetchone())


def test_what_this_release_writes_the_one_before_can_read() -> None:
    order = OrderFactory.create()
    assert columns(order) == ("waiting", True, False)
    confirm_order(order.pk)
    assert columns(order) == ("confirmed", True, True)
    Order.objects.update(archived_at=None)
    assert columns(order) == ("waiting", True, False)


def test_what_the_release_before_writes_this_one_can_read() -> None:
    order = OrderFactory.create()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE orders_order SET state = 'confirmed', confirmed_at = now()")
    assert columns(order) == ("confirmed", True, True)
    order.refresh_from_db()
    assert order.progress == "confirmed"
