"""The admin."""

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from . import archive
from .models import Heartbeat, Order, Product, Rating


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "origin", "price_cents"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["pk", "product", "quantity", "customer", "state", "taken_at"]
    list_filter = ["state", "product"]
    search_fields = ["customer"]

    def save_model(self, request: HttpRequest, obj: Order, form: ModelForm, change: bool) -> None:
        """The state may be changed by hand here: the archive follows."""
        if archive.writes():
            archived = obj.state == Order.State.CONFIRMED
            obj.archived_at = (obj.confirmed_at or obj.taken_at or timezone.now()) if archived else None
        super().save_model(request, obj, form, change)


@admin.register(Rating)
class RatingAdmin(admin.ModelAdmin):
    list_display = ["product", "account", "stars", "text"]


@admin.register(Heartbeat)
class HeartbeatAdmin(admin.ModelAdmin):
    list_display = ["release", "at"]
