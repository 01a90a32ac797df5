"""The application from the outside: python manage.py test --settings shop.settings_test"""

import asyncio
import hashlib
import os
from datetime import timedelta
from io import StringIO
from unittest import mock

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.utils import timezone
from kombu.exceptions import OperationalError

from orders.models import Order, Product
from orders.tasks import confirm_order, confirm_waiting
from shop.asgi import application
from shop.environment import database


class PagesTest(TestCase):
    def test_every_public_page_answers(self) -> None:
        pages = ["/", "/products/sidamo/", "/orders/", "/orders/new/", "/accounts/login/", "/upload"]
        machines = [
            "/api/products/",
            "/api/orders/",
            "/healthz",
            "/readiness",
            "/workers",
            "/slow?seconds=0",
            "/stream",
        ]
        for path in pages + machines:
            with self.subTest(path):
                self.assertEqual(self.client.get(path).status_code, 200)

    def test_an_ordered_coffee_is_confirmed_and_only_its_customer_sees_the_receipt(self) -> None:
        sidamo = Product.objects.get(slug="sidamo")
        with self.captureOnCommitCallbacks(execute=True):
            answer = self.client.post("/orders/new/", {"product": sidamo.pk, "quantity": 2, "customer": "Ada"})
        order = Order.objects.get()
        self.assertRedirects(answer, f"/orders/{order.pk}/")
        self.assertEqual(order.state, Order.State.CONFIRMED)
        self.assertContains(self.client.get(f"/orders/{order.pk}/"), "23.80 €")
        self.assertEqual(self.client_class().get(f"/orders/{order.pk}/").status_code, 404)
        self.assertNotContains(self.client.get("/orders/"), "Ada")

    def test_a_wrong_order_is_refused(self) -> None:
        answer = self.client.post("/orders/new/", {"product": 1, "quantity": 0, "customer": "Ada"})
        self.assertEqual((answer.status_code, Order.objects.count()), (400, 0))

    def test_account_asks_to_sign_in(self) -> None:
        self.assertRedirects(self.client.get("/account/"), "/accounts/login/?next=/account/")

    def test_quote(self) -> None:
        ask = {"product": "sidamo", "quantity": 3}
        self.assertEqual(self.client.post("/api/quote/", ask, "application/json").json()["total_cents"], 3570)
        self.assertEqual(self.client.post("/api/quote/", ["no"], "application/json").status_code, 400)

    def test_upload_says_what_came_in(self) -> None:
        wanted = {"bytes": 5, "sha256": hashlib.sha256(b"hello").hexdigest()}
        for answer in [
            self.client.post("/upload", {"file": SimpleUploadedFile("a.txt", b"hello")}),
            self.client.post("/upload", b"hello", "application/octet-stream"),
        ]:
            self.assertLessEqual(wanted.items(), answer.json().items())

    @override_settings(DIAGNOSTICS=False)
    def test_diagnostics_can_be_closed(self) -> None:
        for path in ["/slow", "/stream", "/upload"]:
            self.assertEqual(self.client.get(path).status_code, 404)


class WorkTest(TestCase):
    def test_an_order_is_confirmed_once(self) -> None:
        order = Order.objects.create(product=Product.objects.all()[0], customer="Ada")
        self.assertEqual([confirm_order(order.pk), confirm_order(order.pk)], [True, False])

    def test_overlooked_orders_are_found(self) -> None:
        old, new = (Order.objects.create(product=Product.objects.all()[0], customer="Ada") for _ in range(2))
        Order.objects.filter(pk=old.pk).update(taken_at=timezone.now() - timedelta(minutes=1))
        self.assertEqual(confirm_waiting(), 1)
        new.refresh_from_db()
        self.assertEqual(new.state, Order.State.WAITING)

    def test_an_order_is_kept_when_the_broker_is_away(self) -> None:
        away = mock.patch("orders.tasks.confirm_order.delay", side_effect=OperationalError)
        with away, self.captureOnCommitCallbacks(execute=True):
            self.client.post("/orders/new/", {"product": 1, "quantity": 1, "customer": "Ada"})
        self.assertEqual(Order.objects.get().state, Order.State.WAITING)

    def test_readiness_names_the_part_that_fails(self) -> None:
        with mock.patch("orders.health.cache.get", side_effect=OSError):
            answer = self.client.get("/readiness")
        self.assertEqual((answer.status_code, answer.json()["cache"]), (503, "does not answer"))

    def test_silent_workers_are_reported(self) -> None:
        with mock.patch("orders.tasks.heartbeat.apply_async"), mock.patch("orders.health.PATIENCE", 0):
            self.assertEqual(self.client.get("/workers").status_code, 503)


