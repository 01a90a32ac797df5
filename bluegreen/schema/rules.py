"""What a migration did, from the catalogs before and after it: pure functions from facts to findings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping

from bluegreen.schema import fits, sqltext, types
from bluegreen.schema.facts import (
    Catalog,
    Column,
    Constraint,
    Finding,
    Footprint,
    Index,
    Size,
    Statement,
    Step,
    Table,
    TableUse,
    Verdict,
)

SAFE, APPROVAL, REFUSED = Verdict.SAFE, Verdict.NEEDS_APPROVAL, Verdict.REFUSED
_OWN_VALUE = re.compile(r"nextval|gen_random_uuid|uuid_generate|identity", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Against what one database's migrations are judged.

    `baseline`: the catalog before the first pending one; only what is in it has traffic. `live`: None if nothing runs.
    `sizes`: of the live tables; one of the baseline that is missing in it is not known. `superuser`: is the role one?
    """

    baseline: Catalog
    live: Footprint | None
    sizes: Mapping[str, Size]
    superuser: bool = False

    def size(self, table: str) -> Size:
        """A table that the plan itself made is empty."""
        return self.sizes.get(table, Size(None, None)) if table in self.baseline.tables else Size(0, 0)


class Scene:
    """One step in its setting, with what several rules need."""

    def __init__(self, step: Step, setting: Setting) -> None:
        self.step, self.setting = step, setting
        self.before, self.after = step.before, step.after
        self.live: dict[str, TableUse] = fits.uses(setting.live, step.before) if setting.live else {}
        # What has traffic now and is still there: the rest is new, or gone, which other rules say.
        self.shared = [
            (old, self.after.tables[name])
            for name, old in self.before.tables.items()
            if name in setting.baseline.tables and name in self.after.tables
        ]
        self.names = {old.name for old, _ in self.shared}
        self.concurrent = sqltext.concurrent(one.sql for one in step.statements)

    def gate(self, rule: str, table: str, column: str = "", **values: str) -> Finding:
        """Felt on a large table only: needs approval there, a note otherwise."""
        size = self.setting.size(table)
        verdict = APPROVAL if size.large else SAFE
        return Finding(rule, verdict, table, column, values={"rows": _rows(size), **values})

    def leaves_null(self, table: str, column: str) -> bool:
        """The live release leaves the column out, and then it is NULL."""
        use, now = self.live.get(table), self.after.tables[table].columns.get(column)
        if use is None or now is None or column in use.columns:
            return False
        return now.default is None and not now.identity and not now.generated

    def fills_uniquely(self, table: str, column: str) -> bool:
        """The live release leaves the column out, and then the database gives it a value of its own."""
        use, now = self.live.get(table), self.after.tables[table].columns.get(column)
        if use is None or now is None or column in use.columns:
            return False
        return bool(now.identity) or bool(_OWN_VALUE.search(now.default or ""))


def findings(step: Step, setting: Setting) -> list[Finding]:
    """Everything there is to say of one migration, but for what the new release expects (`decide` adds it)."""
    if step.failed:
        return [_failure(step), *_operations(step)]
    scene = Scene(step, setting)
    found = [
        *_live(scene),
        *_tables(scene),
        *_columns(scene),
        *_indexes(scene),
        *_constraints(scene),
        *_beside(scene),
        *_statements(scene),
        *_operations(step),
        *_whole(scene),
    ]
    return list({(one.key, one.operation): one for one in reversed(found)}.values())[::-1]


def _failure(step: Step) -> Finding:
    rule = "failed"
    if re.search(r"CONCURRENTLY.*(transaction|atomic)|atomic.*CONCURRENTLY", step.failed, re.IGNORECASE | re.DOTALL):
        rule = "concurrent-in-transaction"
    return Finding(rule, REFUSED, operation=step.failed_operation, values={"error": step.failed})


