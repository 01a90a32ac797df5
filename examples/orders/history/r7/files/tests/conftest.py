"""What every test may ask for."""

from collections.abc import Iterator

import pytest
from django.core.cache import cache

from orders.models import Product

from .factories import ProductFactory


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """No test sees what another one left in Redis."""
    yield
    cache.clear()


@pytest.fixture
def coffee(db: None) -> Product:
    """A coffee for 11.90 €."""
    return ProductFactory.create(slug="nyeri")
