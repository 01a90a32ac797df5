"""From the steps of a plan to its verdict: what each migration gets, and what no single migration is to blame for."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluegreen.schema import advice, fits, rules, sqltext
from bluegreen.schema.facts import FORMAT, Catalog, Column, Constraint, Finding, Footprint, Index, Step, Verdict

# What a column that new code no longer writes can be given meanwhile: type → a value that says nothing.
BRIDGES = {
    "character varying": "''", "character": "''", "text": "''", "citext": "''", "smallint": "0", "integer": "0",
    "bigint": "0", "numeric": "0", "real": "0", "double precision": "0", "boolean": "false", "date": "CURRENT_DATE",
    "timestamp with time zone": "now()", "timestamp without time zone": "now()", "jsonb": "'{}'", "json": "'{}'",
    "uuid": "gen_random_uuid()",
}  # fmt: skip

# What stays wrong while nothing runs.
IN_NO_WINDOW = {"invalid-index", "extension-rights"}


@dataclasses.dataclass(frozen=True)
class Case:
    """All that is judged of one database. `new`: the release that brings the steps; `problems`: found before."""

    database: str
    steps: Sequence[Step]
    setting: rules.Setting
    new: Footprint
    problems: Sequence[Finding] = ()
    tried: bool = True  # on a shadow; otherwise predicted from the operations
    late: frozenset[str] = frozenset()  # app.name of those that run once the new release is live; they come last


@dataclasses.dataclass(frozen=True)
class Judged:
    """A step with its findings. `late`: the new release also works before it ran, after the statements of `bridge`."""

    step: Step
    findings: tuple[Finding, ...]
    late: bool = False
    bridge: tuple[str, ...] = ()
    window: bool = False  # it is refused only for what runs meanwhile: it can run while nothing does

    @property
    def verdict(self) -> Verdict:
        return max((one.verdict for one in self.findings), default=Verdict.SAFE)


def judge(case: Case) -> tuple[list[Judged], list[Finding]]:
    """The verdict of each step, and the problems of the plan as a whole."""
    blamed, problems = _new_release(case)
    judged = []
    once_live = _once_live(case)
    for number, step in enumerate(case.steps):
        found = [*rules.findings(step, once_live if step.label in case.late else case.setting), *blamed.get(number, [])]
        if not case.tried:
            found += _not_tried(step)
        late, bridge = late_possible(case, step)
        runs = not step.failed and not any(one.rule in IN_NO_WINDOW for one in found)
        window = runs and number not in blamed and step.label not in case.late
        judged.append(Judged(step, tuple(found), late, bridge, window))
    return judged, [*case.problems, *problems]


def _once_live(case: Case) -> rules.Setting:
    """What late migrations are judged against: the new release is the live one then, on the schema before them."""
    before = next((step.before for step in case.steps if step.label in case.late), case.setting.baseline)
    return dataclasses.replace(case.setting, baseline=before, live=case.new)


def _not_tried(step: Step) -> list[Finding]:
    """Without a shadow nothing opaque is safe: raw SQL, and operations that are not Django's."""
    found = []
    for one in step.operations:
        if one.runs == "sql":
            found.append(Finding("static-sql", Verdict.NEEDS_APPROVAL, operation=one.number))
        elif not one.known:
            found.append(
                Finding("static-unknown", Verdict.NEEDS_APPROVAL, operation=one.number, values={"name": one.name})
            )
    return found


def _new_release(case: Case) -> tuple[dict[int, list[Finding]], list[Finding]]:
    """What the new release misses at the end: step number → findings, and those that no step explains."""
    if any(step.failed for step in case.steps):
        return {}, []  # the end was never reached
    final = case.steps[-1].after if case.steps else case.setting.baseline
    live = case.setting.live
    known = {one.key for one in fits.misfits(live, case.setting.baseline)} if live else set()
    blamed: dict[int, list[Finding]] = {}
    problems = []
    for one in fits.misfits(case.new, final, fits.NEW):
        if one.key in known:
            continue
        number = _to_blame(case.steps, one)
        if number is None:
            problems.append(one)
        else:
            blamed.setdefault(number, []).append(one)
    return blamed, problems


