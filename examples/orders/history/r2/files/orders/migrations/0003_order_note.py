"""A note that customers may leave with an order."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0002_first_products")]
    operations = [
        migrations.AddField(
            model_name="order",
            name="note",
            field=models.CharField(blank=True, max_length=200, null=True, verbose_name="note for us"),
        )
    ]
