"""Background work: confirming orders, signs of life, and a worker on a real broker."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from celery.contrib.testing.worker import start_worker
from django.conf import settings
from django.db import DatabaseError
from django.test import Client
from django.utils import timezone
from kombu.exceptions import OperationalError
from pytest_django import DjangoCaptureOnCommitCallbacks

from orders.models import Heartbeat, Order, Product
from orders.tasks import confirm_order, confirm_waiting, heartbeat
from shop.celery import app

from .factories import OrderFactory


@pytest.mark.django_db
def test_an_order_is_confirmed_once() -> None:
    order = OrderFactory.create()
    assert [confirm_order(order.pk), confirm_order(order.pk)] == [True, False]


@pytest.mark.django_db
def test_overlooked_orders_are_found() -> None:
    old, new = OrderFactory.create_batch(2)
    Order.objects.filter(pk=old.pk).update(taken_at=timezone.now() - timedelta(minutes=1))
    assert confirm_waiting() == 1
    new.refresh_from_db()
    assert new.progress == "waiting"


def test_an_order_is_kept_when_the_broker_is_away(
    client: Client,
    coffee: Product,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    def away(*_: object) -> None:
        raise OperationalError

    monkeypatch.setattr("orders.tasks.confirm_order.delay", away)
    with django_capture_on_commit_callbacks(execute=True):
        client.post("/orders/new/", {"product": coffee.pk, "quantity": 1, "customer": "Ada"})
    assert Order.objects.get().progress == "waiting"


@pytest.fixture
def worker(transactional_db: None) -> Iterator[None]:
    """A worker that takes its work from Redis."""
    app.conf.task_always_eager = False
    with start_worker(app, perform_ping_check=False, queues=[settings.CELERY_TASK_DEFAULT_QUEUE]):
        yield
    app.conf.task_always_eager = True


@pytest.mark.usefixtures("worker")
def test_a_worker_takes_its_work_from_redis(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orders.health.PATIENCE", 30)
    heartbeat.delay()
    assert client.get("/workers").json()["status"] == "ok"  # it waits for the sign of life
    assert Heartbeat.objects.exists()


@pytest.mark.django_db
def test_silent_workers_are_reported(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orders.tasks.heartbeat.apply_async", lambda **_: None)
    monkeypatch.setattr("orders.health.PATIENCE", 0)
    assert client.get("/workers").status_code == 503


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("part", "fails", "says"),
    [
        ("cache", "orders.health.cache.get", "does not answer"),
        ("database", "orders.health.connection.cursor", "does not answer"),
    ],
)
def test_readiness_names_the_part_that_fails(
    part: str, fails: str, says: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseError

    with monkeypatch.context() as broken:
        broken.setattr(fails, away)
        answer = client.get("/readiness")
    assert (answer.status_code, answer.json()[part]) == (503, says)
