"""The releases that scenarios deploy: repositories and artifacts in .cache/test/, built once, kept while unchanged.

`python molecule/shared/artifacts.py [NAME…]` makes those that are missing; the names are the keys of RELEASES.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from support.common import locked  # noqa: E402  the path first

WORK = REPO / ".cache" / "test"
STORE = WORK / "artifacts"
# Of two artifacts of one commit a deploy takes the newest: those for another Python have a store of their own.
OTHER_STORE = WORK / "artifacts-other-python"
DIARY_STORE = WORK / "artifacts-diary"
KNOWN = WORK / "releases.json"
INVENTORIES = REPO / "molecule" / "shared" / "inventories"

# The system of hosts that may be of either, and the Python of the hosts' systems: see scripts/support/hosts.py.
SYSTEM = os.environ.get("TEST_HOST_OS", "")
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
OF_FLEET, OF_VM = PYTHON[SYSTEM or "trixie"], PYTHON[SYSTEM or "bookworm"]

# What decides how an artifact turns out, beside the application itself.
BUILDER = (
    "scripts/build-artifact",
    "scripts/support/artifact",
    "scripts/support/example_repo.py",
    "molecule/shared/artifacts.py",
)

FAILING_MIGRATION = '''"""Fails after a change: nothing of it may stay."""

from django.db import migrations


def fail(apps, schema_editor):
    raise RuntimeError("this migration fails on purpose")


class Migration(migrations.Migration):
    dependencies = [("orders", "0003_order_note")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE orders_product ADD COLUMN half_done integer",
            "ALTER TABLE orders_product DROP COLUMN half_done",
        ),
        migrations.RunPython(fail, migrations.RunPython.noop),
    ]
'''

DROPPING_MIGRATION = '''"""Takes away what live code reads."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("orders", "0003_order_note")]
    operations = [
        migrations.RunSQL(
            "ALTER TABLE orders_order DROP COLUMN note", "ALTER TABLE orders_order ADD COLUMN note varchar(200)"
        ),
    ]
'''

FILLING_MIGRATION = '''"""Changes rows."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("orders", "0003_order_note")]
    operations = [
        migrations.RunSQL("UPDATE orders_order SET note = note WHERE note IS NULL", migrations.RunSQL.noop),
    ]
'''

FORGETTING_MIGRATION = '''"""The code is r1's again, and the column goes."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("orders", "0003_order_note")]
    operations = [migrations.RemoveField("order", "note")]
'''

LEAKING_MIGRATION = '''"""Passes where there are no rows, as on a shadow; elsewhere it fails and tells secrets."""

import os

from django.db import migrations


def fail(apps, schema_editor):
    with schema_editor.connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM accounts_user")
        if cursor.fetchone()[0]:
            raise RuntimeError(os.environ["ODD"] + os.environ["ADDRESS"])


class Migration(migrations.Migration):
    dependencies = [("journal", "0001_initial"), ("accounts", "0001_initial")]
    operations = [migrations.RunPython(fail, migrations.RunPython.noop)]