def _to_blame(steps: Sequence[Step], finding: Finding) -> int | None:
    """The last step that named the column, or changed it; else the last that touched the table."""
    bare = finding.table.split(".", 1)[-1]
    numbers = range(len(steps) - 1, -1, -1)
    for number in numbers:
        pairs = [pair for one in steps[number].operations for pair in one.touches]
        for table, column in pairs:
            if table in (bare, finding.table) and column and finding.column in (column, f"{column}_id"):
                return number
    for number in numbers:
        if finding.column and _column(steps[number].before, finding) != _column(steps[number].after, finding):
            return number
    for number in numbers:
        pairs = [pair for one in steps[number].operations for pair in one.touches]
        if any(table in (bare, finding.table) for table, _ in pairs) or finding.table in rules.touched(steps[number]):
            return number
    return None


def _column(catalog: Catalog, finding: Finding) -> Column | None:
    table = catalog.find(finding.table) or catalog.tables.get(finding.table)
    return table.columns.get(finding.column) if table else None


def late_possible(case: Case, step: Step) -> tuple[bool, tuple[str, ...]]:
    """Can the code go first and this migration after? The bridge: statements that must run before the code does.

    Not with code of its own that moves data: what new code expects of it is not known.
    """
    if step.failed or any(one.runs == "python" for one in step.operations) or _freed(case, step):
        return False, ()
    if any(one.key not in _elsewhere(case, one) for one in fits.misfits(case.new, case.steps[-1].after)):
        return False, ()  # it does not fit in the end either
    after = {one.key for one in fits.misfits(case.new, step.after)}
    bridge = []
    for one in fits.misfits(case.new, step.before):
        if one.key in after or one.key in _elsewhere(case, one):
            continue
        kind = one.values.get("type", "")
        value = BRIDGES.get(kind.split("(", 1)[0].strip())
        if one.rule != "insert-omits" or value is None or _bound(step.before, one.table, one.column, value):
            return False, ()
        bridge.append(f"ALTER TABLE {quoted(one.table)} ALTER COLUMN {quoted(one.column)} SET DEFAULT {value};")
    return True, tuple(bridge)


def _freed(case: Case, step: Step) -> bool:
    """Does the step take a rule away that the new release, which no longer knows it, may break before?"""
    before, after = step.before, step.after
    indexes = {one.meaning for one in after.indexes.values()}
    rules_kept = {one.meaning for one in after.constraints.values()}
    for table, use in fits.uses(case.new, before).items():
        columns = before.tables[table].columns
        empty = {name for name, one in columns.items() if name not in use.columns and not (one.not_null or one.default)}
        for index in (one for one in before.indexes.values() if one.table == table and one.unique):
            if index.meaning not in indexes and not empty & set(index.columns):
                return True
        for one in (one for one in before.constraints.values() if one.table == table and one.kind in "cfx"):
            if one.meaning not in rules_kept and (not one.columns or set(one.columns) & set(use.columns)):
                return True
    return False


def _bound(catalog: Catalog, table: str, column: str, value: str) -> bool:
    """Would rows that all hold `value` in the column break a rule of the table?"""

    def names(one: Constraint | Index) -> bool:
        return one.table == table and (
            column in one.columns or bool(re.search(rf"\b{re.escape(column)}\b", one.definition))
        )

    twice = not value.endswith("()") or value == "now()"
    if twice and any(index.unique and names(index) for index in catalog.indexes.values()):
        return True
    harmless = f"CHECK (({column} >= 0))" if value == "0" else "-"
    return any(
        one.kind in "cfx" and names(one) and not one.definition.startswith(harmless)
        for one in catalog.constraints.values()
    )


def _elsewhere(case: Case, finding: Finding) -> set[tuple[str, str, str]]:
    """The live release has it as well: whatever it is, it works today."""
    live = case.setting.live
    return {one.key for one in fits.misfits(live, case.setting.baseline)} if live and finding.key else set()