def _live(scene: Scene) -> Iterator[Finding]:
    """The release that is live does not fit any more."""
    live = scene.setting.live
    if live is None:
        return
    known = {one.key for catalog in (scene.setting.baseline, scene.before) for one in fits.misfits(live, catalog)}
    renamed = any(re.search(r"\bRENAME\b", one.sql, re.IGNORECASE) for one in scene.step.statements)
    for one in fits.misfits(live, scene.after):
        there = scene.before.tables.get(one.table)
        told = one.rule == "another-type" and there is not None and one.column in there.columns  # by _type
        if one.key not in known and not told:
            rule = one.rule.replace("missing", "renamed") if renamed and one.rule.startswith("missing") else one.rule
            yield dataclasses.replace(one, rule=rule)


def _tables(scene: Scene) -> Iterator[Finding]:
    baseline = scene.setting.baseline.tables
    for name, table in scene.before.tables.items():
        if name in baseline and name not in scene.after.tables and name not in scene.live and not table.parents:
            rule = "drop-table" if table.holds_rows else "drop-view"
            yield Finding(rule, APPROVAL, name, values={"rows": _rows(scene.setting.size(name))})
    for old, new in scene.shared:
        if old.kind != new.kind:
            yield Finding("kind-changed", REFUSED, old.name)
        elif old.definition != new.definition:
            yield Finding("view-changed", APPROVAL, old.name)
        if old.row_security != new.row_security:
            yield Finding("policy", APPROVAL, old.name)
        if old.file != new.file and old.file and new.file and not _truncated(scene.step.statements, old.name):
            yield scene.gate("rewrite", old.name)
        yield from _partitions(scene, old, new)
    for name, table in scene.before.tables.items():
        if name in baseline and name not in scene.after.tables and table.parents:
            yield Finding("drop-partition", APPROVAL, name, values={"rows": _rows(scene.setting.size(name))})


def _partitions(scene: Scene, old: Table, new: Table) -> Iterator[Finding]:
    for parent in sorted(set(new.parents) - set(old.parents)):
        yield scene.gate("attach", old.name, parent=parent)
    for parent in sorted(set(old.parents) - set(new.parents)):
        if parent in scene.after.tables:
            yield Finding("detach", APPROVAL, old.name, values={"parent": parent})


def _columns(scene: Scene) -> Iterator[Finding]:
    for old, new in scene.shared:
        if old.kind not in "rpf":
            continue
        use = scene.live.get(old.name)
        known = scene.setting.baseline.tables[old.name].columns
        for name, column in old.columns.items():
            if name in new.columns:
                yield from _column(scene, old, column, new.columns[name])
            elif name in known and not (use and name in use.columns):
                yield Finding("drop-column", APPROVAL, old.name, name)


def _column(scene: Scene, table: Table, old: Column, new: Column) -> Iterator[Finding]:
    use = scene.live.get(table.name)
    wanted = use.columns.get(old.name) if use else None
    if old.type != new.type:
        yield _type(table, old, new, wanted.type if wanted else None)
    if old.collation != new.collation:
        yield Finding("collation", APPROVAL, table.name, old.name)
    if not old.not_null and new.not_null and not _proven(scene.before, table.name, old.name):
        yield scene.gate("not-null-scan", table.name, old.name)
    if old.not_null and not new.not_null:
        if wanted and not wanted.null and wanted.writes != "auto":
            yield Finding("may-read-null", APPROVAL, table.name, old.name, values={"model": use.model if use else ""})
        else:
            yield Finding("not-null-dropped", SAFE, table.name, old.name)


def _type(table: Table, old: Column, new: Column, declared: str | None) -> Finding:
    values = {"old": old.type, "new": new.type}
    change = types.change(old.type, new.type)
    if change in (types.Change.WIDER, types.Change.SAME):
        return Finding("type-wider", SAFE, table.name, old.name, values=values)
    if change is types.Change.LARGER:
        return Finding("type-larger", APPROVAL, table.name, old.name, values=values)
    if declared is None or types.change(declared, new.type) in (types.Change.SAME, types.Change.WIDER):
        return Finding("type-unused", APPROVAL, table.name, old.name, values=values)
    rule = "type-narrower" if change is types.Change.NARROWER else "type-changed"
    return Finding(rule, REFUSED, table.name, old.name, values=values)