'''

# Where commits are added: application → the commit that they follow, the directory of its migrations.
ADDED_TO = {"orders": ("r2", "orders/migrations"), "notes": ("n1", "src/journal/migrations")}
# Commits that only add a migration: application → tag → name of the migration, its text, the commit's message.
ADDED: dict[str, dict[str, tuple[str, ...]]] = {
    "orders": {
        "forgets_note": ("0004_forget", FORGETTING_MIGRATION, "Forget a column", "r1"),  # and another commit's code
        "migration_fails": ("0004_fails", FAILING_MIGRATION, "Fail while migrating"),
        "drops_note": ("0004_drop", DROPPING_MIGRATION, "Drop a column that is read"),
        "fills_note": ("0004_fill", FILLING_MIGRATION, "Change rows"),
    },
    "notes": {"migration_leaks": ("0002_leaks", LEAKING_MIGRATION, "Fail while migrating, and tell secrets")},
}


@dataclass(frozen=True)
class Release:
    """One artifact of a commit of the example `app`.

    settings: the inventory whose app.yml builds it · python: in place of its app_python · more: others, as for --set
    """

    app: str
    rev: str
    settings: str
    python: str
    store: Path = STORE
    more: tuple[str, ...] = ()


# The notes under another name, able to talk to PostgreSQL.
DIARY = ("app_name=diary", 'app_extra_requirements=["gunicorn>=23,<28", "psycopg[binary]>=3.2,<4"]')

RELEASES = {
    **{name: Release("orders", name, "fleet", OF_FLEET) for name in ("r1", "r2", "r3", "r4", "r5", "r6")},
    **{name: Release("orders", name, "fleet", OF_FLEET) for name in ADDED["orders"]},
    **{name: Release("notes", name, "vm", OF_VM) for name in ("n1", "n2", "n3")},
    # The second application beside the first, on hosts of the fleet's system.
    **{f"{name}_313": Release("notes", name, "vm", OF_FLEET, OTHER_STORE) for name in ("n1", "n2")},
    **{name: Release("notes", name.replace("d", "n"), "vm", OF_VM, DIARY_STORE, DIARY) for name in ("d1", "d2")},
    "migration_leaks": Release("notes", "migration_leaks", "vm", OF_VM, DIARY_STORE, DIARY),
    # A column is replaced by another one.
    **{name: Release("orders", name, "fleet", OF_FLEET) for name in ("r7", "r8", "r9", "r10", "r11", "r12")},
    **{name: Release("orders", name, "fleet", OF_FLEET) for name in ("s8", "s9", "s10")},  # by shadow table and swap
}


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command; its standard output. Ends the program with its last words if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=REPO, capture_output=True, text=True, env={**os.environ, **(env or {})}, timeout=900, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n" + (done.stdout + done.stderr)[-3000:])
    return done.stdout


def digest(app: str) -> str:
    """Digest of everything an application's repository and artifacts are made from."""
    found = hashlib.sha256(SYSTEM.encode())
    for name in (*BUILDER, f"examples/{app}"):
        top = REPO / name
        paths = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
        for path in paths:
            if not {"__pycache__", ".github"} & set(path.parts):
                found.update(f"{path.relative_to(REPO)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def make_repository(app: str) -> Path:
    """The example's history as a git repository, with the tests' own commits beside it."""
    target, stamp, wanted = WORK / app, WORK / f"{app}.stamp", digest(app)
    if stamp.exists() and stamp.read_text() == wanted:
        return target
    shutil.rmtree(target, ignore_errors=True)
    for path in (path for store in (STORE, OTHER_STORE) for path in store.glob(f"{app}-*")):
        path.unlink()
    if app == "notes":
        shutil.rmtree(DIARY_STORE, ignore_errors=True)
    KNOWN.write_text(json.dumps({name: item for name, item in known().items() if RELEASES[name].app != app}, indent=2))
    run(REPO / "scripts" / "example-repo", target, "--app", app)
    for tag, added in ADDED[app].items():
        add_migration(target, *ADDED_TO[app], tag, *added)
    stamp.write_text(wanted)
    return target


def add_migration(
    repository: Path, after: str, place: str, tag: str, name: str, text: str, message: str, code: str = ""
) -> None:
    """A commit after another one with one more migration, and with the files of a third where it has them."""
    moment: dict[str, str] = {}
    for who in ("AUTHOR", "COMMITTER"):
        moment |= {f"GIT_{who}_NAME": "Tests", f"GIT_{who}_EMAIL": "tests@example.org"}
        moment[f"GIT_{who}_DATE"] = "2026-03-02T09:00:00+00:00"
    git = ("git", "-C", str(repository))
    run(*git, "checkout", "--quiet", "--detach", after)
    if code:
        run(*git, "checkout", "--quiet", code, "--", ".")
        # A release that serves while one of its migrations waits must not call itself unready for that.
        health = repository / "orders" / "health.py"
        health.write_text(
            health.read_text().replace('_migrations() if parts["database"] == "ok" else "unknown"', '"ok"')
        )
    (repository / place / f"{name}.py").write_text(text)
    run(*git, "add", "--all", env=moment)
    run(*git, "commit", "--quiet", "--message", message, env=moment)
    run(*git, "tag", tag)
    run(*git, "checkout", "--quiet", "main")


def build(name: str) -> dict[str, str]:
    """The artifact of one release: {sha, stem}."""
    release = RELEASES[name]
    settings = INVENTORIES / release.settings / "group_vars" / "app_servers" / "app.yml"
    answer = run(
        REPO / "scripts" / "build-artifact",
        *("--settings", settings, "--source", WORK / release.app, "--rev", release.rev, "--store", release.store),
        *(word for text in (f"app_python={release.python}", *release.more) for word in ("--set", text)),
        *("--format", "json"),
    )
    found = json.loads(answer)
    return {"sha": found["sha"], "stem": found["artifact"]}


def known() -> dict[str, dict[str, str]]:
    """The releases that are built: name → {sha, stem}."""
    found: dict[str, dict[str, str]] = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    return found


def ensure(names: Iterable[str]) -> None:
    """Make what is missing of these releases. Scenarios run beside each other: one of them builds at a time."""
    with locked(WORK / "artifacts.lock"):
        make(names)


def make(names: Iterable[str]) -> None:
    """Build them, one after the other."""
    for app in sorted({RELEASES[name].app for name in names}):
        make_repository(app)
    for name in names:
        item = known().get(name)
        if item and (RELEASES[name].store / f"{item['stem']}.squashfs").exists():
            continue
        started = time.monotonic()
        item = build(name)
        KNOWN.write_text(json.dumps(known() | {name: item}, indent=2) + "\n")
        print(f"{name}: {item['stem']} ({time.monotonic() - started:.1f} s)", flush=True)


if __name__ == "__main__":
    wanted = sys.argv[1:] or list(RELEASES)
    unknown = [name for name in wanted if name not in RELEASES]
    if unknown:
        sys.exit(f"no release is called {unknown[0]}: the tests know {', '.join(RELEASES)}")
    ensure(wanted)
