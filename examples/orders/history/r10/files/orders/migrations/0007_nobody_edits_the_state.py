"""Only forms change: the database has nothing to do."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0006_open_orders")]
    operations = [
        migrations.AlterField("order", "archived_at", models.DateTimeField(blank=True, null=True)),
        migrations.AlterField("order", "confirmed_at", models.DateTimeField(blank=True, editable=False, null=True)),
        migrations.AlterField(
            "order",
            "state",
            models.CharField(
                choices=[("waiting", "waiting"), ("confirmed", "confirmed")],
                db_index=True,
                default="waiting",
                editable=False,
                max_length=12,
            ),
        ),
    ]
