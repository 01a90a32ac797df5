"""Both places say the same: what is written from now on, and what was there before."""

import os
import signal
import threading
import time
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone
from waffle.testutils import override_switch

from orders import archive
from orders.management.commands import archive_orders
from orders.models import Order
from orders.tasks import confirm_order

from .factories import AccountFactory, OrderFactory, ProductFactory

writing = override_switch(archive.WRITES, active=True)
filling = override_switch(archive.BACKFILL, active=True)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_orders, "LOOK_AGAIN", 0.01)


def before(count: int, **values: object) -> list[Order]:
    """Orders that were confirmed before anybody wrote archived_at."""
    product = ProductFactory.create()
    moment = timezone.now() - timedelta(days=1)
    values = {"state": Order.State.CONFIRMED, "confirmed_at": moment} | values
    return OrderFactory.create_batch(count, product=product, **values)


def run(**options: object) -> str:
    """What the command says."""
    out = StringIO()
    call_command("archive_orders", stdout=out, **options)
    return out.getvalue()


@pytest.mark.django_db
def test_without_the_switch_nobody_writes_the_archive() -> None:
    order = OrderFactory.create()
    confirm_order(order.pk)
    order.refresh_from_db()
    assert (order.state, order.archived_at) == (Order.State.CONFIRMED, None)


@writing
@pytest.mark.django_db
def test_with_the_switch_a_confirmed_order_is_archived_at_the_same_moment() -> None:
    order, waits = OrderFactory.create_batch(2)
    confirm_order(order.pk)
    order.refresh_from_db()
    assert order.archived_at == order.confirmed_at
    assert not archive.differing().exists()
    waits.refresh_from_db()
    assert waits.archived_at is None


@writing
@pytest.mark.django_db
def test_an_order_that_is_changed_by_hand_is_the_same_in_both_places(admin_client: Client) -> None:
    order = OrderFactory.create(account=AccountFactory.create())
    form = {
        "product": order.product.pk,
        "quantity": 1,
        "customer": "Ada",
        "taken_by": "",
        "confirmed_by": "",
        "note": "",
    }
    for state in ["confirmed", "waiting"]:
        admin_client.post(f"/admin/orders/order/{order.pk}/change/", {**form, "state": state})
        order.refresh_from_db()
        assert (order.state, order.archived_at is not None) == (state, state == "confirmed")
        assert not archive.differing().exists()


@writing
@filling
@pytest.mark.django_db
def test_old_orders_are_archived_in_batches_and_the_rest_is_left_alone() -> None:
    old, by_hand, wrong = (
        before(5),
        before(1, confirmed_at=None),
        before(1, state="waiting", archived_at=timezone.now()),
    )
    waits = OrderFactory.create()
    said = run(batch=2)
    assert "7 of 7 orders" in said
    assert "done" in said
    for order in [*old, *by_hand, *wrong, waits]:
        order.refresh_from_db()
    assert [order.archived_at for order in old] == [order.confirmed_at for order in old]
    assert by_hand[0].archived_at == by_hand[0].taken_at
    assert (wrong[0].archived_at, waits.archived_at) == (None, None)
    assert run(status=True) == "0 orders left\n"


@pytest.mark.django_db
def test_what_a_batch_did_stays_done_and_the_next_start_goes_on() -> None:
    before(5)
    batch = archive.fill(0, 2)
    assert batch.changed == 2
    assert archive.differing().count() == 3  # and now it is killed
    with writing, filling:
        assert "3 of 3 orders" in run(batch=2)


@pytest.mark.django_db(transaction=True)
def test_an_order_that_somebody_holds_is_skipped_and_done_in_the_next_round() -> None:
    held, free = before(2)
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Order.objects.select_for_update().get(pk=held.pk)
            holds.set()
            release.wait(10)
        connection.close()

    holder = threading.Thread(target=hold)
    holder.start()
    assert holds.wait(10)
    began = time.monotonic()
    assert archive.fill(0, 10).changed == 1
    assert time.monotonic() - began < 5, "it should not wait for the holder"
    release.set()
    holder.join()
    assert list(archive.differing()) == [held]
    free.refresh_from_db()
    assert free.archived_at == free.confirmed_at
    assert archive.fill(0, 10).changed == 1


@pytest.mark.django_db
@pytest.mark.parametrize(("on", "off"), [(archive.WRITES, archive.BACKFILL), (archive.BACKFILL, archive.WRITES)])
def test_it_is_paused_while_a_switch_is_off(on: str, off: str) -> None:
    before(1)
    with (
        override_switch(on, active=True),
        pytest.raises(CommandError, match=f"paused: the switch {off} is off") as told,
    ):
        run()
    assert told.value.returncode == 75
    assert archive.differing().count() == 1


@writing
@pytest.mark.django_db
def test_a_switch_that_goes_off_ends_the_round_at_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    before(3)
    looks = iter(["", "", archive.BACKFILL, archive.BACKFILL])
    monkeypatch.setattr(archive_orders, "paused", lambda: next(looks))
    with pytest.raises(CommandError, match="paused"):
        run(batch=1)
    assert archive.differing().count() == 2


@writing
@filling
@pytest.mark.django_db
def test_sigterm_ends_it_after_the_batch_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    before(3)
    fill = archive.fill

    def told_to_stop(after: int, size: int) -> archive.Batch:
        os.kill(os.getpid(), signal.SIGTERM)
        return fill(after, size)

    usual = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(archive, "fill", told_to_stop)
    try:
        assert "stopped" in run(batch=1, stay=True)
    finally:
        signal.signal(signal.SIGTERM, usual)
    assert archive.differing().count() == 2


def test_it_is_no_faster_than_it_may_be() -> None:
    assert archive_orders.pause_after(changed=500, rate=1000, seconds=0.1) == pytest.approx(0.4)
    assert archive_orders.pause_after(changed=500, rate=1000, seconds=2) == 0


def test_progress_says_how_long_it_will_take() -> None:
    assert archive_orders.progress(1000, 3000, 2.0) == "1000 of 3000 orders, 500 a second, about 4 s left"
    assert archive_orders.progress(0, 3, 0.0) == "0 of 3 orders, 0 a second"


@pytest.mark.django_db
def test_what_is_left_is_told_with_an_exit_status() -> None:
    before(2)
    with pytest.raises(CommandError) as told:
        run(status=True)
    assert told.value.returncode == 1


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(CommandError, match="1 or more"):
        run(batch=0)
