"""The footprint of the release whose virtualenv runs this: what its Django models expect of a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bluegreen.schema.facts import Footprint, TableUse, Use


def footprint(apps: Any, connection: Any, allowed: Callable[[Any], bool] = lambda _model: True) -> Footprint:
    """Of a registry of models (of the application, or of a migration's state).

    allowed: do the routers put this model into the database? Many-to-many tables count; proxies and swapped models do
    not; unmanaged ones do, for they read and write as well.
    """
    tables: dict[str, TableUse] = {}
    for model in apps.get_models(include_auto_created=True):
        meta = model._meta
        if meta.proxy or meta.swapped or not allowed(model):
            continue
        use = table_use(model, connection)
        known = tables.get(meta.db_table)
        if known is not None and (known.managed or not use.managed):
            use = TableUse(known.model, {**use.columns, **known.columns}, known.managed, known.unique, known.names)
        tables[meta.db_table] = use
    return Footprint(tables)


def table_use(model: Any, connection: Any) -> TableUse:
    """How one model uses its table."""
    meta = model._meta
    fields = [field for field in meta.local_concrete_fields if field.column]
    unique = {frozenset([field.column]) for field in fields if field.unique}
    by_name = {field.name: field.column for field in fields}
    unique |= {frozenset(by_name.get(name, name) for name in names) for names in meta.unique_together}
    names = set()
    for one in [*meta.constraints, *meta.indexes]:
        names.add(str(one.name))
        if getattr(one, "fields", None) and getattr(one, "condition", None) is None and one in meta.constraints:
            unique.add(frozenset(by_name.get(name, name) for name in one.fields))
    return TableUse(
        meta.label,
        {field.column: Use(column_type(field, connection), bool(field.null), writes(field)) for field in fields},
        bool(meta.managed),
        frozenset(unique),
        frozenset(names),
    )


def column_type(field: Any, connection: Any) -> str:
    """The type as Django would create it, or nothing where only the database knows."""
    return str(field.db_type(connection) or "")


def writes(field: Any) -> str:
    """How an INSERT of Django's treats the field: see facts.Use."""
    from django.db.models.fields import NOT_PROVIDED, AutoFieldMixin

    if getattr(field, "generated", False):
        return "never"
    if isinstance(field, AutoFieldMixin):
        return "auto"
    # Django 5.0 and newer: DEFAULT stands in the INSERT where no value was given
    return "value" if getattr(field, "db_default", NOT_PROVIDED) is NOT_PROVIDED else "default"


def of_release(connection: Any) -> Footprint:
    """Of the installed applications, for the database that the connection is to."""
    from django.apps import apps
    from django.db import router

    return footprint(apps, connection, lambda model: bool(router.allow_migrate_model(connection.alias, model)))


def drift(loader: Any) -> list[str]:
    """Model changes that no migration makes, as `makemigrations --check` would find them: one text for each."""
    from django.apps import apps
    from django.db.migrations.autodetector import MigrationAutodetector
    from django.db.migrations.questioner import NonInteractiveMigrationQuestioner
    from django.db.migrations.state import ProjectState

    wanted = set(loader.migrated_apps)
    questioner = NonInteractiveMigrationQuestioner(specified_apps=wanted, dry_run=True, verbosity=0)
    detector = MigrationAutodetector(loader.project_state(), ProjectState.from_apps(apps), questioner)
    changes = detector.changes(graph=loader.graph, trim_to_apps=wanted or None, convert_apps=None)
    return [
        f"{app}: {operation.describe()}"
        for app, migrations in sorted(changes.items())
        for migration in migrations
        for operation in migration.operations
    ]
