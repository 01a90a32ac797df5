"""Makers of what the tests talk about."""

from django.contrib.auth import get_user_model
from factory.declarations import LazyAttribute, Sequence, SubFactory
from factory.django import DjangoModelFactory

from orders.models import Order, Product, Rating


class ProductFactory(DjangoModelFactory[Product]):
    class Meta:
        model = Product

    slug = Sequence(lambda number: f"coffee-{number}")
    name = LazyAttribute(lambda product: product.slug.replace("-", " ").title())
    origin = "Kenya"
    taste = "Blackcurrant, tomato, long"
    price_cents = 1190


class AccountFactory(DjangoModelFactory):  # which model it is, the settings say
    class Meta:
        model = get_user_model()

    username = Sequence(lambda number: f"customer-{number}")


class OrderFactory(DjangoModelFactory[Order]):
    class Meta:
        model = Order

    product = SubFactory(ProductFactory)
    customer = "Ada"


class RatingFactory(DjangoModelFactory[Rating]):
    class Meta:
        model = Rating

    product = SubFactory(ProductFactory)
    account = SubFactory(AccountFactory)
    stars = 4
