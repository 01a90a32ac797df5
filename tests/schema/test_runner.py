"""Migrations run for good, on a real PostgreSQL: once, under a lock, never without a timeout; failures told exactly."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from bluegreen.errors import BluegreenError, Code
from bluegreen.schema import shadow
from tests.schema import project
from tests.schema.site import ORDER, Site

FILL = """
def fill(apps, schema_editor):
    print("filling")
    apps.get_model("shop", "Order").objects.create(number="side effect")
"""


@pytest.fixture(scope="module")
def first(server: shadow.Server, django: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The first release has run its migrations."""
    made = Site(server, django, tmp_path_factory.mktemp("first"), f"first_{secrets.token_hex(4)}")
    made.run()
    return made


@pytest.fixture
def site(first: Site, tmp_path: Path) -> Site:
    return Site(first.server, first.python, tmp_path, f"site_{secrets.token_hex(4)}", first.name)


def test_each_migration_runs_once_with_two_runs_at_once(site: Site) -> None:
    site.migration("0002_fill", "migrations.RunPython(fill, migrations.RunPython.noop),", "", FILL)
    site.migration("0003_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    steps = site.steps()
    assert [one["name"] for one in steps] == ["0002_fill", "0003_note"]
    answers = [json.loads(child.communicate(timeout=60)[0]) for child in [site.start(steps), site.start(steps)]]
    applied = [one["name"] for answer in answers for one in answer.get("applied", [])]
    assert sorted(applied) == ["0002_fill", "0003_note"]
    assert site.sql("SELECT count(*) FROM shop_order") == "1", "the side effect"
    assert site.sql("SELECT count(*) FROM django_migrations WHERE app = 'shop'") == "3"
    assert site.sql("SELECT count(*) FROM django_content_type WHERE app_label = 'shop'") == "1", "post_migrate"
    assert "filling" in "\n".join(line for answer in answers for line in answer.get("output", []))


def test_readers_never_wait_longer_than_the_lock_timeout(site: Site) -> None:
    site.migration("0002_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    holder = site.hold("SELECT count(*) FROM shop_order")
    with site.reading() as stalls:
        child = site.start(site.steps(), lock_timeout=0.5, long=600)
        assert child.stderr is not None
        said = ""
        while "attempt 2" not in said:
            said = child.stderr.readline()
            assert said, "it gave up"
        meanwhile = max(stalls)  # the holder would never have ended by itself
        holder.communicate("COMMIT;\n")
        answer = json.loads(child.communicate(timeout=60)[0])
    assert answer["failed"] is None
    assert answer["applied"][0]["attempts"] >= 2
    assert meanwhile < 0.5 + 2, "lock_timeout, and what a busy machine adds"


def test_a_long_transaction_is_waited_for_and_named(site: Site) -> None:
    site.migration("0002_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    steps = site.steps()
    holder = site.hold("SET application_name = 'report'; SELECT count(*) FROM shop_order")
    answer = site.run(steps, patience=0.1, long=0.01)
    holder.communicate("COMMIT;\n")
    failed = answer["failed"]
    assert (failed["what"], failed["recorded"]) == ("shop.0002_note would wait behind a long transaction", False)
    assert "(report) has had a transaction open for" in failed["why"]


def test_after_a_failure_the_truth_is_told(site: Site) -> None:
    site.sql("INSERT INTO shop_order (number) VALUES ('1'), ('1')")
    site.migration("0002_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    unique = "CREATE UNIQUE INDEX CONCURRENTLY order_number ON shop_order (number)"
    site.migration(
        "0003_half",
        f'migrations.RunSQL("UPDATE shop_order SET note = number"), migrations.RunSQL("{unique}"),',
        "atomic = False",
    )
    answer = site.run()
    failed = answer["failed"]
    assert [one["name"] for one in answer["applied"]] == ["0002_note"], "what was applied before stays"
    assert failed["what"] == "shop.0003_half failed"
    assert failed["why"].startswith("IntegrityError: could not create unique index")
    assert failed["invalid_indexes"] == [["public.shop_order", "order_number"]]
    assert failed["next"] == (
        'remove the index that is invalid now (public.shop_order): DROP INDEX CONCURRENTLY "order_number"; '
        "shop.0003_half is not atomic and is half applied: "
        "undo by hand what stays (UPDATE shop_order SET note = number); then the same again"
    )
    assert failed["attempts"] == 1, "never again by itself"
    site.sql("DROP INDEX order_number; DELETE FROM shop_order; UPDATE shop_order SET note = NULL")
    assert [one["name"] for one in site.run()["applied"]] == ["0003_half"]


def test_a_caller_that_dies_does_not_end_a_migration(site: Site) -> None:
    loud = "def loud(apps, schema_editor):\n    for _ in range(2000):\n        print('x' * 100)\n"
    site.migration("0002_loud", "migrations.RunPython(loud, migrations.RunPython.noop),", "", loud)
    child = site.start(site.steps())
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    child.stderr.close()
    child.wait(60)
    assert site.sql("SELECT count(*) FROM django_migrations WHERE name = '0002_loud'") == "1"


def test_what_changed_since_the_plan_is_refused(site: Site) -> None:
    site.migration("0002_note", 'migrations.AddField("Order", "note", models.TextField(null=True)),')
    with pytest.raises(BluegreenError, match=r"shop\.0002_note is pending and was not planned") as caught:
        site.run([{"database": "default", "app": "shop", "name": "0001_initial"}])
    assert caught.value.code is Code.REFUSED
    with pytest.raises(BluegreenError, match=r"the file of shop\.0002_note is not the one that was judged"):
        site.run(site.steps(file_sha256="0" * 64))
    assert site.sql("SELECT count(*) FROM django_migrations WHERE app = 'shop'") == "1"


def test_what_is_wrong_with_nothing_pending_is_found_in_the_same_call(site: Site) -> None:
    names = ("contenttypes.0001_initial", "contenttypes.0002_remove_content_type_name", "shop.0001_initial")
    ours = dict.fromkeys(names, "")
    found = site.call("pending", ledger=ours)
    assert (found["pending"], found["problems"], found["footprint"]["drift"]) == ([], [], [])
    assert found["empty"], "nothing is there but what we made: where nothing is live there is nothing to judge"
    sha = {"shop.0001_initial": "0" * 64}
    site.sql("INSERT INTO django_migrations (app, name, applied) VALUES ('shop', '0009_newer', now())")
    site.sql("ALTER TABLE shop_order DROP COLUMN number")
    project.write(site.place, {"shop/models.py": ORDER + "    note = models.TextField(null=True)\n"})
    again = site.call("pending", ledger=sha, live=found["footprint"])
    assert {one["rule"] for one in again["problems"]} == {"ahead", "file-changed", "missing-column", "drift"}
    assert not again["empty"]
    fits = site.call("fit", kept={"a": found["footprint"]})["fits"]
    assert fits == {"a": [fits["a"][0]]}
    assert "public.shop_order.number" in fits["a"][0]
    wrong = {"default": {**site.order["databases"]["default"], "HOST": "127.0.0.1", "PORT": "1", "PASSWORD": "hunter2"}}
    with pytest.raises(BluegreenError, match="the database 'default' cannot be reached") as caught:
        site.call("pending", databases=wrong)
    assert "hunter2" not in str(caught.value)
    for name in ("0002_left", "0002_right"):
        text = project.migration("", 'dependencies = [("shop", "0001_initial")]')
        project.write(site.place, {f"shop/migrations/{name}.py": text})
    with pytest.raises(BluegreenError, match="migrations conflict: shop has several leaves: 0002_left, 0002_right"):
        site.call("pending")
    project.write(site.place, {"shop/migrations/0002_broken.py": "import no_such_module\n"})
    with pytest.raises(BluegreenError, match=r"the migrations cannot be loaded: ModuleNotFoundError: .*no_such_module"):
        site.call("pending")
