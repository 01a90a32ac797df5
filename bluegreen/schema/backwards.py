"""Undo migrations from the release that has them: which, in which order, what is lost or invented; tried on a shadow.

A reverse that Django starts is not all or nothing: it stops at the first migration that cannot be undone. So everything
is asked before anything is done, and both releases are compared with the schema after each step.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from bluegreen.errors import bad_input
from bluegreen.schema import advice, fits, models, operations, sqltext, tryout, types
from bluegreen.schema.facts import FORMAT, Catalog, Footprint, Table

Key = tuple[str, str]  # application, name of a migration
FILLED = r'(?is)ADD COLUMN (?:IF NOT EXISTS )?"?{}"? .*?\bDEFAULT (.+?)(?: NOT NULL| NULL|,|;|$)'


# which, and in which order


def chosen(
    applied: Sequence[Key], known: Collection[Key], apps: Collection[str], ours: Collection[Key],
    replaces: Mapping[Key, Collection[Key]],
) -> tuple[list[Key], list[Key]]:  # fmt: skip
    """What to undo so that a release stands that knows the migrations `known` of `apps`, and what nobody can explain.

    applied: in the order of their rows; ours: those that the ledger has from after that release; replaces: of squashed
    migrations, what they stand for: one that stands only for what the older release knows was never run.
    """
    undo, unexplained = [], []
    for position, key in enumerate(applied):
        parts = replaces.get(key) or ()
        if key in known or (parts and all(part in known for part in parts)):
            continue
        if key in ours:
            undo.append(key)
        elif key[0] in apps and not any(one[0] == key[0] and one in known for one in applied[position + 1 :]):
            unexplained.append(key)  # otherwise: squashed away before that release, or of an application it never had
    return undo, unexplained


def ordered(undo: Sequence[Key], depends: Mapping[Key, Collection[Key]]) -> list[Key]:
    """Each before what it depends on; otherwise the last comes first. undo: in the order in which they ran."""
    left, order = list(reversed(undo)), []
    while left:
        free = (one for one in left if not any(one in depends.get(other, ()) for other in left if other != one))
        nearest = next(free, left[0])
        left.remove(nearest)
        order.append(nearest)
    return order


# what it costs


def costs(before: Catalog, after: Catalog, rows: Mapping[str, int], statements: Sequence[str]) -> list[str]:
    """What undoing a migration loses and what it invents, a line each. rows: of the live tables, as far as known."""
    lines = []
    for name, table in before.tables.items():
        if name in after.tables:
            lines += list(_columns(table, after.tables[name], rows, statements))
        elif table.holds_rows:
            lines.append(f"lost: the table {name} with {counted(rows.get(name))}")
    for name in sorted(set(after.tables) - set(before.tables)):
        if after.tables[name].holds_rows:
            lines.append(f"invented: the table {name} comes back empty")
    return lines


def counted(rows: int | None) -> str:
    """About how many rows: the figure is the server's own estimate."""
    return "rows that were not counted" if rows is None or rows < 0 else f"about {rows} rows"


def _columns(old: Table, new: Table, rows: Mapping[str, int], statements: Sequence[str]) -> Iterator[str]:
    if not old.holds_rows:
        return
    amount = counted(rows.get(old.name))
    for name in sorted(set(old.columns) - set(new.columns)):
        yield f"lost: the column {old.name}.{name} ({amount})"
    for name in sorted(set(new.columns) - set(old.columns)):
        given = new.columns[name].default or filled(name, statements)
        yield f"invented: the column {new.name}.{name} comes back with {given or 'NULL'} in {amount}"
    for name in sorted(set(old.columns) & set(new.columns)):
        was, becomes = old.columns[name], new.columns[name]
        if types.change(was.type, becomes.type) in (types.Change.NARROWER, types.Change.OTHER):
            yield f"may fail: {old.name}.{name} becomes {becomes.type} again, and values of {was.type} may not fit"
        if becomes.not_null and not was.not_null:
            yield f"may fail: {old.name}.{name} becomes NOT NULL again, and it may hold NULL"


def filled(column: str, statements: Sequence[str]) -> str:
    """The value that a statement gives existing rows in a column that it adds."""
    for sql in statements:
        if match := re.search(FILLED.format(re.escape(column)), sql):
            return str(match[1])
    return ""


def unproven(migration: Any) -> list[str]:
    """What no empty copy of the schema can show: code and SQL that change rows, and reverses that do nothing."""
    found = []
    for operation in migration.operations:
        kind, back = operations.runs(operation), operations.reverse(operation)
        if kind and back == "noop":
            found.append(f"stays: what it did to rows ({operation.describe()})")
        elif kind:
            found.append(f"not tried on rows: {operation.describe()}, backwards")
    return found


