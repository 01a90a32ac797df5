"""The admin."""

from django.contrib import admin

from .models import Heartbeat, Order, Product


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "origin", "price_cents"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ["pk", "product", "quantity", "customer", "state", "taken_at"]
    list_filter = ["state", "product"]
    search_fields = ["customer"]


@admin.register(Heartbeat)
class HeartbeatAdmin(admin.ModelAdmin):
    list_display = ["release", "at"]
