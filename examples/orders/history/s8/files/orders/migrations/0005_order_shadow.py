"""A table of the new shape beside the one in use, and a trigger that brings over what changes there.

It has no foreign keys yet: those of the table in use hold for it too.
"""

from django.db import migrations

TABLE = """
CREATE TABLE orders_order_shadow (LIKE orders_order INCLUDING ALL);
ALTER TABLE orders_order_shadow
    ALTER COLUMN state SET DEFAULT 'waiting',
    ADD COLUMN archived_at timestamp with time zone;
CREATE INDEX open_orders ON orders_order_shadow (id) WHERE archived_at IS NULL;
"""

TRIGGER = """
CREATE FUNCTION orders_order_to_shadow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM orders_order_shadow WHERE id = OLD.id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO orders_order_shadow
        SELECT NEW.*, CASE WHEN NEW.state = 'confirmed' THEN COALESCE(NEW.confirmed_at, NEW.taken_at) END;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER to_shadow AFTER INSERT OR UPDATE OR DELETE ON orders_order
    FOR EACH ROW EXECUTE FUNCTION orders_order_to_shadow();
"""


class Migration(migrations.Migration):
    dependencies = [("orders", "0004_rating")]
    operations = [
        migrations.RunSQL(TABLE, "DROP TABLE orders_order_shadow"),
        migrations.RunSQL(TRIGGER, "DROP TRIGGER to_shadow ON orders_order; DROP FUNCTION orders_order_to_shadow"),
    ]