class StreamTest(SimpleTestCase):
    def test_a_stream_comes_line_by_line_and_says_its_end(self) -> None:
        answer = self.client.get("/stream?seconds=0.4")
        self.assertEqual([line[:1] for line in answer], [b"0", b"1", b"e"])

    async def test_it_does_so_under_asgi(self) -> None:
        answer = await self.async_client.get("/stream?seconds=0.4")
        self.assertTrue(answer.is_async)
        self.assertEqual([line[:1] async for line in answer], [b"0", b"1", b"e"])


class WebsocketTest(SimpleTestCase):
    def talk(self, path: str) -> list[str]:
        words = [{"type": f"websocket.{kind}", "text": "flat white"} for kind in ("connect", "receive", "disconnect")]
        said: list[str] = []

        async def receive() -> dict[str, str]:
            return words.pop(0)

        async def send(message: dict[str, str]) -> None:
            said.append(message.get("text") or message["type"])

        asyncio.run(application({"type": "websocket", "path": path}, receive, send))
        return said

    def test_a_websocket_gives_back_what_it_gets(self) -> None:
        self.assertEqual(self.talk("/ws/echo"), ["websocket.accept", "flat white"])

    def test_no_other_address_has_one(self) -> None:
        self.assertEqual(self.talk("/"), ["websocket.close"])
        with override_settings(DIAGNOSTICS=False):
            self.assertEqual(self.talk("/ws/echo"), ["websocket.close"])


class AccountTest(TransactionTestCase):
    def ensure(self, password: str) -> str:
        with mock.patch.dict(os.environ, SMOKE_PASSWORD=password):
            call_command("ensure_account", stdout=(out := StringIO()))
        return out.getvalue().strip()

    def test_ensure_account_may_run_again_and_again(self) -> None:
        said = [self.ensure(password) for password in ["first", "first", "second"]]
        self.assertEqual(said, ["smoke: created", "smoke: unchanged", "smoke: updated"])
        self.assertTrue(self.client.login(username="smoke", password="second"))
        self.assertFalse(get_user_model().objects.get().is_staff)
        self.assertContains(self.client.get("/account/"), "smoke")

    def test_ensure_account_needs_a_password(self) -> None:
        with self.assertRaises(CommandError):
            call_command("ensure_account")

    def test_migrate_makes_the_account(self) -> None:
        with mock.patch.dict(os.environ, SMOKE_PASSWORD="first"):
            call_command("migrate", verbosity=0)
        self.assertTrue(self.client.login(username="smoke", password="first"))


class EnvironmentTest(SimpleTestCase):
    def test_database_addresses(self) -> None:
        postgres = database("postgres://ada:p%40ss@db.example.org:5433/shop?sslmode=require")
        self.assertEqual(
            [postgres[key] for key in ("USER", "PASSWORD", "HOST", "PORT", "NAME")],
            ["ada", "p@ss", "db.example.org", "5433", "shop"],
        )
        self.assertEqual(database("sqlite:////srv/x.sqlite3")["NAME"], "/srv/x.sqlite3")
        with self.assertRaises(ImproperlyConfigured):
            database("mysql://somewhere")
