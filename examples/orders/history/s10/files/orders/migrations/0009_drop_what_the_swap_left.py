"""The columns, the trigger and the table of before go; the way back is a snapshot."""

from django.db import migrations

DROP = """
DROP TRIGGER same ON orders_order;
DROP FUNCTION orders_order_same;
ALTER TABLE orders_order DROP COLUMN state, DROP COLUMN confirmed_at;
DROP TABLE orders_order_before;
"""


class Migration(migrations.Migration):
    dependencies = [("orders", "0008_validate")]
    operations = [migrations.RunSQL(DROP)]
