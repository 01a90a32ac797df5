"""The columns of before leave the models, and stay in the database until the release that wrote them is gone."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("orders", "0007_nobody_edits_the_state")]
    operations = [
        # Orders are inserted without it now, and it is NOT NULL.
        migrations.AlterField(
            "order",
            "state",
            models.CharField(
                choices=[("waiting", "waiting"), ("confirmed", "confirmed")],
                db_default="waiting",
                db_index=True,
                default="waiting",
                editable=False,
                max_length=12,
            ),
        ),
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveField("order", "state"),
                migrations.RemoveField("order", "confirmed_at"),
            ]
        ),
    ]
