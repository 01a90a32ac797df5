"""Try the corpus in one throwaway server: `python -m tests.schema.corpus.run [NAME…]`, in a virtualenv with Django.

Prints one JSON object: {django, server, cases: {name: {verdict, rules, sql, error, seconds}}}.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from bluegreen.schema import decide, models, shadow, tryout
from bluegreen.schema.facts import Size
from bluegreen.schema.rules import Setting
from bluegreen.schema.service import answer_apart
from bluegreen.schema.wall import Wall
from tests.schema.corpus import old_code
from tests.schema.corpus.case import Case

MODULES = ("tables", "fields", "indexes", "sql", "data")
MANY, FEW = Size(1_000_000, 200_000_000), Size(100, 8192)


def cases(names: list[str]) -> list[Case]:
    """The corpus, or the named ones, that this Django can run."""
    import django

    found = [one for name in MODULES for one in importlib.import_module(f"tests.schema.corpus.{name}").CASES]
    return [one for one in found if (not names or one.name in names) and django.VERSION[:2] >= one.django]


def migration(text: str, name: str, prelude: str = "", atomic: bool = True) -> Any:
    """A migration's instance from the text of its operations."""
    from django.db import migrations, models

    space: dict[str, Any] = {"migrations": migrations, "models": models}
    exec(prelude, space)
    space["atomic"] = atomic
    exec(f"class Migration(migrations.Migration):\n    atomic = atomic\n    operations = [{text}]", space)
    return space["Migration"](name, "shop")


def executor(connection: Any, state: Any) -> Any:
    """Applies migrations that no loader knows, from a state on."""
    from django.db.migrations.executor import MigrationExecutor

    class Executor(MigrationExecutor):
        def __init__(self) -> None:
            self.connection, self.progress_callback = connection, None

        def _create_project_state(self, with_applied_migrations: bool = False) -> Any:
            return state

        def record_migration(self, *_: Any) -> None:
            """Nothing reads it."""

    return Executor()


class Bases:
    """A database for each set of models, made once: a case changes it in a transaction that is rolled back, or, if it
    must not run in one, changes a copy."""

    def __init__(self, connection: Any, admin: Any) -> None:
        self.connection, self.admin = connection, admin
        self.states: dict[str, tuple[str, Any]] = {}
        self.copies = 0

    def make(self, text: str) -> tuple[str, Any]:
        """The database of the schema that `text` makes, and the models' state."""
        from django.db.migrations.state import ProjectState

        if text not in self.states:
            name = f"base_{len(self.states)}"
            self.admin(f"CREATE DATABASE {name}")
            self.use(name)
            state = ProjectState()
            with self.connection.schema_editor() as editor:
                state = migration(text, "0001_initial").apply(state, editor)
            state.apps  # noqa: B018  rendered once, then copied
            self.states[text] = (name, state)
        return self.states[text]

    def use(self, name: str) -> None:
        """Connect to another database of the server."""
        if self.connection.settings_dict["NAME"] != name:
            self.connection.close()
            self.connection.settings_dict["NAME"] = name

    @contextlib.contextmanager
    def place(self, text: str, alone: bool) -> Iterator[Any]:
        """The models' state, with the connection to a schema that may be changed."""
        from django.db import transaction

        name, state = self.make(text)
        if alone:
            self.connection.close()
            self.copies += 1
            self.admin(f"CREATE DATABASE case_{self.copies} TEMPLATE {name}")
            self.use(f"case_{self.copies}")
            yield state.clone()
        else:
            self.use(name)
            with transaction.atomic():
                yield state.clone()
                transaction.set_rollback(True)


def try_case(case: Case, bases: Bases, connection: Any, wall: Wall) -> dict[str, Any]:
    """What the classifier says to one case."""
    with bases.place(case.base, bool(case.loose)) as state:
        return judge(case, state, connection, wall)


