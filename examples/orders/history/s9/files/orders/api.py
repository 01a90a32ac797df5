"""JSON for other programs."""

import json

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from shop.version import VERSION

from .models import Order, Product, progress


@require_safe
def products(request: HttpRequest) -> JsonResponse:
    """All products."""
    fields = Product.objects.values("slug", "name", "origin", "taste", "price_cents")
    return JsonResponse({"version": VERSION, "products": list(fields)})


@require_safe
def orders(request: HttpRequest) -> JsonResponse:
    """The latest orders, without names."""
    latest = Order.objects.values("pk", "product__slug", "quantity", "archived_at")[:30]
    rows = [
        {
            "number": row["pk"],
            "product": row["product__slug"],
            "quantity": row["quantity"],
            "state": progress(row["archived_at"]),
        }
        for row in latest
    ]
    return JsonResponse({"version": VERSION, "count": Order.objects.count(), "orders": rows})


@csrf_exempt  # It changes nothing and looks at no session.
@require_POST
def quote(request: HttpRequest) -> JsonResponse:
    """The price of {"product": slug, "quantity": number}."""
    try:
        wanted = json.loads(request.body)
        quantity = int(wanted["quantity"])
        product = Product.objects.get(slug=str(wanted["product"]))
    except (ValueError, KeyError, TypeError, Product.DoesNotExist):
        return JsonResponse({"error": 'send {"product": "<slug>", "quantity": 1}'}, status=400)
    return JsonResponse({"product": product.slug, "quantity": quantity, "total_cents": quantity * product.price_cents})
