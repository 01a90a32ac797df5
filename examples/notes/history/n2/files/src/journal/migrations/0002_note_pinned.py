"""Notes can be pinned; the default is the database's own."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("journal", "0001_initial")]
    operations = [
        migrations.AddField(
            model_name="note",
            name="pinned",
            field=models.BooleanField(db_default=False, default=False, verbose_name="keep on top"),
        ),
        migrations.AlterModelOptions(name="note", options={"ordering": ["-pinned", "-pk"]}),
    ]
