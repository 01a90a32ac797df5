"""Model changes made at random, and whether the verdict on them is true: `python -m tests.schema.corpus.generated SEED COUNT`.

Whatever was not refused is really done; then the models of the live release and of the new one really write and read.
Prints one JSON object: {django, server, counts, wrong: [{pending, …}]}; the texts can be pasted into the corpus.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from bluegreen.schema.service import answer_apart
from tests.schema.corpus import old_code, run
from tests.schema.corpus.case import BASE, Case

# What the base has: model → its fields, and what each is there or nearly is.
FIELDS = {
    "Customer": {
        "name": ("CharField", "max_length=100"), "email": ("EmailField", "max_length=254, null=True"),
        "score": ("IntegerField", "default=0"),
    },
    "Tag": {"word": ("CharField", "max_length=30")},
    "Order": {
        "number": ("CharField", "max_length=20"), "code": ("CharField", "max_length=20, unique=True"),
        "note": ("TextField", "null=True"), "total": ("DecimalField", "max_digits=10, decimal_places=2"),
        "quantity": ("IntegerField", ""), "weight": ("PositiveIntegerField", "default=0"),
        "placed_at": ("DateTimeField", "db_index=True"), "paid": ("BooleanField", "default=False"),
        "customer": ("ForeignKey", '"shop.Customer", models.CASCADE'),
    },
}  # fmt: skip
NEAR = (
    ("max_length=20", "max_length=50"), ("max_length=30", "max_length=10"), ("max_length=100", "max_length=300"),
    ("max_digits=10", "max_digits=14"), ("decimal_places=2", "decimal_places=3"), ("IntegerField", "BigIntegerField"),
    ("null=True", "null=False"), ("unique=True", "unique=False"), ("db_index=True", "db_index=False"),
    ("CharField(max_length=20", "TextField("), ("models.CASCADE", "models.PROTECT"), (")", ", null=True)"),
    (")", ", db_index=True)"), (")", ", unique=True)"), (")", ', help_text="x")'),
    ("default=0", "default=1"), ("models.CASCADE", "models.CASCADE, db_constraint=False"),
)  # fmt: skip
# A field's class, its own arguments, and a value as a default of Python's and of the database's.
KINDS = (
    ("CharField", "max_length=10", '"x"'), ("CharField", "max_length=20", '"x"'), ("CharField", "max_length=40", '"x"'),
    ("TextField", "", '"x"'), ("SmallIntegerField", "", "1"), ("IntegerField", "", "1"), ("BigIntegerField", "", "1"),
    ("PositiveIntegerField", "", "1"), ("BooleanField", "", "False"), ("DecimalField", "max_digits=10, decimal_places=2", "1"),
    ("DecimalField", "max_digits=12, decimal_places=2", "1"), ("DecimalField", "max_digits=8, decimal_places=1", "1"),
    ("DateTimeField", "", '"2026-01-01T00:00Z"'), ("DateField", "", '"2026-01-01"'), ("UUIDField", "", f'"{"0" * 32}"'),
    ("ForeignKey", '"shop.Customer", models.CASCADE, related_name="+"', ""),
)  # fmt: skip
STATE = "migrations.SeparateDatabaseAndState(state_operations=[{}])"
DATABASE = "migrations.SeparateDatabaseAndState(database_operations=[{}])"
# A new rule on rows: whether what the live release writes is hit, a person has to say (test_corpus.py says the same).
MAY_BREAK = {"new-check", "new-foreign-key"}


class Maker:
    """Texts of operations. `db_default`: does this Django have it?"""

    def __init__(self, chance: random.Random, db_default: bool) -> None:
        self.chance, self.db_default, self.number = chance, db_default, 0

    def name(self) -> str:
        self.number += 1
        return f"made_{self.number}"

    def model(self) -> str:
        return self.chance.choice(("Order", "Order", "Customer", "Tag"))

    def field(self) -> str:
        """models.….Field(…) with options that somebody might give."""
        kind, own, value = self.chance.choice(KINDS)
        options = [own] if own else []
        if self.chance.random() < 0.6:
            options.append("null=True")
        if self.chance.random() < 0.15:
            options.append("unique=True")
        elif self.chance.random() < 0.15:
            options.append("db_index=True")
        default = self.chance.random()
        if value and default < 0.3:
            options.append(f"default={value}")
        elif value and default < 0.5 and self.db_default:
            options.append(f"db_default={value}")
        return f"models.{kind}({', '.join(options)})"

    def near(self, model: str, name: str) -> str:
        """The field that is there, with something changed."""
        kind, options = FIELDS[model][name]
        text = f"models.{kind}({options})".replace("(, ", "(")
        old, new = self.chance.choice([pair for pair in NEAR if pair[0] in text])
        return text.replace(old, new, 1).replace("(, ", "(")

    def operation(self) -> str:
        """One operation; some are done to the models only, or to the database only."""
        kinds: tuple[Callable[[str, str], str], ...] = (
            lambda m, f: f'migrations.AddField("{m}", "{self.name()}", {self.field()})',
            lambda m, f: f'migrations.AlterField("{m}", "{f}", {self.field()})',
            lambda m, f: f'migrations.AlterField("{m}", "{f}", {self.near(m, f)})',
            lambda m, f: f'migrations.RemoveField("{m}", "{f}")',
            lambda m, f: f'migrations.RenameField("{m}", "{f}", "{self.name()}")',
            lambda m, f: f'migrations.AddIndex("{m}", models.Index(fields=["{f}"], name="{self.name()}"))',
            lambda m, f: (
                f'migrations.AddConstraint("{m}", models.UniqueConstraint(fields=["{f}"], name="{self.name()}"))'
            ),
            lambda m, f: f'migrations.AlterUniqueTogether("{m}", {{("id", "{f}")}})',
            lambda m, f: f'migrations.AlterModelTable("{m}", "shop_{self.name()}")',
            lambda m, f: f'migrations.RenameModel("{m}", "Renamed{m}")',
            lambda m, f: 'migrations.DeleteModel("Order")',
            lambda m, f: 'migrations.RemoveConstraint("Order", "order_per_customer")',
            lambda m, f: 'migrations.RemoveIndex("Order", "order_number")',
            lambda m, f: (
                f'migrations.CreateModel("{self.name().title()}", [("id", models.BigAutoField(primary_key=True)), '
                f'("{f}", {self.field()})])'
            ),
            lambda m, f: self.sql(f"shop_{m.lower()}", "customer_id" if f == "customer" else f),
        )
        weights = (14, 5, 16, 4, 3, 4, 2, 3, 1, 1, 1, 1, 2, 4, 6)
        model = self.model()
        text = self.chance.choices(kinds, weights)[0](model, self.chance.choice(list(FIELDS[model])))
        if "RunSQL" in text:
            return text
        return self.chance.choices((text, STATE.format(text), DATABASE.format(text)), (8, 1, 1))[0]

    def sql(self, table: str, column: str) -> str:
        """A statement that its author can take back."""
        head = f"ALTER TABLE {table} ALTER COLUMN {column}"
        forth, back = self.chance.choice(
            (
                (f"{head} DROP NOT NULL", f"{head} SET NOT NULL"),
                (f"{head} SET NOT NULL", f"{head} DROP NOT NULL"),
                (f"{head} TYPE text", f"{head} TYPE varchar(20)"),
                (f"{head} TYPE varchar(30)", f"{head} TYPE varchar(20)"),
                (f"{head} TYPE bigint USING 1", f"{head} TYPE integer"),
                (f"ALTER TABLE {table} DROP COLUMN {column} CASCADE", f"ALTER TABLE {table} ADD COLUMN {column} text"),
                (f"ALTER TABLE {table} ADD CHECK ({column} IS NOT NULL)", "SELECT 1"),
                (f"ALTER TABLE {table} RENAME COLUMN {column} TO other", f"ALTER TABLE {table} RENAME other TO {column}"),
                (f"CREATE UNIQUE INDEX ON {table} ({column})", "SELECT 1"),
            )
        )  # fmt: skip
        return f'migrations.RunSQL("{forth}", "{back}")'

    def case(self, number: int) -> Case:
        """One or two migrations of one to three operations."""
        texts = [
            "\n".join(f"{self.operation()}," for _ in range(self.chance.choice((1, 1, 1, 2))))
            for _ in range(self.chance.choice((1, 1, 1, 2)))
        ]
        large = ("shop_order", "shop_customer") if self.chance.random() < 0.3 else ()
        return Case(f"made_{number}", "", "", tuple(texts), base=BASE, large=large)


def late_works(case: Case, said: dict[str, Any], bases: run.Bases, connection: Any) -> str:
    """Where code may go first: what of the new release breaks on the schema before, once the bridge is there."""
    with bases.place(case.base, False) as state:
        after = state.clone()
        for text in case.migrations:
            after = run.migration(text, "pending").mutate_state(after, preserve=False)
        with connection.cursor() as cursor:
            for statement in said["bridge"]:
                cursor.execute(statement)
        return old_code.works(after.apps, connection)


def wrong(case: Case, said: dict[str, Any], bases: run.Bases, connection: Any) -> str:
    """What the verdict promised and did not keep; nothing if it is true."""
    if said["before"]:
        return f"the base does not work: {said['before']}"
    if said["verdict"] != "refused" and not MAY_BREAK & set(said["all_rules"]):
        if said["broke"]:
            return f"{said['verdict']}, and the live release: {said['broke']}"
        if said["broke_new"]:
            return f"{said['verdict']}, and the new release: {said['broke_new']}"
    if said["verdict"] != "safe" and said["static"] == "safe" and not said["failed"]:
        return f"{said['verdict']}, and safe without a shadow"
    if said["late"] == [True] and (problem := late_works(case, said, bases, connection)):
        return f"late possible, and the new release before it: {problem}"
    return ""


def made(seed: int, count: int) -> dict[str, Any]:
    """Makes and tries `count` of them."""
    found: Counter[str] = Counter()
    bad: list[dict[str, Any]] = []
    with run.place() as (connection, wall, bases):
        import django

        maker = Maker(random.Random(seed), django.VERSION[:2] >= (5, 0))
        number = 0
        while number < count:
            case = maker.case(number)
            try:
                said = run.try_case(case, bases, connection, wall)
            except Exception as problem:
                found["no migration at all"] += 1
                if found["no migration at all"] > 10 * count:
                    raise RuntimeError("nearly nothing that was made is a migration") from problem
                continue
            number += 1
            found[said["verdict"]] += 1
            found["late possible"] += said["late"] == [True]
            found["refused and seen to break"] += said["verdict"] == "refused" and bool(
                said["broke"] or said["broke_new"] or said["failed"]
            )
            found["broke"] += bool(said["broke"] or said["broke_new"])
            if problem := wrong(case, said, bases, connection):
                bad.append({"pending": case.migrations, "large": case.large, "wrong": problem, "lines": said["lines"]})
        version = connection.cursor().execute("SHOW server_version").fetchone()[0]
    return {"django": ".".join(map(str, django.VERSION[:3])), "server": version, "counts": found, "wrong": bad}


if __name__ == "__main__":
    with answer_apart() as write:
        write(json.dumps(made(int(sys.argv[1]), int(sys.argv[2]))))
