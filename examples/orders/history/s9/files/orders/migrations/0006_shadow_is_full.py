"""Refuses to go on while an order is missing: afterwards the trigger keeps it so."""

from django.db import migrations

CHECK = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM orders_order AS used WHERE NOT EXISTS (
        SELECT FROM orders_order_shadow AS shadow WHERE shadow.id = used.id
    )) THEN
        RAISE EXCEPTION 'the shadow table is not full: manage.py fill_shadow has to be through first';
    END IF;
END $$
"""


class Migration(migrations.Migration):
    dependencies = [("orders", "0005_order_shadow")]
    operations = [migrations.RunSQL(CHECK, migrations.RunSQL.noop)]
