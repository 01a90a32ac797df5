"""Both tables hold the same, row for row: by the trigger, and by the copy."""

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from orders import shadow
from orders.models import Order
from orders.tasks import confirm_order

from .factories import AccountFactory, OrderFactory

pytestmark = pytest.mark.django_db


def run(**options: object) -> str:
    """What the command says."""
    out = StringIO()
    call_command("fill_shadow", stdout=out, **options)
    return out.getvalue()


def of_before(count: int) -> None:
    """Orders that the trigger has not seen."""
    OrderFactory.create_batch(count, state=Order.State.CONFIRMED, confirmed_at=timezone.now() - timedelta(days=1))
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM orders_order_shadow")


def test_every_change_comes_over() -> None:
    order, gone = OrderFactory.create_batch(2, account=AccountFactory.create())
    confirm_order(order.pk)
    gone.delete()
    assert order.account is not None
    order.account.delete()
    assert shadow.differing() == 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, account_id, archived_at = confirmed_at FROM orders_order_shadow")
        assert cursor.fetchall() == [(order.pk, None, True)]


def test_the_orders_of_before_are_copied_and_a_stopped_copy_goes_on() -> None:
    of_before(5)
    assert shadow.fill(0, 2)[1:] == (2, 2)  # and now it is killed
    assert shadow.differing() == 3
    assert "3 copied" in run(batch=2)
    assert run(status=True) == "done: both tables hold the same\n"


def test_what_is_left_is_told_with_an_exit_status() -> None:
    of_before(1)
    with pytest.raises(CommandError, match="1 orders differ") as told:
        run(status=True)
    assert told.value.returncode == 1
    with pytest.raises(CommandError, match="1 or more"):
        run(batch=0)
