"""Products, orders, heartbeats."""

import django.core.validators
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = [migrations.swappable_dependency(settings.AUTH_USER_MODEL)]

    operations = [
        migrations.CreateModel(
            name="Heartbeat",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("release", models.CharField(max_length=40, unique=True)),
                ("at", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            name="Product",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("slug", models.SlugField(unique=True)),
                ("name", models.CharField(max_length=80)),
                ("origin", models.CharField(max_length=80)),
                ("taste", models.CharField(max_length=160)),
                ("price_cents", models.PositiveIntegerField(help_text="per bag of 250 g, in cents")),
            ],
            options={"ordering": ["name"]},
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "quantity",
                    models.PositiveSmallIntegerField(
                        default=1,
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(40),
                        ],
                    ),
                ),
                ("customer", models.CharField(max_length=80, verbose_name="your name")),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "waiting"), ("confirmed", "confirmed")],
                        db_index=True,
                        default="waiting",
                        max_length=12,
                    ),
                ),
                ("taken_at", models.DateTimeField(auto_now_add=True)),
                ("taken_by", models.CharField(blank=True, help_text="release that took the order", max_length=40)),
                ("confirmed_at", models.DateTimeField(blank=True, null=True)),
                (
                    "confirmed_by",
                    models.CharField(blank=True, help_text="release whose worker confirmed it", max_length=40),
                ),
                (
                    "account",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="orders",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "product",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="orders", to="orders.product"
                    ),
                ),
            ],
            options={"ordering": ["-pk"]},
        ),
    ]
