"""What is there already is checked without a lock that anybody feels."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("orders", "0007_swap")]
    operations = [
        migrations.RunSQL(
            f"ALTER TABLE orders_order VALIDATE CONSTRAINT orders_order_of_{column}", migrations.RunSQL.noop
        )
        for column in ("product", "account")
    ]
