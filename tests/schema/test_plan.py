"""The whole way, as a deploy goes it: footprint of what is live, read, judge, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import shadow
from bluegreen.schema.service import call
from tests.schema import project

ENVIRONMENT = {**os.environ, "DJANGO_SETTINGS_MODULE": "conf"}


@dataclass
class Live:
    """A live database with its release, and the new one beside it."""

    server: shadow.Server
    databases: dict[str, Any]
    footprint: dict[str, Any]
    old: Path
    new: Path
    python: str

    def order(self, **more: Any) -> dict[str, Any]:
        return {"databases": self.databases, "live": self.footprint, "server": asdict(self.server), **more}

    def call(self, verb: str, place: Path | None = None, **more: Any) -> dict[str, Any]:
        return call(verb, self.order(**more), self.python, 120, cwd=place or self.new, env=ENVIRONMENT)

    def sql(self, text: str, alias: str = "default") -> str:
        return shadow.psql(self.server, self.databases[alias]["NAME"], text)


@pytest.fixture(scope="module")
def live(django: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = tmp_path_factory.mktemp("project")
    old, new = project.write(place / "old", project.base()), project.write(place / "new", project.head())
    for tree in (old, new):
        make = [django, "-m", "django", "makemigrations", "people", "-v0"]
        subprocess.run(make, cwd=tree, env=ENVIRONMENT, check=True, capture_output=True)
    with shadow.cluster(shadow.find_binaries()) as server:
        made = call("prepare", {"server": asdict(server)}, django, 120, cwd=old, env=ENVIRONMENT)["databases"]
        found = Live(server, made, {}, old, new, django)
        # A migration that was only recorded: its column is not what the file says.
        found.sql("ALTER TABLE shop_order ALTER COLUMN number TYPE varchar(30)")
        found.sql("INSERT INTO shop_order (number) SELECT 'n' FROM generate_series(1, 20000); ANALYZE shop_order")
        found.footprint = found.call("footprint", old)
        yield found


@pytest.fixture(scope="module")
def planned(live: Live) -> dict[str, Any]:
    return live.call("plan", methods=["cluster"])


def by_name(result: dict[str, Any]) -> dict[str, Any]:
    return {f"{item['database']}:{item['app']}.{item['name']}": item for item in result["migrations"]}


def test_each_database_gets_its_own_migrations_and_squashed_ones_are_done(planned: dict[str, Any]) -> None:
    run_on = {name: item["verdict"] for name, item in by_name(planned).items() if item["sql"]}
    assert run_on["default:shop.0004_drop"] == "refused"
    assert run_on["stats:stats.0002_longer"] == "safe"
    assert not [name for name in by_name(planned) if "0001" in name or "0003" in name]
    assert planned["method"] == "shadow"
    assert planned["problems"] == []


def test_a_refusal_names_the_table_its_size_the_line_and_the_other_road(planned: dict[str, Any]) -> None:
    item = by_name(planned)["default:shop.0004_drop"]
    reason = item["reasons"][0]
    assert (reason["rule"], reason["table"], reason["column"]) == ("missing-column", "public.shop_order", "note")
    assert "RemoveField" in Path(item["file"]).read_text().splitlines()[reason["line"] - 1]
    assert reason["releases"] == 2
    assert "SeparateDatabaseAndState" in reason["instead"]
    assert item["tables"][0]["rows"] >= 20000  # an estimate, and never below what ANALYZE saw
    assert item["late_possible"]
    assert item["bridge"] == []
    assert len(item["file_sha256"]) == 64
    assert item["approval"].startswith("shop.0004_drop@sha256:")


def test_python_code_reaches_its_databases_shadows_and_nothing_else(planned: dict[str, Any], live: Live) -> None:
    item = by_name(planned)["default:shop.0005_reach"]
    assert item["verdict"] == "needs_approval"
    whys = [reason["why"] for reason in item["reasons"] if reason["rule"] == "not-tried-python"]
    assert len(whys) == 1
    assert "socket.getaddrinfo" in whys[0] or "socket.connect" in whys[0]
    assert live.sql("SELECT count(*) FROM django_migrations WHERE name = '0005_reach'").strip() == "0"


def test_the_same_is_judged_the_same_beside_the_live_database_and_nothing_is_left(
    planned: dict[str, Any], live: Live
) -> None:
    before = live.sql("SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database")
    result = live.call("plan", methods=["scratch"])
    assert result["method_detail"] == "a scratch database beside the live one"
    assert {key: item["verdict"] for key, item in by_name(result).items()} == {
        key: item["verdict"] for key, item in by_name(planned).items()
    }
    assert [item["approval"] for item in result["migrations"]] == [item["approval"] for item in planned["migrations"]]
    assert live.sql("SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database") == before


@pytest.mark.full
def test_without_a_shadow_the_answer_says_so_and_nothing_opaque_is_safe(live: Live) -> None:
    result = live.call("plan", methods=["static"])
    assert result["method"] == "static"
    found = {key: item["verdict"] for key, item in by_name(result).items()}
    assert found["default:shop.0004_drop"] == "refused"
    assert found["default:shop.0005_reach"] == "needs_approval"
    assert found["stats:stats.0002_longer"] == "safe"


@pytest.mark.full
def test_without_server_programs_the_next_method_is_taken_and_the_reason_is_told(live: Live) -> None:
    result = live.call("plan", server=None, pg_bin="/nonexistent", methods=["cluster", "static"])
    assert result["method"] == "static"
    assert "no server programs" in result["why_not_better"][0]


@pytest.mark.full
def test_the_live_release_against_itself_has_nothing_to_do(live: Live) -> None:
    result = live.call("plan", live.old)
    assert (result["verdict"], result["migrations"], result["problems"]) == ("safe", [], [])


def changed(live: Live, place: Path, files: dict[str, str]) -> Path:
    """The live release with other files."""
    tree = project.write(place, {**project.base(), **files})
    kept = live.old / "people/migrations"
    (tree / "people/migrations").mkdir()
    for path in kept.glob("*.py"):
        (tree / "people/migrations" / path.name).write_text(path.read_text())
    return tree


def rules(result: dict[str, Any]) -> set[str]:
    return {one["rule"] for one in result["problems"]}


@pytest.mark.full
def test_several_leaves_are_a_conflict(live: Live, tmp_path: Path) -> None:
    head = 'dependencies = [("shop", "0003_paper")]'
    leaf = {f"shop/migrations/0004_{name}.py": project.migration("", head) for name in "ab"}
    result = live.call("plan", changed(live, tmp_path, leaf))
    assert (result["verdict"], rules(result)) == ("refused", {"conflict"})


@pytest.mark.full
def test_a_migration_that_does_not_import_is_named(live: Live, tmp_path: Path) -> None:
    result = live.call("plan", changed(live, tmp_path, {"shop/migrations/0004_bad.py": "import nothing_of_that_name"}))
    assert (result["verdict"], rules(result)) == ("refused", {"does-not-load"})
    assert "nothing_of_that_name" in result["problems"][0]["why"]


@pytest.mark.full
def test_models_without_a_migration_are_refused(live: Live, tmp_path: Path) -> None:
    models = project.ORDER.format(
        fields="note = models.TextField(null=True)\n    more = models.IntegerField(null=True)"
    )
    result = live.call("plan", changed(live, tmp_path, {"shop/models.py": models}))
    assert result["verdict"] == "refused"
    assert rules(result) == {"drift", "missing-column"}


@pytest.mark.full
def test_a_database_that_is_ahead_is_refused_unless_it_is_recorded(live: Live) -> None:
    bundle = live.call("read")
    bundle["databases"]["default"]["applied"].append(["shop", "0009_newer"])
    result = live.call("judge", live.old, bundle=bundle, methods=["static"])
    assert (result["verdict"], rules(result)) == ("refused", {"ahead"})
    assert (
        live.call("judge", live.old, bundle=bundle, methods=["static"], known_ahead=["shop.0009_newer"])["verdict"]
        == "safe"
    )


@pytest.mark.full
def test_a_changed_file_of_an_applied_migration_is_refused(live: Live) -> None:
    result = live.call("plan", live.old, ledger={"shop.0002_note": "0" * 64}, methods=["static"])
    assert (result["verdict"], rules(result)) == ("refused", {"file-changed"})


@pytest.mark.full
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(live: Live) -> None:
    entry = {"HOST": "127.0.0.1", "PORT": "1", "NAME": "a", "USER": "u", "PASSWORD": "hunter2"}
    with pytest.raises(BluegreenError) as caught:
        live.call("plan", databases={"default": entry})
    assert "cannot be reached" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_settings_that_do_not_import_are_one_line(live: Live, tmp_path: Path) -> None:
    with pytest.raises(BluegreenError, match="the settings cannot be imported"):
        live.call("footprint", tmp_path)


@pytest.mark.full
def test_an_invalid_index_is_refused_before_anything_else(live: Live) -> None:
    live.sql("CREATE TABLE twice (n int); INSERT INTO twice VALUES (1), (1)")
    with pytest.raises(BluegreenError):
        live.sql("CREATE UNIQUE INDEX CONCURRENTLY broken ON twice (n)")
    try:
        bundle = live.call("read", live.old)
        result = live.call("judge", live.old, bundle=bundle, methods=["cluster"])
    finally:
        live.sql("DROP TABLE twice")
    assert (result["verdict"], rules(result)) == ("refused", {"invalid-index"})
