"""What the classifier knows: a catalog, the footprint of a release, what a migration did. Data only, no I/O."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Mapping
from typing import Any

FORMAT = 1
LARGE_ROWS = 10_000  # a table from here on is large: reading it all under a lock is felt
LARGE_BYTES = 10_000_000


class Verdict(enum.IntEnum):
    """What a deploy does with a migration; the worst one counts."""

    SAFE = 0
    NEEDS_APPROVAL = 1
    REFUSED = 2

    @property
    def word(self) -> str:
        """As it stands in the answer: safe, needs_approval, refused."""
        return self.name.lower()


@dataclasses.dataclass(frozen=True)
class Column:
    """A column; `type` as PostgreSQL prints it, `identity` a (always), d (by default) or nothing."""

    name: str
    type: str
    not_null: bool = False
    default: str | None = None
    identity: str = ""
    generated: bool = False
    collation: str = ""

    @property
    def fills_itself(self) -> bool:
        """An INSERT that leaves it out gets a value that is not NULL, or may have NULL."""
        return not self.not_null or self.default is not None or bool(self.identity) or self.generated


@dataclasses.dataclass(frozen=True)
class Table:
    """A relation named schema.table; `kind` as in pg_class (r table, p partitioned, v view, m materialised, f foreign).

    `file`: relfilenode, which changes exactly when the table is rewritten. `parents`: of what it is a
    partition or child. `definition`: of a view. `visible`: found by its bare name on the search path.
    """

    name: str
    kind: str = "r"
    columns: Mapping[str, Column] = dataclasses.field(default_factory=dict)
    file: int = 0
    visible: bool = True
    parents: tuple[str, ...] = ()
    definition: str = ""
    row_security: bool = False

    @property
    def holds_rows(self) -> bool:
        return self.kind in "rpmf"


@dataclasses.dataclass(frozen=True)
class Constraint:
    """`kind` as in pg_constraint: p primary key, u unique, f foreign key, c check, x exclusion."""

    name: str
    table: str
    kind: str
    columns: tuple[str, ...]
    definition: str
    valid: bool = True
    references: str = ""

    @property
    def meaning(self) -> tuple[str, str, tuple[str, ...], str]:
        """What it does, whatever it is called."""
        return (self.table, self.kind, self.columns, self.definition.removesuffix(" NOT VALID"))


@dataclasses.dataclass(frozen=True)
class Index:
    """An index; expressions stand in `columns` as empty text. `owned`: it belongs to a constraint. `number`: its oid,
    which a new name does not change; 0 where it is not known."""

    name: str
    table: str
    columns: tuple[str, ...]
    definition: str
    unique: bool = False
    valid: bool = True
    partial: bool = False
    nulls_distinct: bool = True
    owned: bool = False
    number: int = 0

    @property
    def meaning(self) -> tuple[str, str]:
        """What it does, whatever it is called."""
        return (self.table, self.definition.split(" USING ", 1)[-1] + (" unique" if self.unique else ""))


@dataclasses.dataclass(frozen=True)
class Catalog:
    """A database's schema at one moment. Triggers, policies, functions: name → text that changes when it changes."""

    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    constraints: Mapping[tuple[str, str], Constraint] = dataclasses.field(default_factory=dict)
    indexes: Mapping[str, Index] = dataclasses.field(default_factory=dict)
    triggers: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    policies: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    functions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    enums: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    extensions: Mapping[str, bool] = dataclasses.field(default_factory=dict)  # name → may an ordinary role create it?

    def find(self, name: str) -> Table | None:
        """What a model's db_table means: `schema"."table`, schema.table, or a bare name on the search path."""
        if '"."' in name:
            return self.tables.get(name.replace('"."', "."))
        return self._visible.get(name.strip('"')) or self.tables.get(name)

    @functools.cached_property
    def _visible(self) -> Mapping[str, Table]:
        return {table.name.split(".", 1)[1]: table for table in self.tables.values() if table.visible}


@dataclasses.dataclass(frozen=True)
class Use:
    """How a release uses a column.

    `writes`: value (every INSERT names it), default (it may write DEFAULT), auto (left out, the database numbers),
    never (the database computes it).
    """

    type: str
    null: bool
    writes: str = "value"


@dataclasses.dataclass(frozen=True)
class TableUse:
    """How a release uses a table. `unique`: sets of columns that its models declare unique; `names`: of declared
    constraints and indexes."""

    model: str
    columns: Mapping[str, Use]
    managed: bool = True
    unique: frozenset[frozenset[str]] = frozenset()
    names: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Footprint:
    """What a release expects of one database: table name (db_table) → how it is used."""

    tables: Mapping[str, TableUse] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For storage beside the release; `from_json` reads it."""
        return {
            "tables": {
                name: {
                    "model": table.model,
                    "managed": table.managed,
                    "columns": {key: [use.type, use.null, use.writes] for key, use in table.columns.items()},
                    "unique": sorted(sorted(columns) for columns in table.unique),
                    "names": sorted(table.names),
                }
                for name, table in sorted(self.tables.items())
            }
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Footprint:
        """Raises KeyError, TypeError or ValueError if it is not what `as_json` gives."""
        return cls(
            {
                str(name): TableUse(
                    str(table["model"]),
                    {
                        str(key): Use(str(kind), bool(null), str(writes))
                        for key, (kind, null, writes) in table["columns"].items()
                    },
                    bool(table["managed"]),
                    frozenset(frozenset(map(str, columns)) for columns in table["unique"]),
                    frozenset(map(str, table["names"])),
                )
                for name, table in data["tables"].items()
            }
        )


@dataclasses.dataclass(frozen=True)
class Statement:
    """SQL that a migration ran. `operation`: number of the operation in the file, or None if it came after the last;
    `source`: schema (an operation of Django's), sql (RunSQL), python (RunPython)."""

    sql: str
    operation: int | None = None
    source: str = "schema"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of a migration's file. `touches`: (table, column or "") pairs it names.

    `runs`: python, sql or nothing; `known`: its class is one of Django's. `reverse`: yes, no, noop.
    """

    number: int
    name: str
    describe: str = ""
    runs: str = ""
    reverse: str = "yes"
    known: bool = True
    line: int | None = None
    touches: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a table on the live server; None where it is not known."""

    rows: int | None
    bytes: int | None

    @property
    def large(self) -> bool:
        """Not known counts as large."""
        rows, size = self.rows, self.bytes
        return rows is None or size is None or rows >= LARGE_ROWS or size >= LARGE_BYTES


@dataclasses.dataclass(frozen=True)
class Step:
    """One migration as it was tried. `failed`: why it did not end; `opaque`: what its Python code could not do here."""

    database: str
    app: str
    name: str
    before: Catalog
    after: Catalog
    operations: tuple[Operation, ...] = ()
    statements: tuple[Statement, ...] = ()
    atomic: bool = True
    failed: str = ""
    failed_operation: int | None = None
    opaque: tuple[tuple[int | None, str], ...] = ()
    file: str = ""
    file_sha256: str = ""

    @property
    def label(self) -> str:
        return f"{self.app}.{self.name}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One reason. `rule` names the text in advice.py; `values` fill it."""

    rule: str
    verdict: Verdict
    table: str = ""
    column: str = ""
    operation: int | None = None
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is about: findings with one key are one finding."""
        return (self.rule, self.table, self.column or self.values.get("name", ""))
