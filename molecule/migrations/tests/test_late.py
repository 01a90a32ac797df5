"""A column that live code reads goes without a failed request: the code first, the migration once it is confirmed."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from promises import Deployment, approvals, until

pytestmark = pytest.mark.full
LIVE, NEXT = "r2", "forgets_note"
WORDS: dict[str, str] = {}  # that allow it; they stay the same while release and schema do
HAS_NOTE = "select count(*) from information_schema.columns where table_name = 'orders_order' and column_name = 'note'"


def columns(fleet: Deployment) -> str:
    return fleet.on("db1", f'runuser -u postgres -- psql -XtA orders -c "{HAS_NOTE}"').strip()


def test_the_code_first_and_the_column_once_nobody_reads_it(fleet: Deployment) -> None:
    fleet.given(LIVE)
    refused = fleet.refuse("deploy.yml", sha=fleet.sha(NEXT), watch=1)
    told = re.search(r"-e '(\{.*\})'", refused.lines[-1])
    assert told, refused.tail()
    late = {"migrations_late": ",".join(json.loads(told[1])["migrations_late"])}
    WORDS.update(late | approvals(fleet.refuse("deploy.yml", sha=fleet.sha(NEXT), watch=1, **late)))
    assert columns(fleet) == "1"
    with fleet.under_load(rate=15):
        ran = fleet.deploy(NEXT, watch=1, **WORDS)
    assert "the way back to" in "\n".join(ran.lines), ran.tail()
    assert columns(fleet) == "0"
    fleet.expect_live(NEXT)


def test_the_release_before_does_not_come_back_and_the_same_again_has_nothing_to_do(fleet: Deployment) -> None:
    ran = fleet.refuse("rollback.yml")
    assert "does not fit the schema any more" in ran.lines[-3], ran.tail()
    fleet.expect_live(NEXT)
    warm = fleet.everywhere("systemctl is-active 'orders@*.service'", check=False)
    assert all(states.split().count("active") == 1 for states in warm.values()), warm


def test_the_schema_comes_back_with_it_when_that_is_asked_for(fleet: Deployment) -> None:
    with fleet.under_load(rate=15):
        fleet.must("rollback.yml", schema="reverse")
    assert columns(fleet) == "1"
    fleet.expect_live(LIVE)


def test_one_whose_controller_died_first_is_named_by_status_with_the_command_that_runs_it(
    fleet: Deployment,
) -> None:
    process = fleet.start("deploy.yml", sha=fleet.sha(NEXT), watch=1, rollout_lease_ttl=15, **WORDS)
    live = f"grep -c '^ .sha.: .{fleet.sha(NEXT)}' /var/lib/bluegreen/orders/active.json"
    until(lambda: int(fleet.on("web1", live, check=False)), "the release is confirmed", 180)
    process.kill()
    shown = fleet.must("status.yml").output
    told = re.search(r"web1: late migrations that have not run: orders\.0004_forget; type (.*)", shown)
    assert told, shown
    assert columns(fleet) == "1"
    with fleet.under_load(rate=15):
        fleet.must(*shlex.split(told[1])[1:], "-e", "wait=200")
    assert columns(fleet) == "0"
    fleet.expect_live(NEXT)
    assert "have not run" not in fleet.must("status.yml").output
    fleet.must("rollback.yml", schema="reverse")
    fleet.expect_live(LIVE)
