"""Ratings, and the board's totals."""

from django.contrib.auth import get_user_model
from django.test import TestCase

from orders.models import Order, Product, Rating


class RatingTest(TestCase):
    def test_a_customer_rates_once_and_may_think_again(self) -> None:
        self.client.force_login(get_user_model().objects.create_user("ada"))
        for stars in [2, 5]:
            self.client.post("/products/sidamo/", {"stars": stars, "text": "lively"})
        self.assertEqual([rating.stars for rating in Rating.objects.all()], [5])
        self.assertContains(self.client.get("/products/sidamo/"), "5.0 of 5")

    def test_guests_cannot_rate(self) -> None:
        self.client.post("/products/sidamo/", {"stars": 5})
        self.assertEqual(Rating.objects.count(), 0)


class BoardTest(TestCase):
    def test_the_board_shows_totals(self) -> None:
        Order.objects.create(product=Product.objects.get(slug="sidamo"), quantity=2, customer="Ada")
        self.assertContains(self.client.get("/orders/"), "23.80 €")
