"""Products, orders, and the sign of life of the background workers."""

from datetime import datetime

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse


def progress(archived_at: datetime | None) -> str:
    """How far an order is, in a word."""
    return "confirmed" if archived_at else "waiting"


class Product(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    origin = models.CharField(max_length=80)
    taste = models.CharField(max_length=160)
    price_cents = models.PositiveIntegerField(help_text="per bag of 250 g, in cents")

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("product", args=[self.slug])


class Order(models.Model):
    product = models.ForeignKey(Product, on_delete=models.PROTECT, related_name="orders")
    quantity = models.PositiveSmallIntegerField(default=1, validators=[MinValueValidator(1), MaxValueValidator(40)])
    customer = models.CharField("your name", max_length=80)
    account = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="orders"
    )
    # Null, not only blank: the release before this column inserts orders without it.
    note = models.CharField("note for us", max_length=200, null=True, blank=True)
    taken_at = models.DateTimeField(auto_now_add=True)
    taken_by = models.CharField(max_length=40, blank=True, help_text="release that took the order")
    confirmed_by = models.CharField(max_length=40, blank=True, help_text="release whose worker confirmed it")
    # Null while the order waits.
    archived_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        indexes = [models.Index("id", name="open_orders", condition=models.Q(archived_at__isnull=True))]

    def __str__(self) -> str:
        return f"order {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("receipt", args=[self.pk])

    @property
    def progress(self) -> str:
        """How far it is, in a word."""
        return progress(self.archived_at)

    @property
    def total_cents(self) -> int:
        """Price of the whole order in cents."""
        return self.quantity * self.product.price_cents


class Rating(models.Model):
    product = models.ForeignKey(Product, on_delete=models.CASCADE, related_name="ratings")
    account = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="ratings")
    stars = models.PositiveSmallIntegerField(validators=[MinValueValidator(1), MaxValueValidator(5)])
    text = models.CharField("what is it like?", max_length=200, blank=True)
    at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-at"]
        constraints = [models.UniqueConstraint(fields=["product", "account"], name="one_rating_each")]

    def __str__(self) -> str:
        return f"{self.stars} stars for {self.product}"


class Heartbeat(models.Model):
    """One row per release: when one of its workers last did a task."""

    release = models.CharField(max_length=40, unique=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.release} at {self.at}"
