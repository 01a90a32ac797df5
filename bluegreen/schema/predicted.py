"""Without a shadow: a catalog as Django's own operations would leave it, from the models of a migration's state."""

from __future__ import annotations

from typing import Any

from bluegreen.schema import models
from bluegreen.schema.facts import Catalog, Column, Constraint, Index, Table


def catalog(apps: Any, connection: Any) -> Catalog:
    """Names of constraints and indexes are made up; a table's `file` changes when a column's type does."""
    tables: dict[str, Table] = {}
    constraints: dict[tuple[str, str], Constraint] = {}
    indexes: dict[str, Index] = {}
    for model in apps.get_models(include_auto_created=True):
        meta = model._meta
        if meta.proxy or meta.swapped or not meta.managed:
            continue
        bare = str(meta.db_table).strip('"').replace('"."', ".")
        name = bare if "." in bare else f"public.{bare}"
        fields = [field for field in meta.local_concrete_fields if field.column]
        columns = {field.column: _column(field, connection) for field in fields}
        tables[name] = Table(name, "r", columns, _file(columns))
        for field in fields:
            _of_field(name, field, connection, constraints, indexes)
        _of_meta(name, model, constraints, indexes)
    return Catalog(tables, constraints, indexes)


def _file(columns: dict[str, Column]) -> int:
    """A number that is another one when a type is."""
    return 1 + hash(tuple(sorted((name, one.type) for name, one in columns.items()))) % (1 << 30)


def _column(field: Any, connection: Any) -> Column:
    writes = models.writes(field)
    return Column(
        field.column,
        models.column_type(field, connection),
        not field.null,
        "db_default" if writes == "default" else None,
        "d" if writes == "auto" else "",
        writes == "never",
        str(getattr(field, "db_collation", None) or ""),
    )


def _of_field(
    table: str, field: Any, connection: Any, constraints: dict[tuple[str, str], Constraint], indexes: dict[str, Index]
) -> None:
    column = field.column
    if field.primary_key:
        constraints[table, "primary"] = Constraint("primary", table, "p", (column,), f"PRIMARY KEY ({column})")
    if field.unique:
        _index(indexes, table, (column,), "unique", unique=True)
    elif field.db_index:
        _index(indexes, table, (column,), "index")
    check = field.db_parameters(connection).get("check")
    if check:
        name = f"check_{column}"
        constraints[table, name] = Constraint(name, table, "c", (column,), f"CHECK ({check})")
    if field.remote_field is not None and getattr(field, "db_constraint", False):
        other, name = str(field.remote_field.model._meta.db_table), f"foreign_{column}"
        constraints[table, name] = Constraint(
            name, table, "f", (column,), f"FOREIGN KEY ({column}) REFERENCES {other}", True, f"public.{other}"
        )


def _of_meta(table: str, model: Any, constraints: dict[tuple[str, str], Constraint], indexes: dict[str, Index]) -> None:
    from django.db.models import CheckConstraint, UniqueConstraint

    meta = model._meta
    columns = {field.name: field.column for field in meta.local_concrete_fields}
    for names in meta.unique_together:
        _index(indexes, table, tuple(columns.get(name, name) for name in names), "unique", unique=True)
    for names in getattr(meta, "index_together", ()):
        _index(indexes, table, tuple(columns.get(name, name) for name in names), "index")
    for one in meta.indexes:
        _index(
            indexes, table, tuple(columns.get(name.lstrip("-"), name) for name in one.fields) or ("",), str(one.name)
        )
    for one in meta.constraints:
        names = tuple(columns.get(name, name) for name in getattr(one, "fields", ()))
        if isinstance(one, UniqueConstraint):
            _index(indexes, table, names or ("",), str(one.name), unique=True, partial=one.condition is not None)
        else:
            kind = "c" if isinstance(one, CheckConstraint) else "x"
            text = f"{kind} {one.deconstruct()[2]}"
            constraints[table, str(one.name)] = Constraint(str(one.name), table, kind, names, text)


def _index(
    indexes: dict[str, Index],
    table: str,
    columns: tuple[str, ...],
    name: str,
    unique: bool = False,
    partial: bool = False,
) -> None:
    full = f"public.{table.split('.', 1)[-1]}_{'_'.join(columns)}_{name}"
    indexes[full] = Index(full, table, columns, f"{full} USING btree ({columns})", unique, True, partial)