def judge(case: Case, state: Any, connection: Any, wall: Wall) -> dict[str, Any]:
    """The same, of a schema that is there."""
    live_state = state.clone()
    if case.live:
        live_state = migration(case.live, "live").mutate_state(live_state)
    live = models.footprint(live_state.apps, connection)
    pending = [
        (migration(text, f"{number + 2:04}_pending", case.prelude, number not in case.loose), False)
        for number, text in enumerate(case.migrations)
    ]
    after = state.clone()
    predicted = predict(case, state.clone(), live, connection)
    before = old_code.works(live_state.apps, connection)
    baseline = tryout.read_catalog(connection)
    steps = tryout.steps(executor(connection, state), connection, pending, baseline, wall)
    if not any(step.failed for step in steps):
        for one, _ in pending:
            after = one.mutate_state(after, preserve=False)
        if case.new:
            after = migration(case.new, "new").mutate_state(after, preserve=False)
    new = models.footprint(after.apps, connection)
    failed = any(step.failed for step in steps)
    broke = "" if failed or before else old_code.works(live_state.apps, connection)
    sizes = {name: MANY if name.split(".")[1] in case.large else FEW for name in baseline.tables}
    result = decide.answer([decide.Case("default", steps, Setting(baseline, live, sizes), new)], "shadow", "corpus")
    reasons = [one for item in [*result["migrations"], {"reasons": result["problems"]}] for one in item["reasons"]]
    return {
        "verdict": result["verdict"],
        "rules": sorted({one["rule"] for one in reasons if one["verdict"] == result["verdict"]}),
        "all_rules": sorted({one["rule"] for one in reasons}),
        "lines": decide.summary(result),
        "sql": [sql for item in result["migrations"] for sql in item["sql"]],
        "static": predicted,
        "before": before,
        "broke_new": "" if failed else old_code.works(after.apps, connection),
        "broke": broke,
        "late": [item["late_possible"] for item in result["migrations"]],
        "bridge": [statement for item in result["migrations"] for statement in item["bridge"]],
        "failed": failed,
    }


def predict(case: Case, state: Any, live: Any, connection: Any) -> str:
    """The verdict without a shadow."""
    pending = [
        (migration(text, f"{number + 2:04}_pending", case.prelude, number not in case.loose), False)
        for number, text in enumerate(case.migrations)
    ]
    new_state = state.clone()
    for one, _ in pending:
        new_state = one.mutate_state(new_state, preserve=False)
    if case.new:
        new_state = migration(case.new, "new").mutate_state(new_state, preserve=False)
    new = models.footprint(new_state.apps, connection)
    baseline, steps = tryout.predictions(executor(connection, state), connection, pending)
    sizes = {name: MANY if name.split(".")[1] in case.large else FEW for name in baseline.tables}
    found = decide.Case("default", steps, Setting(baseline, live, sizes), new, tried=False)
    return str(decide.answer([found], "static", "corpus")["verdict"])


@contextlib.contextmanager
def place() -> Iterator[tuple[Any, Wall, Bases]]:
    """A server that is gone at the end: Django's connection to it, the wall, and what makes databases. Once a process."""
    import django
    from django.conf import settings

    with shadow.cluster(shadow.find_binaries(), "shadow") as server:
        entry = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": server.host,
            "PORT": server.port,
            "USER": server.user,
        }
        settings.configure(
            DATABASES={"default": {**entry, "NAME": "postgres"}}, INSTALLED_APPS=[], USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        )  # fmt: skip
        django.setup()
        from django.db import connections

        connection = connections["default"]
        wall = Wall()
        wall.up(lambda wanted: str(wanted.get("host")) == server.host)
        keeper = connection.copy("keeper")

        def admin(sql: str) -> None:
            with keeper.cursor() as cursor:
                cursor.execute(sql)

        yield connection, wall, Bases(connection, admin)
        connection.close()
        keeper.close()


def run(names: list[str]) -> dict[str, Any]:
    """All of it, or the named ones."""
    found: dict[str, Any] = {}
    with place() as (connection, wall, bases):
        import django

        for case in cases(names):
            started = time.monotonic()
            try:
                found[case.name] = try_case(case, bases, connection, wall)
            except Exception as problem:  # noqa: BLE001  one bad case must not hide the others
                found[case.name] = {
                    "verdict": "error",
                    "rules": [],
                    "all_rules": [],
                    "lines": [tryout.line(problem)],
                    "sql": [],
                }
            found[case.name]["seconds"] = round(time.monotonic() - started, 3)
        server = connection.cursor().execute("SHOW server_version").fetchone()[0]
    return {"django": ".".join(map(str, django.VERSION[:3])), "server": server, "cases": found}


if __name__ == "__main__":
    with answer_apart() as write:
        write(json.dumps(run(sys.argv[1:])))
