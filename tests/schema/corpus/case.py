"""One labelled migration. The texts are the operations of a migration's file; `shop` is the application."""

from __future__ import annotations

from dataclasses import dataclass

SAFE, APPROVAL, REFUSED = "safe", "needs_approval", "refused"

# The schema and the models of the live release, where a case names no others.
BASE = """
    migrations.CreateModel("Customer", [
        ("id", models.BigAutoField(primary_key=True)),
        ("name", models.CharField(max_length=100)),
        ("email", models.EmailField(max_length=254, null=True)),
        ("score", models.IntegerField(default=0)),
    ]),
    migrations.CreateModel("Tag", [("id", models.AutoField(primary_key=True)), ("word", models.CharField(max_length=30))]),
    migrations.CreateModel("Order", [
        ("id", models.BigAutoField(primary_key=True)),
        ("number", models.CharField(max_length=20)),
        ("code", models.CharField(max_length=20, unique=True)),
        ("note", models.TextField(null=True)),
        ("total", models.DecimalField(max_digits=10, decimal_places=2)),
        ("quantity", models.IntegerField()),
        ("weight", models.PositiveIntegerField(default=0)),
        ("placed_at", models.DateTimeField(db_index=True)),
        ("paid", models.BooleanField(default=False)),
        ("customer", models.ForeignKey("shop.Customer", models.CASCADE)),
        ("tags", models.ManyToManyField("shop.Tag")),
    ], options={
        "indexes": [models.Index(fields=["number"], name="order_number")],
        "constraints": [models.UniqueConstraint(fields=["number", "customer"], name="order_per_customer")],
    }),
"""


@dataclass(frozen=True)
class Case:
    """`label`: what the policy says, decided before any tool saw it; `why`: because of what.

    `pending`: one text for each migration; those whose position is in `loose` have atomic = False. `prelude`: code above
    the class. `base`: operations that made the schema; the live release's models are the state after it, and after
    `live` (operations on the state only). `new`: operations on the state only, after the pending ones: what the new
    release's models are beyond them. `large`: tables of a million rows. `rules`: must be among the reasons.
    """

    name: str
    label: str
    why: str
    pending: str | tuple[str, ...]
    rules: tuple[str, ...] = ()
    loose: tuple[int, ...] = ()
    prelude: str = ""
    base: str = BASE
    live: str = ""
    new: str = ""
    large: tuple[str, ...] = ()
    django: tuple[int, int] = (4, 2)

    @property
    def migrations(self) -> tuple[str, ...]:
        return (self.pending,) if isinstance(self.pending, str) else self.pending
