"""Forms."""

from django import forms

from .models import Order, Rating


class OrderForm(forms.ModelForm):
    class Meta:
        model = Order
        fields = ["product", "quantity", "customer", "note"]


class RatingForm(forms.ModelForm):
    class Meta:
        model = Rating
        fields = ["stars", "text"]
