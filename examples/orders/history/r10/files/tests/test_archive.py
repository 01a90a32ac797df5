"""Everybody reads archived_at; the release before this one reads the state, and sees the same."""

import pytest
from django.test import Client
from django.utils import timezone

from orders.models import Order
from orders.tasks import confirm_order

from .factories import OrderFactory


@pytest.mark.django_db
def test_what_is_confirmed_reads_the_same_in_both_places() -> None:
    order = OrderFactory.create()
    assert order.progress == "waiting"
    assert [confirm_order(order.pk), confirm_order(order.pk)] == [True, False]
    order.refresh_from_db()
    assert (order.progress, order.state) == ("confirmed", "confirmed")
    assert order.archived_at == order.confirmed_at


@pytest.mark.django_db
def test_nobody_reads_the_state(client: Client) -> None:
    order = OrderFactory.create(archived_at=timezone.now(), state=Order.State.WAITING)
    assert client.get("/api/orders/").json()["orders"][0]["state"] == "confirmed"
    assert "confirmed" in client.get("/orders/").content.decode().split("<tbody>")[1]
    assert confirm_order(order.pk) is False


@pytest.mark.django_db
def test_an_order_that_is_changed_by_hand_is_the_same_in_both_places(admin_client: Client) -> None:
    order = OrderFactory.create()
    form = {
        "product": order.product.pk,
        "quantity": 1,
        "customer": "Ada",
        "taken_by": "",
        "confirmed_by": "",
        "note": "",
    }
    for at in [("2026-01-05", "09:00:00"), ("", "")]:
        admin_client.post(
            f"/admin/orders/order/{order.pk}/change/", {**form, "archived_at_0": at[0], "archived_at_1": at[1]}
        )
        order.refresh_from_db()
        assert order.archived_at == order.confirmed_at
        assert (order.archived_at is not None) == (order.state == Order.State.CONFIRMED) == bool(at[0])


@pytest.mark.django_db
def test_it_is_not_ready_while_an_order_of_before_is_not_archived(client: Client) -> None:
    order = OrderFactory.create(state=Order.State.CONFIRMED, confirmed_at=timezone.now())
    answer = client.get("/readiness")
    assert (answer.status_code, answer.json()["archive"][:10]) == (503, "not filled")
    Order.objects.filter(pk=order.pk).update(archived_at=timezone.now())
    assert client.get("/readiness").json()["archive"] == "ok"
