"""Prices in templates."""

from django import template

register = template.Library()


@register.filter
def euros(cents: int) -> str:
    """Return 1190 as "11.90 €"."""
    return f"{cents // 100}.{cents % 100:02d} €"
