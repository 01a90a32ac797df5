"""What visitors see."""

import hashlib

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from orders.models import Order, Product, Rating

from .factories import AccountFactory, OrderFactory, RatingFactory

PAGES = ["/", "/products/sidamo/", "/orders/", "/orders/new/", "/accounts/login/", "/upload"]
MACHINES = ["/api/products/", "/api/orders/", "/healthz", "/readiness", "/workers", "/slow?seconds=0", "/stream"]


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES + MACHINES)
def test_every_public_page_answers(path: str, client: Client) -> None:
    assert client.get(path).status_code == 200


def test_an_ordered_coffee_is_confirmed_and_only_its_customer_sees_the_receipt(
    client: Client, coffee: Product, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    form = {"product": coffee.pk, "quantity": 2, "customer": "Ada", "note": "ground for a filter"}
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post("/orders/new/", form)
    order = Order.objects.get()
    assert answer["Location"] == f"/orders/{order.pk}/"
    assert order.progress == "confirmed"
    receipt = client.get(answer["Location"]).content.decode()
    assert "23.80 €" in receipt
    assert "ground for a filter" in receipt
    assert Client().get(answer["Location"]).status_code == 404
    assert "Ada" not in client.get("/orders/").content.decode()


def test_an_order_needs_no_note(client: Client, coffee: Product) -> None:
    answer = client.post("/orders/new/", {"product": coffee.pk, "quantity": 1, "customer": "Ada"}, follow=True)
    assert "Your note" not in answer.content.decode()


def test_a_wrong_order_is_refused(client: Client, coffee: Product) -> None:
    answer = client.post("/orders/new/", {"product": coffee.pk, "quantity": 0, "customer": "Ada"})
    assert (answer.status_code, Order.objects.count()) == (400, 0)


def test_the_board_shows_totals(client: Client, coffee: Product) -> None:
    OrderFactory.create(product=coffee, quantity=2)
    assert "23.80 €" in client.get("/orders/").content.decode()


def test_an_account_shows_its_own_orders_only(client: Client, coffee: Product) -> None:
    assert client.get("/account/")["Location"] == "/accounts/login/?next=/account/"
    own, _ = OrderFactory.create(product=coffee, account=AccountFactory.create()), OrderFactory.create(quantity=9)
    assert own.account is not None
    client.force_login(own.account)
    page = client.get("/account/").content.decode()
    assert f"/orders/{own.pk}/" in page
    assert "9 ×" not in page


def test_a_customer_rates_once_and_may_think_again(client: Client, coffee: Product) -> None:
    client.force_login(AccountFactory.create())
    for stars in [2, 5]:
        client.post("/products/nyeri/", {"stars": stars, "text": "lively"})
    assert [rating.stars for rating in Rating.objects.all()] == [5]
    RatingFactory.create(product=coffee, stars=4)
    assert "4.5 of 5" in client.get("/products/nyeri/").content.decode()


def test_guests_cannot_rate(client: Client, coffee: Product) -> None:
    client.post("/products/nyeri/", {"stars": 5})
    assert not Rating.objects.exists()


def test_quote(client: Client, coffee: Product) -> None:
    ask = {"product": "nyeri", "quantity": 3}
    assert client.post("/api/quote/", ask, "application/json").json()["total_cents"] == 3570
    assert client.post("/api/quote/", ["no"], "application/json").status_code == 400


def test_upload_says_what_came_in(client: Client) -> None:
    wanted = {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
    for answer in [
        client.post("/upload", {"file": SimpleUploadedFile("a.txt", b"hello")}),
        client.post("/upload", b"hello", "application/octet-stream"),
    ]:
        assert wanted.items() <= answer.json().items()


@pytest.mark.parametrize("path", ["/slow", "/stream", "/upload"])
def test_diagnostics_can_be_closed(path: str, client: Client, settings: Settings) -> None:
    settings.DIAGNOSTICS = False
    assert client.get(path).status_code == 404


@pytest.mark.parametrize(("asked", "given"), [("0.2", 0.2), ("-1", 0.0), ("nan", 1.0), ("soon", 1.0)])
def test_a_slow_answer_takes_what_was_asked_within_bounds(
    asked: str, given: float, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orders.diagnostics.time.sleep", lambda _: None)
    assert client.get(f"/slow?seconds={asked}").json()["slept"] == given
