"""Addresses."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from journal import views

urlpatterns = [
    path("", views.start, name="start"),
    path("notes", views.notes, name="notes"),
    path("sign-in", LoginView.as_view(), name="sign-in"),
    path("sign-out", LogoutView.as_view(), name="sign-out"),
    path("status", views.status),
    path("back-office/", admin.site.urls),
]
