"""The admin."""

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest

from .models import Heartbeat, Order, Product, Rating


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "origin", "price_cents"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["pk", "product", "quantity", "customer", "archived_at", "taken_at"]
    list_filter = [("archived_at", admin.EmptyFieldListFilter), "product"]
    search_fields = ["customer"]

    def save_model(self, request: HttpRequest, obj: Order, form: ModelForm, change: bool) -> None:
        """The state follows, for the release before."""
        obj.state = Order.State.CONFIRMED if obj.archived_at else Order.State.WAITING
        obj.confirmed_at = obj.archived_at
        super().save_model(request, obj, form, change)


@admin.register(Rating)
class RatingAdmin(admin.ModelAdmin):
    list_display = ["product", "account", "stars", "text"]


@admin.register(Heartbeat)
class HeartbeatAdmin(admin.ModelAdmin):
    list_display = ["release", "at"]