def quoted(name: str) -> str:
    """A name, or schema.name, as SQL."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def approval(step: Step, sql_sha256: str) -> str:
    """What approves a migration by name: bound to its file and to the SQL that it ran."""
    both = hashlib.sha256(f"{step.file_sha256}:{sql_sha256}".encode()).hexdigest()
    return f"{step.label}@sha256:{both}"


def operation_of(finding: Finding, step: Step) -> int | None:
    """The operation that a finding comes from: it says so, or one names the column or table, or there is only one."""
    if finding.operation is not None:
        return finding.operation if finding.operation < len(step.operations) else None
    bare = finding.table.split(".", 1)[-1]
    for column in (True, False):
        for one in reversed(step.operations):
            said = " ".join(part.sql for part in step.statements if part.operation == one.number).lower()
            named = any(
                table in (bare, finding.table) and (not column or finding.column in (name, f"{name}_id"))
                for table, name in one.touches
            )
            wanted = [bare, finding.column] if column and finding.column else [bare]
            if bare and (named or (one.runs == "sql" and all(word.lower() in said for word in wanted))):
                return one.number
    return 0 if len(step.operations) == 1 else None


def reason(finding: Finding, step: Step | None = None) -> dict[str, Any]:
    """A finding as it stands in the answer."""
    number = operation_of(finding, step) if step is not None else None
    line = step.operations[number].line if step is not None and number is not None else None
    text = advice.text(finding)
    return {
        "rule": finding.rule,
        "verdict": finding.verdict.word,
        "table": finding.table or None,
        "column": finding.column or None,
        "why": text.why,
        "instead": text.instead,
        "releases": text.releases,
        "line": line,
    }


def answer(cases: Iterable[Case], method: str, detail: str) -> dict[str, Any]:
    """The whole answer as JSON: see the package's docstring."""
    migrations: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    worst = Verdict.SAFE
    for case in cases:
        judged, found = judge(case)
        worst = max([worst, *(one.verdict for one in found), *(one.verdict for one in judged)])
        problems += [{"database": case.database, **reason(one)} for one in found]
        migrations += [_migration(case, one) for one in judged]
    return {
        "format": FORMAT,
        "verdict": worst.word,
        "method": method,
        "method_detail": detail,
        "problems": problems,
        "migrations": migrations,
    }


def _migration(case: Case, judged: Judged) -> dict[str, Any]:
    step = judged.step
    named = rules.touched(step) | {one.table for one in judged.findings if one.table}
    # What Python code ran depends on the rows; its file stands for it.
    sql_sha256 = sqltext.digest(one.sql for one in step.statements if one.source != "python")
    found = sorted(judged.findings, key=lambda one: -one.verdict)
    return {
        "database": case.database,
        "app": step.app,
        "name": step.name,
        "verdict": judged.verdict.word,
        "reasons": [reason(one, step) for one in found],
        "sql": [one.sql for one in step.statements],
        "tables": [_table(case, name) for name in sorted(named)],
        "reversible": all(one.reverse != "no" for one in step.operations),
        "late_possible": judged.late,
        "bridge": list(judged.bridge),
        "late": step.label in case.late,
        "window_possible": judged.window,
        "atomic": step.atomic,
        "file": step.file,
        "file_sha256": step.file_sha256,
        "sql_sha256": sql_sha256,
        "approval": approval(step, sql_sha256),
    }


def _table(case: Case, name: str) -> dict[str, Any]:
    size = case.setting.size(name)
    return {"name": name, "rows": size.rows, "bytes": size.bytes}


def summary(result: Mapping[str, Any]) -> list[str]:
    """The answer as lines for a person."""
    lines = []
    for one in result["problems"]:
        lines += _lines(one, "")
    for item in result["migrations"]:
        lines.append(f"{item['app']}.{item['name']}: {item['verdict'].replace('_', ' ')}")
        for one in item["reasons"]:
            lines += _lines(one, "  ")
        if item["verdict"] == "needs_approval":
            lines.append("  a deploy asks for its approval by name")
        if item["verdict"] == "refused" and item["late_possible"]:
            before = f", after {' '.join(item['bridge'])}" if item["bridge"] else ""
            lines.append(f"  or: the code first, and this migration late or with the commit after it{before}")
    how = "tried on a shadow" if result["method"] == "shadow" else "predicted without a shadow"
    lines.append(
        f"{result['verdict'].replace('_', ' ')}: {len(result['migrations'])} pending, {how} ({result['method_detail']})"
    )
    return lines


def _lines(one: Mapping[str, Any], indent: str) -> list[str]:
    mark = {"safe": "note", "needs_approval": "asks", "refused": "no"}[one["verdict"]]
    place = ".".join(part for part in (one["table"], one["column"]) if part)
    lines = [f"{indent}{mark}: {place + ': ' if place else ''}{one['why']}"]
    if one["verdict"] != "safe" and one["instead"]:
        lines += [f"{indent}    {line}" for line in str(one["instead"]).splitlines()]
    return lines
