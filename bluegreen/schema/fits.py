"""Does a release fit a schema? Every read and every INSERT of its models must work."""

from __future__ import annotations

from collections.abc import Iterator

from bluegreen.schema import types
from bluegreen.schema.facts import Catalog, Column, Finding, Footprint, Table, TableUse, Use, Verdict

LIVE, NEW = "live", "new"


def uses(footprint: Footprint, catalog: Catalog) -> dict[str, TableUse]:
    """schema.table → how the release uses it, for tables that are there; models that share a table are put together."""
    found: dict[str, TableUse] = {}
    for name, use in footprint.tables.items():
        table = catalog.find(name)
        if table is None:
            continue
        known = found.get(table.name)
        if known is not None:
            use = TableUse(
                use.model if use.managed else known.model,
                {**use.columns, **known.columns},
                use.managed or known.managed,
                use.unique | known.unique,
                use.names | known.names,
            )
        found[table.name] = use
    return found


def misfits(footprint: Footprint, catalog: Catalog, release: str = LIVE) -> list[Finding]:
    """What of the release would fail on the schema. `release`: live or new; it goes into the values."""
    found = []
    for name, use in footprint.tables.items():
        if catalog.find(name) is None:
            plain = name.replace('"."', ".")
            found.append(_finding("missing-table", release, plain, "", model=use.model))
    for name, use in uses(footprint, catalog).items():
        found += _columns(catalog.tables[name], use, release)
    return found


def _columns(table: Table, use: TableUse, release: str) -> Iterator[Finding]:
    for name, column_use in use.columns.items():
        column = table.columns.get(name)
        if column is None:
            yield _finding("missing-column", release, table.name, name, model=use.model)
        else:
            yield from _column(table, column, column_use, use, release)
    if table.kind not in "rpf":
        return
    for name, column in table.columns.items():
        if name not in use.columns and not column.fills_itself:
            yield _finding("insert-omits", release, table.name, name, model=use.model, type=column.type)


def _column(table: Table, column: Column, use: Use, whole: TableUse, release: str) -> Iterator[Finding]:
    def finding(rule: str) -> Finding:
        return _finding(rule, release, table.name, column.name, model=whole.model, type=column.type, expects=use.type)

    if table.kind not in "rpf":
        return
    provided = column.default is not None or bool(column.identity)
    if (use.writes == "auto" and not provided and not column.generated) or (use.writes == "default" and not provided):
        yield finding("lost-default")
    elif use.writes == "never" and not column.generated and not column.fills_itself:
        yield finding("insert-omits")
    elif use.writes == "value" and (column.generated or column.identity == "a"):
        yield finding("computed")
    if use.null and column.not_null and use.writes in ("value", "default"):
        yield finding("not-null")
    if use.writes != "never" and types.change(use.type, column.type) is types.Change.NARROWER:
        yield finding("too-narrow")
    if use.type and types.apart(column.type, use.type):
        yield finding("another-type")


def _finding(rule: str, release: str, table: str, column: str, **values: str) -> Finding:
    return Finding(rule, Verdict.REFUSED, table, column, values={"release": release, **values})