def _proven(catalog: Catalog, table: str, column: str) -> bool:
    """A valid CHECK (column IS NOT NULL) spares the scan, PostgreSQL 12 and newer."""
    pattern = re.compile(rf'CHECK \(\(+"?{re.escape(column)}"? IS NOT NULL\)+', re.IGNORECASE)
    return any(
        one.table == table and one.kind == "c" and one.valid and pattern.match(one.definition)
        for one in catalog.constraints.values()
    )


def _added_indexes(scene: Scene) -> list[Index]:
    """Those that were built; a new name alone builds nothing."""
    before = scene.before.indexes
    numbers = {one.number for one in before.values()} - {0}
    return [
        one
        for name, one in scene.after.indexes.items()
        if one.table in scene.names and name not in before and one.number not in numbers
    ]


def _indexes(scene: Scene) -> Iterator[Finding]:
    for one in _added_indexes(scene):
        bare = one.name.split(".", 1)[1]
        values = {"name": bare, "columns": ", ".join(name or "an expression" for name in one.columns)}
        if not one.valid:
            yield Finding("invalid-index", REFUSED, one.table, values=values)
        if one.unique and _can_break(scene, one):
            yield Finding("unique", REFUSED, one.table, values=values)
        if bare not in scene.concurrent:
            yield scene.gate("index-blocks", one.table, **values)
    kept = list(scene.after.indexes.values())
    meanings = {one.meaning for one in kept}
    for name, one in scene.before.indexes.items():
        gone = name not in scene.after.indexes and one.meaning not in meanings and one.table in scene.names
        columns = scene.after.tables[one.table].columns if gone else {}
        if not gone or name not in scene.setting.baseline.indexes or not all(c in columns for c in one.columns if c):
            continue
        yield from _dropped_index(scene, one, kept)


def _dropped_index(scene: Scene, one: Index, kept: Iterable[Index]) -> Iterator[Finding]:
    bare = one.name.split(".", 1)[1]
    values = {"name": bare, "columns": ", ".join(name or "an expression" for name in one.columns)}
    covers = [other for other in kept if other.table == one.table and other.valid and not other.partial]
    if one.unique:
        use = scene.live.get(one.table)
        stays = any(other.unique and set(other.columns) <= set(one.columns) for other in covers)
        declared = use is not None and (frozenset(one.columns) in use.unique or bare in use.names)
        if not stays:
            yield Finding("unique-dropped", APPROVAL if declared else SAFE, one.table, values=values)
    elif bare not in scene.concurrent and not any(o.columns[: len(one.columns)] == one.columns for o in covers):
        yield scene.gate("index-dropped", one.table, **values)


def _can_break(scene: Scene, index: Index) -> bool:
    """May an INSERT or UPDATE of the live release fail on this new unique index?"""
    use = scene.live.get(index.table)
    columns = frozenset(index.columns)
    if use is None or columns in use.unique or index.name.split(".", 1)[1] in use.names:
        return False
    for other in scene.before.indexes.values():
        whole = other.unique and other.valid and not other.partial and all(other.columns)
        if whole and other.table == index.table and frozenset(other.columns) <= columns:
            return False
    if index.nulls_distinct and any(scene.leaves_null(index.table, name) for name in columns):
        return False
    return not any(scene.fills_uniquely(index.table, name) for name in columns)


