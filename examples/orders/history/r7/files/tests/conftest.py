"""What every test may ask for."""

import secrets

import pytest
from django.core.cache import cache

from orders.models import Product

from .factories import ProductFactory


@pytest.fixture(autouse=True)
def _own_cache() -> None:
    """No test sees what another one left in Redis; others use it at the same time, so nothing is cleared."""
    cache.key_prefix = secrets.token_hex(8)


@pytest.fixture
def coffee(db: None) -> Product:
    """A coffee for 11.90 €."""
    return ProductFactory.create(slug="nyeri")
