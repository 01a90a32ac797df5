"""The operations of a Django migration, as facts."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any

from bluegreen.schema.facts import Operation


def inside(operation: Any) -> Iterator[Any]:
    """The operations that touch the database: itself, or what SeparateDatabaseAndState holds, however deep."""
    from django.db.migrations.operations import SeparateDatabaseAndState

    if isinstance(operation, SeparateDatabaseAndState):
        for part in operation.database_operations:
            yield from inside(part)
    else:
        yield operation


def named(operation: Any) -> Iterator[Any]:
    """All operations that name a model, those that change only the state too."""
    yield operation
    for part in [*getattr(operation, "database_operations", ()), *(getattr(operation, "state_operations", None) or ())]:
        yield from named(part)


def reverse(operation: Any) -> str:
    """yes, no or noop; SeparateDatabaseAndState.reversible is True whatever it holds, so its parts are asked."""
    from django.db.migrations.operations import RunPython, RunSQL

    found = set()
    for part in inside(operation):
        if not part.reversible:
            return "no"
        if isinstance(part, RunSQL) and part.sql not in ("", [], ()) and part.reverse_sql in ("", [], ()):
            found.add("noop")
        if isinstance(part, RunPython) and part.code is not RunPython.noop and part.reverse_code is RunPython.noop:
            found.add("noop")
    return "noop" if found else "yes"


def runs(operation: Any) -> str:
    """python, sql or nothing."""
    from django.db.migrations.operations import RunPython, RunSQL

    parts = list(inside(operation))
    if any(isinstance(part, RunPython) and part.code is not RunPython.noop for part in parts):
        return "python"
    return "sql" if any(isinstance(part, RunSQL) and part.sql not in ("", [], ()) for part in parts) else ""


def known(operation: Any) -> bool:
    """Every part of it is an operation whose effect follows from the models' state: of Django's own, not of contrib."""
    return all(type(part).__module__.startswith("django.db.migrations.operations") for part in inside(operation))


def touches(operation: Any, app: str, tables: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """(table, column or nothing) that it names. tables: model's name in small letters → db_table, before it."""
    found = []
    for part in named(operation):
        model = getattr(part, "model_name", None) or getattr(part, "name", None)
        if not isinstance(model, str):
            continue
        options = getattr(part, "options", None) or {}
        table = options.get("db_table") if isinstance(options, dict) else None
        table = str(table or tables.get(model.lower()) or f"{app}_{model.lower()}").strip('"').replace('"."', ".")
        names = [part.name] if getattr(part, "model_name", None) and hasattr(part, "name") else [""]
        field = getattr(part, "field", None)
        names += [name for name in (getattr(field, "db_column", None), getattr(part, "new_name", None)) if name]
        found += [(table, str(name or "")) for name in names]
    return tuple(dict.fromkeys(found))


def describe(migration: Any, tables: dict[str, str], lines: list[int | None]) -> tuple[Operation, ...]:
    """The facts of each operation of a migration, in order. lines: where each stands in the file."""
    return tuple(
        Operation(
            number,
            type(operation).__name__,
            operation.describe(),
            runs(operation),
            reverse(operation),
            known(operation),
            lines[number] if number < len(lines) else None,
            touches(operation, migration.app_label, tables),
        )
        for number, operation in enumerate(migration.operations)
    )


def lines(source: str, count: int) -> list[int | None]:
    """The line of each operation in a migration's file; all the line of `operations` if they are not a plain list."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return [None] * count
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "Migration":
            for item in node.body:
                target = item.targets[0] if isinstance(item, ast.Assign) else getattr(item, "target", None)
                if isinstance(item, ast.Assign | ast.AnnAssign) and getattr(target, "id", "") == "operations":
                    return _elements(item, count)
    return [None] * count


def _elements(item: ast.Assign | ast.AnnAssign, count: int) -> list[int | None]:
    value = item.value
    if isinstance(value, ast.List | ast.Tuple) and len(value.elts) == count:
        return [element.lineno for element in value.elts]
    return [item.lineno] * count


def file_of(migration: Any) -> str:
    """The path of the file that defines a migration; nothing if it has none."""
    try:
        return str(inspect.getsourcefile(type(migration)) or "")
    except (TypeError, OSError):
        return ""