def _constraints(scene: Scene) -> Iterator[Finding]:
    before, after = scene.before.constraints, scene.after.constraints
    gone = {one.meaning: one for key, one in before.items() if key not in after}
    new = {one.meaning for one in after.values()}
    for key, one in after.items():
        was = before.get(key)
        if was is None or was.meaning != one.meaning:
            was = gone.get(one.meaning)
        if was is None:
            yield from _added_constraint(scene, one)
        elif one.valid and not was.valid:
            yield Finding("validated", SAFE, one.table, values={"name": one.name})
        elif one.name != was.name and one.table in scene.names:
            yield Finding("renamed-constraint", SAFE, one.table, values={"name": was.name, "to": one.name})
    for one in before.values():
        if one.meaning in new or one.table not in scene.names:
            continue
        stays = all(name in scene.after.tables[one.table].columns for name in one.columns)
        if one.kind == "p" and one.table in scene.live:
            yield Finding("primary-key", REFUSED, one.table, values={"name": one.name})
        elif one.kind == "x" and stays:
            yield Finding(
                "unique-dropped", APPROVAL, one.table, values={"name": one.name, "columns": ", ".join(one.columns)}
            )
        elif one.kind in "cf" and stays:
            yield Finding("constraint-dropped", SAFE, one.table, values={"name": one.name})


def _added_constraint(scene: Scene, one: Constraint) -> Iterator[Finding]:
    values = {"name": one.name, "definition": one.definition, "columns": ", ".join(one.columns)}
    if one.table not in scene.names:
        if one.kind == "f" and one.references in scene.names and one.references in scene.live:
            yield Finding("referenced", SAFE, one.references, values={**values, "other": one.table})
        return
    use = scene.live.get(one.table)
    written = use is not None and (not one.columns or any(name in use.columns for name in one.columns))
    free = any(scene.leaves_null(one.table, name) for name in one.columns)
    if one.kind == "x" and written and not free:
        yield Finding("exclusion", REFUSED, one.table, values=values)
    if one.kind in "cf":
        if written and not (use and one.name in use.names) and not (one.kind == "f" and free):
            yield Finding("new-check" if one.kind == "c" else "new-foreign-key", APPROVAL, one.table, values=values)
        if one.valid:
            yield scene.gate("validates", one.table, **values)


def _beside(scene: Scene) -> Iterator[Finding]:
    """Code and rules beside the tables: triggers, policies, functions, enumerations, extensions."""
    before, after = scene.before, scene.after
    for rule, old, new in (("trigger", before.triggers, after.triggers), ("policy", before.policies, after.policies)):
        for table, name in sorted(set(old) | set(new)):
            if old.get((table, name)) != new.get((table, name)) and table in scene.names:
                yield Finding(rule, APPROVAL, table, values={"name": name})
    for name, text in before.functions.items():
        if after.functions.get(name) != text and name in scene.setting.baseline.functions:
            yield Finding("function", APPROVAL, values={"name": name})
    for name, labels in before.enums.items():
        if name in after.enums and set(labels) - set(after.enums[name]):
            lost = ", ".join(sorted(set(labels) - set(after.enums[name])))
            yield Finding("enum-label", REFUSED, values={"name": name, "labels": lost})
    for name in sorted(set(after.extensions) - set(before.extensions)):
        if not (after.extensions[name] or scene.setting.superuser):
            yield Finding("extension-rights", REFUSED, values={"name": name})
    for name in sorted(set(before.extensions) - set(after.extensions)):
        yield Finding("extension-dropped", APPROVAL, values={"name": name})


def _statements(scene: Scene) -> Iterator[Finding]:
    for statement in scene.step.statements:
        if statement.source == "python":
            continue
        for one in sqltext.split(statement.sql):
            rule = statement_rule(one, statement.source)
            if rule:
                yield Finding(
                    rule, APPROVAL, operation=statement.operation, values={"sql": one[:200], "name": one[:200]}
                )


