"""The shadow takes the name. Nothing is read or copied under the lock."""

from django.db import migrations, models

SWAP = """
LOCK TABLE orders_order, orders_order_shadow IN ACCESS EXCLUSIVE MODE;
DROP TRIGGER to_shadow ON orders_order;
DROP FUNCTION orders_order_to_shadow;
SELECT setval(
    pg_get_serial_sequence('orders_order_shadow', 'id'),
    nextval(pg_get_serial_sequence('orders_order', 'id'))
);
ALTER TABLE orders_order RENAME TO orders_order_before;
ALTER TABLE orders_order_shadow RENAME TO orders_order;
ALTER TABLE orders_order
    ADD CONSTRAINT orders_order_of_product FOREIGN KEY (product_id) REFERENCES orders_product
        DEFERRABLE INITIALLY DEFERRED NOT VALID,
    ADD CONSTRAINT orders_order_of_account FOREIGN KEY (account_id) REFERENCES auth_user
        DEFERRABLE INITIALLY DEFERRED NOT VALID;
DO $$ DECLARE one record; BEGIN
    -- Nobody keeps the table of before: an account that is deleted must not be held by it.
    FOR one IN SELECT conname FROM pg_constraint WHERE conrelid = 'orders_order_before'::regclass AND contype = 'f' LOOP
        EXECUTE format('ALTER TABLE orders_order_before DROP CONSTRAINT %I', one.conname);
    END LOOP;
END $$;
CREATE FUNCTION orders_order_same() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.archived_at IS DISTINCT FROM OLD.archived_at
        OR TG_OP = 'INSERT' AND NEW.archived_at IS NOT NULL THEN
        NEW.state := CASE WHEN NEW.archived_at IS NULL THEN 'waiting' ELSE 'confirmed' END;
        NEW.confirmed_at := NEW.archived_at;
    ELSE
        NEW.archived_at := CASE WHEN NEW.state = 'confirmed' THEN COALESCE(NEW.confirmed_at, NEW.taken_at) END;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER same BEFORE INSERT OR UPDATE ON orders_order FOR EACH ROW EXECUTE FUNCTION orders_order_same();
"""


class Migration(migrations.Migration):
    dependencies = [("orders", "0006_shadow_is_full")]
    operations = [
        # The way back is the code of before: it fits this table, and the trigger keeps both in step.
        migrations.RunSQL(SWAP, migrations.RunSQL.noop),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField("order", "state"),
                migrations.RemoveField("order", "confirmed_at"),
                migrations.AddField("order", "archived_at", models.DateTimeField(blank=True, null=True)),
                migrations.AddIndex(
                    "order", models.Index("id", name="open_orders", condition=models.Q(archived_at__isnull=True))
                ),
            ]
        ),
    ]
