"""Since when an order is archived; nobody writes it yet."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0004_rating")]
    operations = [
        migrations.AddField("order", "archived_at", models.DateTimeField(blank=True, editable=False, null=True))
    ]
