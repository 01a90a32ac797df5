"""Addresses of the site."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from orders import api, diagnostics, health, views

urlpatterns = [
    path("", views.home, name="home"),
    path("products/<slug:slug>/", views.product, name="product"),
    path("orders/", views.board, name="board"),
    path("orders/new/", views.place, name="place"),
    path("orders/<int:number>/", views.receipt, name="receipt"),
    path("account/", views.account, name="account"),
    path("accounts/login/", LoginView.as_view(), name="login"),
    path("accounts/logout/", LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
    path("api/products/", api.products, name="api-products"),
    path("api/orders/", api.orders, name="api-orders"),
    path("api/quote/", api.quote, name="api-quote"),
    path("healthz", health.healthz),
    path("readiness", health.readiness),
    path("workers", health.workers),
    path("slow", diagnostics.slow),
    path("stream", diagnostics.stream),
    path("upload", diagnostics.upload),
]
