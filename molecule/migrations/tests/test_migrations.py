"""What may break the live release is found before it runs; what may not runs once. The tests are one story."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from promises import Deployment, approvals, until

LIVE, NEXT = "r2", "r5"
# Back to the schema of r2: a scenario before this one on these hosts may have left r5's.
AS_BEFORE = (
    "drop table if exists orders_rating",
    "delete from django_migrations where app = 'orders' and name > '0004'",
)


def sql(fleet: Deployment, text: str, database: str = "orders") -> str:
    """What the database answers."""
    return fleet.on("db1", f'runuser -u postgres -- psql -XtA {database} -c "{text}"').strip()


def applied(fleet: Deployment) -> int:
    """How many migrations are recorded."""
    return int(sql(fleet, "select count(*) from django_migrations"))


def ledger(fleet: Deployment) -> list[dict[str, Any]]:
    """The ledger in the register's database."""
    names = sql(fleet, "select datname from pg_database where datname like '%_bluegreen'").split()
    rows = sql(fleet, "select row from ledger order by at, id", names[0])
    return [json.loads(line) for line in rows.splitlines()]


def test_a_column_that_live_code_reads_is_not_dropped(fleet: Deployment) -> None:
    fleet.given(LIVE)
    for statement in AS_BEFORE:
        sql(fleet, statement)
    before = applied(fleet)
    with fleet.under_load(rate=15):
        ran = fleet.refuse("deploy.yml", sha=fleet.sha("drops_note"), watch=1)
    assert "0004_drop is refused: public.orders_order.note" in ran.lines[-3], ran.tail()
    assert applied(fleet) == before
    fleet.expect_live(LIVE)


def test_the_plan_gives_the_verdict_as_json_and_changes_nothing(fleet: Deployment, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    before = fleet.snapshot()
    fleet.refuse("deploy.yml", "--check", sha=fleet.sha("drops_note"), plan_out=plan)
    found = json.loads(plan.read_text())
    assert found["migrations_method"] == "shadow", found.get("migrations_why_not_better")
    one = found["migrations"][0]
    assert (one["app"], one["name"], one["verdict"]) == ("orders", "0004_drop", "refused")
    assert {"reasons", "sql", "tables", "reversible", "late_possible"} <= set(one)
    assert fleet.snapshot() == before


def test_rows_are_changed_only_with_an_approval_by_name(fleet: Deployment) -> None:
    asked = fleet.refuse("deploy.yml", sha=fleet.sha("fills_note"), watch=1)
    words = approvals(asked)
    wrong = fleet.refuse("deploy.yml", sha=fleet.sha(NEXT), watch=1, **words)
    assert "names nothing pending" in "\n".join(wrong.lines[-3:]), wrong.tail()
    with fleet.under_load(rate=15):
        fleet.deploy("fills_note", watch=1, **words)
    assert sql(fleet, "select count(*) from django_migrations where name = '0004_fill'") == "1"
    row = next(row for row in ledger(fleet) if row["name"] == "0004_fill")
    assert (row["outcome"], row["verdict"], row["approved"]["by"]) == ("applied", "needs_approval", "tests")


def test_the_schema_goes_back_with_the_release(fleet: Deployment) -> None:
    with fleet.under_load(rate=15):
        fleet.must("rollback.yml", schema="reverse")
    fleet.expect_live(LIVE)
    assert sql(fleet, "select count(*) from django_migrations where name = '0004_fill'") == "0"
    assert [row["outcome"] for row in ledger(fleet) if row["name"] == "0004_fill"][-1] == "undone"


def test_a_snapshot_comes_back_once_its_losses_are_accepted(fleet: Deployment) -> None:
    applied_rows = [row for row in ledger(fleet) if row["name"] == "0004_fill" and row["outcome"] == "applied"]
    snapshot = applied_rows[-1]["snapshot"]
    products = sql(fleet, "select count(*), sum(price_cents) from orders_product")
    sql(fleet, "update orders_product set price_cents = 0")
    rows = len(ledger(fleet))
    fleet.on("db1", 'runuser -u postgres -- psql -c "alter role orders createdb"')
    try:
        asked = fleet.refuse("restore.yml", snapshot=snapshot)
        assert "accept_data_loss" in asked.tail(), asked.tail()
        assert sql(fleet, "select sum(price_cents) from orders_product") == "0"
        fleet.must("restore.yml", snapshot=snapshot, accept_data_loss=snapshot)
        assert sql(fleet, "select count(*), sum(price_cents) from orders_product") == products
        bad = sql(fleet, "select datname from pg_database where datname like 'orders\\_bad\\_%'").split()
        assert len(bad) == 1, "the bad database is kept"
        assert sql(fleet, "select sum(price_cents) from orders_product", bad[0]) == "0"
        assert len(ledger(fleet)) >= rows
        fleet.expect_live(LIVE)
    finally:
        fleet.on("db1", 'runuser -u postgres -- psql -c "alter role orders nocreatedb"')
    sql(fleet, f"drop database {bad[0]}", "postgres")


def test_a_controller_that_dies_while_migrating_leaves_a_run_that_the_next_one_finds_done(fleet: Deployment) -> None:
    before = applied(fleet)
    holder = "begin; lock table orders_product in share mode; select pg_sleep(20)"
    fleet.on("db1", f'systemd-run --quiet runuser -u postgres -- psql orders -c "{holder}"')
    process = fleet.start("deploy.yml", sha=fleet.sha(NEXT), watch=1, rollout_lease_ttl=15)
    active = "systemctl is-active bluegreen-migrate-orders.service"
    until(lambda: "active" in fleet.on("web1", active, check=False).split(), "the migration begins", 120)
    process.kill()
    fleet.deploy(NEXT, watch=1, wait=200)
    assert applied(fleet) > before
    double = "select count(*) from (select app, name from django_migrations group by 1, 2 having count(*) > 1) x"
    assert sql(fleet, double) == "0"


def test_a_release_that_the_schema_has_left_behind_does_not_come_back(fleet: Deployment) -> None:
    sql(fleet, "alter table orders_order rename column note to remark")
    try:
        ran = fleet.refuse("rollback.yml")
        assert "does not fit the schema any more" in ran.lines[-3], ran.tail()
        fleet.expect_live(NEXT)
    finally:
        sql(fleet, "alter table orders_order rename column remark to note")
    fleet.must("rollback.yml", schema="reverse")
    fleet.expect_live(LIVE)