def statement_rule(sql: str, source: str) -> str:
    """The rule that a single statement breaks by itself, or nothing. `source` as in Statement."""
    kind, said = sqltext.kind(sql), sqltext.words(sql)
    if re.match(
        r"SET\s+(?:SESSION\s+|LOCAL\s+)?lock_timeout\s*(?:=|TO)\s*'?0|RESET\s+(?:lock_timeout|ALL)", sql, re.IGNORECASE
    ):
        return "no-lock-timeout"
    if said[:1] == ["SET"] and {"ROLE", "AUTHORIZATION", "SESSION_REPLICATION_ROLE"} & set(said[1:3]):
        return "rights"
    if kind is sqltext.Kind.QUERY:
        return "opaque-sql" if source == "sql" and sqltext.calls_a_function(sql) else ""
    if kind is sqltext.Kind.REWRITE:
        harmless = "CONCURRENTLY" in said or (said[0] == "VACUUM" and "FULL" not in said)
        return "" if harmless else "rebuild"
    names = {
        sqltext.Kind.DATA: "data",
        sqltext.Kind.OPAQUE: "opaque-sql",
        sqltext.Kind.RIGHTS: "rights",
        sqltext.Kind.LOCK: "locks",
    }
    return names.get(kind, "")


def _operations(step: Step) -> Iterator[Finding]:
    for one in step.operations:
        if one.runs == "python":
            yield Finding("python", APPROVAL, operation=one.number, values={"operation": one.describe})
        ran = [part for item in step.statements if item.operation == one.number for part in sqltext.split(item.sql)]
        leaves_nothing = bool(ran) and one.runs == "sql" and all(_leaves_nothing(part) for part in ran)
        if one.reverse == "no":
            yield Finding("irreversible", APPROVAL, operation=one.number, values={"operation": one.describe})
        elif one.reverse == "noop" and not leaves_nothing:
            yield Finding("noop-reverse", APPROVAL, operation=one.number, values={"operation": one.describe})
    for number, error in step.opaque:
        yield Finding("not-tried-python", APPROVAL, operation=number, values={"error": error})


def _leaves_nothing(sql: str) -> bool:
    return not statement_rule(sql, "sql") and sqltext.kind(sql) in (
        sqltext.Kind.VALIDATE,
        sqltext.Kind.SETTING,
        sqltext.Kind.QUERY,
        sqltext.Kind.REWRITE,
    )


def _whole(scene: Scene) -> Iterator[Finding]:
    step = scene.step
    changed = {
        one.operation for one in step.statements if any(not sqltext.repeatable(s) for s in sqltext.split(one.sql))
    }
    changed |= {one.number for one in step.operations if one.runs == "python"}
    if not step.atomic and len(changed) > 1:
        yield Finding("half-applied", APPROVAL, values={"count": str(len(changed))})
    moved = any(one.runs == "python" for one in step.operations) or any(
        sqltext.kind(part) is sqltext.Kind.DATA
        for one in step.statements
        if one.source != "schema"
        for part in sqltext.split(one.sql)
    )
    if moved and step.atomic and touched(step):
        yield Finding("mixed", APPROVAL)


def touched(step: Step) -> set[str]:
    """The tables whose definition is another after the step: made, changed or dropped ones."""
    before, after = step.before, step.after
    names = {name for name in {*before.tables, *after.tables} if _shape(before, name) != _shape(after, name)}
    for old, new in ((before.constraints, after.constraints), (before.indexes, after.indexes)):
        pairs = [*old.items(), *new.items()]
        names |= {one.table for key, one in pairs if old.get(key) != new.get(key)}
    return names


def _shape(catalog: Catalog, name: str) -> Table | None:
    found = catalog.tables.get(name)
    return dataclasses.replace(found, file=0) if found else None


def _truncated(statements: Iterable[Statement], table: str) -> bool:
    bare = table.split(".", 1)[1].lower()
    return any(
        sqltext.words(part)[:1] == ["TRUNCATE"] and bare in part.lower()
        for one in statements
        for part in sqltext.split(one.sql)
    )


def _rows(size: Size) -> str:
    return "an unknown number of" if size.rows is None else f"about {size.rows:,}"
