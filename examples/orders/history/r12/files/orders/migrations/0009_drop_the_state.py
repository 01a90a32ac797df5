"""The data goes: everything in it is in archived_at too, so that the way back can fill the columns again."""

from django.db import migrations

BACK = (
    """ALTER TABLE orders_order ADD COLUMN state varchar(12) NOT NULL DEFAULT 'waiting',
        ADD COLUMN confirmed_at timestamp with time zone""",
    "UPDATE orders_order SET state = 'confirmed', confirmed_at = archived_at WHERE archived_at IS NOT NULL",
    "CREATE INDEX orders_order_state_fbeebb0f ON orders_order (state)",
    "CREATE INDEX orders_order_state_fbeebb0f_like ON orders_order (state varchar_pattern_ops)",
)


class Migration(migrations.Migration):
    dependencies = [("orders", "0008_forget_the_state")]
    operations = [migrations.RunSQL("ALTER TABLE orders_order DROP COLUMN state, DROP COLUMN confirmed_at", BACK)]