# the release that comes back


def known(order: Mapping[str, Any]) -> dict[str, Any]:
    """The migrations that this release has, or had before they were squashed: {known, apps}. Connects to nothing."""
    from bluegreen.schema import service

    service.setup(order)
    from django.db.migrations.loader import MigrationLoader

    loader = MigrationLoader(None)
    found = set(loader.disk_migrations)
    for migration in loader.disk_migrations.values():
        found |= {(str(app), str(name)) for app, name in migration.replaces}
    return {"format": FORMAT, "known": sorted(map(list, found)), "apps": sorted(loader.migrated_apps)}


# the release that goes: tried on a shadow


def back(order: Mapping[str, Any]) -> dict[str, Any]:
    """Undo on a shadow what `known` and `apps` of the older release leave: {steps, problems, older, newer, footprint}.

    order: as of judge, and `known`, `apps`, `ours` [[database, app, name]] (the ledger's, oldest first), `older` and
    `newer` (kept footprints). `older`, `newer` of the answer: {start, way, end}: what does not fit, a line each.
    """
    from bluegreen.schema import service

    bundles = service.bundles_of(order)
    methods = [str(name) for name in order.get("methods") or ("cluster", "scratch")]
    if "static" in methods:
        raise bad_input("a reverse is never predicted", "", "the methods are cluster and scratch")
    answer: dict[str, Any] = {
        "format": FORMAT, "steps": [], "problems": [],
        "older": {"start": [], "way": [], "end": []}, "newer": {"start": [], "way": [], "end": []},
    }  # fmt: skip
    with service.on_shadow(order, bundles, methods) as place:
        answer |= {"method": place.method, "why_not_better": place.why_not}
        for alias, bundle in bundles.items():
            _back(alias, bundle, order, place.wall, answer)
    return answer


def _back(alias: str, bundle: Mapping[str, Any], order: Mapping[str, Any], wall: Any, answer: dict[str, Any]) -> None:
    """One database: adds to the answer."""
    from django.db import connections

    from bluegreen.schema import runner

    connection = connections[alias]
    executor = runner.executor_of(connection)
    known_there = {(str(app), str(name)) for app, name in order.get("known") or ()}
    ours = [(str(app), str(name)) for database, app, name in order.get("ours") or () if database == alias]
    replaces = {key: migration.replaces for key, migration in executor.loader.disk_migrations.items()}
    applied = [(str(app), str(name)) for app, name in bundle["applied"]]
    undo, unexplained = chosen(applied, known_there, set(order.get("apps") or ()), set(ours), replaces)
    undo.sort(key=ours.index)
    answer["problems"] += [
        f"{'.'.join(key)} is applied, the older release does not have it, and the ledger does not know who ran it"
        for key in unexplained
    ]
    graph = executor.loader.graph
    answer["problems"] += blocked(undo, graph, executor.loader.applied_migrations)
    if answer["problems"]:
        return
    order_of = ordered(undo, {key: set(graph.forwards_plan(key)) - {key} for key in undo})
    expected = models.of_release(connection)
    pairs = {"older": _kept(order, "older", alias), "newer": (expected, _keys(order, "newer", alias))}
    catalog = tryout.read_catalog(connection)
    for who, (footprint, before) in pairs.items():
        answer[who]["start"] += _misfits(alias, footprint, catalog, before)
    rows = {name: int(pair[0]) for name, pair in bundle["sizes"].items() if pair[0] is not None}
    for number, key in enumerate(order_of, 1):
        step, after = _try(connection, key, wall, catalog, rows)
        answer["steps"].append(step)
        if step["failed"]:
            answer["problems"].append(f"undoing {'.'.join(key)} fails on an empty copy: {step['failed']}")
            return
        place = "end" if number == len(order_of) else "way"
        for who, (footprint, before) in pairs.items():
            answer[who][place] += _misfits(alias, footprint, after, before)
        catalog = after


def blocked(undo: Sequence[Key], graph: Any, applied: Collection[Key]) -> list[str]:
    """Why a set of migrations cannot be undone as a whole, a line for each reason."""
    found = []
    for key in undo:
        label = ".".join(key)
        if key not in graph.nodes:
            found.append(f"{label} is not in the live release: its code is needed to undo it")
            continue
        for operation in graph.nodes[key].operations:
            if operations.reverse(operation) == "no":
                found.append(f"{label} cannot be undone: {operation.describe()}")
        stays = [other for other in graph.backwards_plan(key) if other in applied and other not in undo]
        if stays:
            found.append(f"{label} cannot be undone: {'.'.join(stays[0])} depends on it and stays")
    return found


def _keys(order: Mapping[str, Any], who: str, alias: str) -> set[tuple[str, ...]]:
    return {tuple(key) for key in ((order.get(who) or {}).get("known") or {}).get(alias, ())}


