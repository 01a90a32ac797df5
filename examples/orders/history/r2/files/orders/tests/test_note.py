"""Notes with an order."""

from django.test import TestCase


class NoteTest(TestCase):
    def test_the_receipt_shows_the_note(self) -> None:
        order = {"product": 1, "quantity": 1, "customer": "Ada", "note": "ground for a filter"}
        self.assertContains(self.client.post("/orders/new/", order, follow=True), "ground for a filter")

    def test_an_order_needs_no_note(self) -> None:
        order = {"product": 1, "quantity": 1, "customer": "Ada"}
        self.assertNotContains(self.client.post("/orders/new/", order, follow=True), "Your note")
