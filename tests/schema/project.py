"""A Django project in two releases: two databases with a router, an own user model, a squash, faked history."""

from __future__ import annotations

import textwrap
from pathlib import Path

SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"]
INSTALLED_APPS += ["people", "shop", "stats"]
AUTH_USER_MODEL = "people.Person"
ENGINE = "django.db.backends.postgresql"
DATABASES = {"default": {"ENGINE": ENGINE, "NAME": "a"}, "stats": {"ENGINE": ENGINE, "NAME": "b"},
             "replica": {"ENGINE": ENGINE, "NAME": "a", "TEST": {"MIRROR": "default"}},
             "local": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DATABASE_ROUTERS = ["conf.Router"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
print("settings may print")
class Router:
    def allow_migrate(self, db, app_label, **hints):
        return db in ("default", "stats") and (app_label == "stats") == (db == "stats")
    def db_for_read(self, model, **hints):
        return "stats" if model._meta.app_label == "stats" else None
    db_for_write = db_for_read
"""
PERSON = """
from django.contrib.auth.models import AbstractUser
class Person(AbstractUser):
    pass
"""
ORDER = """
from django.db import models
class Order(models.Model):
    number = models.CharField(max_length=20)
    {fields}
class Paper(models.Model):
    text = models.TextField()
    class Meta:
        db_table = 'archive"."paper'
"""
HIT = """
from django.db import models
class Hit(models.Model):
    page = models.CharField(max_length={length})
"""
MIGRATION = """
from django.db import migrations, models
{prelude}
class Migration(migrations.Migration):
    {head}
    operations = [{operations}]
"""
CREATE_ORDER = """
    migrations.CreateModel("Order", [("id", models.BigAutoField(primary_key=True, auto_created=True, serialize=False,
        verbose_name="ID")), ("number", models.CharField(max_length=20))]),"""
NOTE = 'migrations.AddField("Order", "note", models.TextField(null=True)),'
PAPER = """
    migrations.RunSQL("CREATE SCHEMA IF NOT EXISTS archive", "DROP SCHEMA archive"),
    migrations.CreateModel("Paper", [("id", models.BigAutoField(primary_key=True, auto_created=True, serialize=False,
        verbose_name="ID")), ("text", models.TextField())], options={"db_table": 'archive"."paper'}),"""
REACHES = """
def reaches(apps, schema_editor):
    import os, socket
    from django.core.cache import cache
    from django.db import connections
    cache.clear()
    Hit = apps.get_model("stats", "Hit")
    Hit.objects.using("stats").count()          # its shadow
    try:
        connections["local"].cursor()
        socket.create_connection(("127.0.0.1", 9), 1)
    except OSError:
        pass
"""


def migration(operations: str, head: str = "", prelude: str = "") -> str:
    """The text of a migration's file."""
    return MIGRATION.format(operations=operations, head=head or "pass", prelude=prelude)


def base() -> dict[str, str]:
    """The release that is live: file → content."""
    return {
        "conf.py": SETTINGS,
        "manage.py": 'import os\nos.environ.setdefault("DJANGO_SETTINGS_MODULE", "conf")\n',
        "people/models.py": PERSON,
        "shop/models.py": ORDER.format(fields="note = models.TextField(null=True)"),
        "shop/migrations/0001_initial.py": migration(CREATE_ORDER, "initial = True"),
        "shop/migrations/0002_note.py": migration(NOTE, 'dependencies = [("shop", "0001_initial")]'),
        "shop/migrations/0003_paper.py": migration(PAPER, 'dependencies = [("shop", "0002_note")]'),
        "stats/models.py": HIT.format(length=20),
        "stats/migrations/0001_initial.py": migration(
            """migrations.CreateModel("Hit", [("id", models.BigAutoField(primary_key=True, auto_created=True,
                serialize=False, verbose_name="ID")), ("page", models.CharField(max_length=20))]),""",
            "initial = True",
        ),
    }


def head() -> dict[str, str]:
    """The release to be deployed: 0001 and 0002 squashed, a column dropped, one widened in the other database."""
    files = base()
    del files["shop/migrations/0002_note.py"], files["shop/migrations/0001_initial.py"]
    files["shop/migrations/0001_squashed.py"] = migration(
        CREATE_ORDER + NOTE, 'initial = True\n    replaces = [("shop", "0001_initial"), ("shop", "0002_note")]'
    )
    files["shop/migrations/0003_paper.py"] = migration(PAPER, 'dependencies = [("shop", "0001_squashed")]')
    files["shop/migrations/0004_drop.py"] = migration(
        'migrations.RemoveField("Order", "note"),', 'dependencies = [("shop", "0003_paper")]'
    )
    files["shop/migrations/0005_reach.py"] = migration(
        "migrations.RunPython(reaches, migrations.RunPython.noop),",
        'dependencies = [("shop", "0004_drop"), ("stats", "0001_initial")]',
        REACHES,
    )
    files["shop/models.py"] = ORDER.format(fields="")
    files["stats/models.py"] = HIT.format(length=40)
    files["stats/migrations/0002_longer.py"] = migration(
        'migrations.AlterField("Hit", "page", models.CharField(max_length=40)),',
        'dependencies = [("stats", "0001_initial")]',
    )
    return files


def write(place: Path, files: dict[str, str]) -> Path:
    """Put the files there, with the packages they need, and the user model's own first migration."""
    for name, text in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        for parent in path.relative_to(place).parents:
            if str(parent) != ".":
                (place / parent / "__init__.py").touch()
    return place