def _kept(order: Mapping[str, Any], who: str, alias: str) -> tuple[Footprint, set[tuple[str, ...]]]:
    found = ((order.get(who) or {}).get("databases") or {}).get(alias)
    return (Footprint.from_json(found) if found else Footprint()), _keys(order, who, alias)


def _misfits(alias: str, footprint: Footprint, catalog: Catalog, before: Collection[tuple[str, ...]]) -> list[str]:
    lines = []
    for one in fits.misfits(footprint, catalog, "older"):
        if one.key not in before:
            place = ".".join(part for part in (one.table, one.column) if part)
            lines.append(f"{alias}: {place}: {advice.text(one).why.replace('the older release', 'it')}")
    return lines


def _try(
    connection: Any, key: Key, wall: Any, before: Catalog, rows: Mapping[str, int]
) -> tuple[dict[str, Any], Catalog]:
    """Undo one migration on the shadow."""
    from bluegreen.schema import runner

    executor = runner.executor_of(connection)  # it reads what is applied: another one after each step
    migration = executor.loader.graph.nodes[key]
    statements: list[str] = []

    def note(run: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        if sqltext.kind(str(sql)) not in (sqltext.Kind.QUERY, sqltext.Kind.SETTING) and "django_migrations" not in str(
            sql
        ):
            with contextlib.suppress(Exception):
                statements.append(str(connection.ops.compose_sql(str(sql), params)) if params else str(sql))
        return run(sql, params, many, context)

    failed = ""
    try:
        with connection.execute_wrapper(note):
            wall.closed = True
            executor.migrate(None, plan=[(migration, True)])
    except Exception as problem:  # noqa: BLE001  whatever a migration raises
        failed = tryout.line(problem)
    finally:
        wall.closed = False
    after = before if failed else tryout.read_catalog(connection)
    changed = {name for name in {**before.tables, **after.tables} if before.tables.get(name) != after.tables.get(name)}
    step = {
        "database": connection.alias, "app": key[0], "name": key[1], "failed": failed, "sql": statements,
        "file_sha256": runner.digest_of(migration), "atomic": bool(migration.atomic),
        "tables": sorted(changed & set(before.tables)),
        "costs": costs(before, after, rows, statements) + unproven(migration),
    }  # fmt: skip
    return step, after


# for good


def undo(order: Mapping[str, Any]) -> dict[str, Any]:
    """Undo the `steps` of `back`, in their order, under the lock and the timeouts of a run: {undone, failed, left, …}.

    `older`: the footprint that must fit at the end; `left` of the answer: what of it does not.
    """
    from collections import deque

    from bluegreen.schema import runner, service

    service.setup(order)
    lines: deque[str] = deque(maxlen=runner.KEPT_LINES)
    steps = [runner.Step({**one, "back": True}) for one in order.get("steps") or ()]
    answer: dict[str, Any] = {"undone": [], "failed": None, "left": []}
    with runner.unbreakable(lines):
        for alias in dict.fromkeys(step.database for step in steps):
            answer["failed"] = _undo_on(alias, [one for one in steps if one.database == alias], order, answer)
            if answer["failed"]:
                break
    return answer | {"output": list(lines)}


def _undo_on(
    alias: str, steps: Sequence[Any], order: Mapping[str, Any], answer: dict[str, Any]
) -> dict[str, Any] | None:
    """The migrations of one database. Returns what failed."""
    from django.db import connections

    from bluegreen.schema import runner

    connection = connections[alias]
    session = runner.Session(connection, order)
    session.begin()
    try:
        for number, step in enumerate(steps, 1):
            executor = runner.executor_of(connection)
            if (step.app, step.name) not in executor.loader.applied_migrations:
                continue  # an earlier run was here
            runner.same_file(executor, step)
            runner.say(f"undoing {step.label} ({number} of {len(steps)})")
            plan = [(executor.loader.graph.nodes[step.app, step.name], True)]
            runner.send_signal(
                "pre", connection, executor._create_project_state(with_applied_migrations=True).apps, plan
            )

            def work(executor: Any = executor, plan: Any = plan) -> Any:
                return executor.migrate(None, plan=plan)

            state, done, failed = runner.perform(session, plan[0][0], step, work)
            if failed:
                return failed
            answer["undone"].append(done)
            runner.say(f"{step.label} undone in {done['seconds']:.2f} s")
            if number == len(steps):
                session.timeouts(False)
                if problem := runner.post_migrate(session, connection, state, plan):
                    return problem
        footprint, before = _kept(order, "older", alias)
        answer["left"] += _misfits(alias, footprint, tryout.read_catalog(connection), before)
    finally:
        connection.close()
    return None
