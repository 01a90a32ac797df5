"""A release at work: its models write and read two rows in every table of theirs, on whatever schema is there."""

from __future__ import annotations

import datetime
import decimal
import graphlib
import uuid
from typing import Any

WHEN = datetime.datetime(2026, 1, 15, 12, tzinfo=datetime.UTC)


class Differs(Exception):
    """What was read is not what was written."""


def works(apps: Any, connection: Any) -> str:
    """What broke first, as one line; nothing if all of it worked. What it wrote is undone."""
    from django.db import Error, transaction

    models = [m for m in apps.get_models() if not m._meta.proxy]
    made: dict[Any, list[Any]] = {}
    try:
        with transaction.atomic():
            for model in _in_order(models):
                if model._meta.managed and not model._meta.parents:
                    made[model._meta.label] = [_write(model, made, row) for row in (1, 2)]
                list(model.objects.all())
            for model in (one for one in models if one._meta.label in made):
                rows = made[model._meta.label]
                for field in model._meta.local_many_to_many:
                    getattr(rows[0], field.name).add(made[field.remote_field.model._meta.label][0])
                    list(getattr(rows[0], field.name).all())
            connection.check_constraints()
            transaction.set_rollback(True)
    except (Error, Differs) as problem:
        return f"{type(problem).__name__}: {str(problem).splitlines()[0]}"
    return ""


def _in_order(models: list[Any]) -> list[Any]:
    """Those that others refer to come first."""
    waits = {
        m._meta.label: {f.remote_field.model._meta.label for f in m._meta.local_fields if f.remote_field and not f.null}
        - {m._meta.label}
        for m in models
    }
    order = graphlib.TopologicalSorter(waits).static_order()
    by_label = {m._meta.label: m for m in models}
    return [by_label[label] for label in order if label in by_label]


def _write(model: Any, made: dict[Any, list[Any]], row: int) -> Any:
    """The first row has a value everywhere, the second one NULL where the models allow it."""
    one = model()
    varied = {field.name for field in model._meta.local_fields if field.unique}
    for names in [*model._meta.unique_together, *(c.fields for c in model._meta.constraints if hasattr(c, "fields"))]:
        varied |= set(names[:1])
    for field in model._meta.local_fields:
        if field.auto_created or getattr(field, "generated", False) or type(field).__name__.endswith("AutoField"):
            continue
        if row == 2 and field.null and field.name not in varied:
            value: Any = None
        elif field.remote_field is not None:
            others = made.get(field.remote_field.model._meta.label) or [None, None]
            value = others[row - 1 if field.name in varied else 0]
        else:
            value = _value(field, row if field.name in varied else 1)
        setattr(one, field.name, value)
    one.save(force_insert=True)
    one.save()
    there = model.objects.get(pk=one.pk)
    for field in model._meta.local_concrete_fields:
        if getattr(there, field.attname) != getattr(one, field.attname) and not getattr(field, "generated", False):
            raise Differs(
                f"{field.column} was written as {getattr(one, field.attname)!r:.30} and is {getattr(there, field.attname)!r:.30}"
            )
    return one


def _value(field: Any, row: int) -> Any:
    """As large as the field takes, so that a narrower column shows; numbers are positive."""
    kind = field.get_internal_type()
    if kind in ("CharField", "TextField", "EmailField"):
        return ("x" * ((field.max_length or 500) - 1)) + str(row)
    if kind == "DecimalField":
        return decimal.Decimal("9" * (field.max_digits - field.decimal_places) + f".{row:0{field.decimal_places}}")
    if kind == "DateRangeField":
        from django.db.backends.postgresql.psycopg_any import DateRange

        return DateRange(datetime.date(2026, 1, row), datetime.date(2026, 2, row))
    return {
        "SmallIntegerField": 32_000 + row,
        "PositiveSmallIntegerField": 32_000 + row,
        "IntegerField": 1_000_000_000 + row,
        "PositiveIntegerField": 1_000_000_000 + row,
        "BigIntegerField": 2**40 + row,
        "DateTimeField": WHEN + datetime.timedelta(hours=row),
        "DateField": WHEN.date() + datetime.timedelta(days=row),
        "BooleanField": row == 1,
        "JSONField": {"row": row},
        "UUIDField": uuid.UUID(int=row),
        "ArrayField": [row],
    }[kind]
