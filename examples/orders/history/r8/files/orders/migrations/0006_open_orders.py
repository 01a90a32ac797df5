"""The orders that are not archived: few, however many there have been."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("orders", "0005_order_archived_at")]
    operations = [
        AddIndexConcurrently(
            "order", models.Index("id", name="open_orders", condition=models.Q(archived_at__isnull=True))
        )
    ]
