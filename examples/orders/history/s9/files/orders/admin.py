"""The admin."""

from django.contrib import admin

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


@admin.register(Rating)
class RatingAdmin(admin.ModelAdmin):
    list_display = ["product", "account", "stars", "text"]


@admin.register(Heartbeat)
class HeartbeatAdmin(admin.ModelAdmin):
    list_display = ["release", "at"]
