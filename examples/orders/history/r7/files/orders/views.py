"""Pages."""

import logging

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.core.cache import cache
from django.db import transaction
from django.db.models import Avg, F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_safe
from kombu.exceptions import OperationalError

from .forms import OrderForm, RatingForm
from .models import Order, Product, Rating
from .tasks import confirm_order

logger = logging.getLogger(__name__)


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    """All products; their list is cached for a minute."""
    # The key names the release: another release may know other fields of a product.
    products = cache.get_or_set(f"products-{settings.RELEASE}", lambda: list(Product.objects.all()), 60)
    return render(request, "orders/home.html", {"products": products})


def product(request: HttpRequest, slug: str) -> HttpResponse:
    """One product and its ratings; whoever is signed in may rate it, once."""
    product = get_object_or_404(Product, slug=slug)
    form = RatingForm(request.POST or None)
    if request.method == "POST" and request.user.is_authenticated and form.is_valid():
        Rating.objects.update_or_create(product=product, account=request.user, defaults=form.cleaned_data)
        return redirect(product)
    ratings = product.ratings.select_related("account")
    context = {"product": product, "form": form, "ratings": ratings[:20], "stars": ratings.aggregate(Avg("stars"))}
    return render(request, "orders/product.html", context, status=400 if form.is_bound else 200)


@require_safe
def board(request: HttpRequest) -> HttpResponse:
    """The latest orders, as the screen above the counter shows them: without names."""
    orders = Order.objects.select_related("product").annotate(cents=F("quantity") * F("product__price_cents"))
    return render(request, "orders/board.html", {"orders": orders[:30]})


def place(request: HttpRequest) -> HttpResponse:
    """The order form; guests may order too."""
    initial = {"product": Product.objects.filter(slug=request.GET.get("product", "")).first()}
    form = OrderForm(request.POST or None, initial=initial)
    if not form.is_valid():
        return render(request, "orders/place.html", {"form": form}, status=400 if form.is_bound else 200)
    order = form.save(commit=False)
    order.account = request.user if request.user.is_authenticated else None
    order.taken_by = settings.RELEASE or "local"
    order.save()
    transaction.on_commit(lambda: ask_for_confirmation(order.pk))
    request.session["placed"] = [*request.session.get("placed", [])[-19:], order.pk]
    return redirect(order)


def ask_for_confirmation(number: int) -> None:
    """Hand the order to a worker; without a broker it stays waiting and tasks.confirm_waiting finds it."""
    try:
        confirm_order.delay(number)
    except OperationalError:
        logger.warning("no broker: order %s waits", number)


@require_safe
def receipt(request: HttpRequest, number: int) -> HttpResponse:
    """One order, for whoever placed it."""
    order = get_object_or_404(Order.objects.select_related("product"), pk=number)
    own = request.user.is_authenticated and order.account_id == request.user.pk
    if not own and number not in request.session.get("placed", []):
        return render(request, "orders/not_yours.html", status=404)
    return render(request, "orders/receipt.html", {"order": order})


@require_safe
@login_required
def account(request: HttpRequest) -> HttpResponse:
    """The orders of the signed-in customer."""
    orders = Order.objects.filter(account=request.user.pk).select_related("product")
    return render(request, "orders/account.html", {"orders": orders[:50]})
