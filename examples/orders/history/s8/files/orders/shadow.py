"""The copy of the orders in the shadow table: filled in batches, beside the trigger."""

from django.db import connection, transaction

# Locked while they are copied: a change waits for the copy, and its trigger then brings it over.
# What the trigger has brought over already is there, and right.
FILL = """
WITH batch AS (
    SELECT * FROM orders_order WHERE id > %s ORDER BY id LIMIT %s FOR UPDATE
), copied AS (
    INSERT INTO orders_order_shadow
    SELECT batch.*, CASE WHEN state = 'confirmed' THEN COALESCE(confirmed_at, taken_at) END FROM batch
    ON CONFLICT DO NOTHING RETURNING id
)
SELECT (SELECT max(id) FROM batch), (SELECT count(*) FROM batch), (SELECT count(*) FROM copied)
"""

DIFFERING = """
SELECT count(*) FROM (
    SELECT *, CASE WHEN state = 'confirmed' THEN COALESCE(confirmed_at, taken_at) END AS archived_at FROM orders_order
) AS used FULL JOIN orders_order_shadow AS shadow USING (id)
WHERE used IS DISTINCT FROM shadow
"""


def fill(after: int, size: int) -> tuple[int, int, int]:
    """Copy up to `size` orders with numbers above `after`: the last number, orders looked at, orders copied."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(FILL, [after, size])
        last, seen, copied = cursor.fetchone()
    return last or after, seen, copied


def differing() -> int:
    """How many orders are not the same in both tables."""
    with connection.cursor() as cursor:
        cursor.execute(DIFFERING)
        return int(cursor.fetchone()[0])
