"""The way back of a run that was cut short, decided from the answers that there were."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_text as text
from support.ci import cancel, cli
from support.ci.record import Record

INPUTS = {"verb": "deploy", "deploy_id": "d1", "hosts": ["web1", "web2"], "sha": "b" * 40, "migration_host": "web1"}


def passed(**results: Any) -> dict[str, Any]:
    return {"verdict": "pass", "results": results}


def lease(fence: int) -> dict[str, Any]:
    taken = {"deploy_id": "d1", "since": "now"}
    return passed(lease={"lease": taken, "fence": fence, "generation": 9, "register": "r", "status": {}})


def run(reached: list[str], **inputs: Any) -> Record:
    answers = {"preflight": {"web1": [lease(7)], "web2": [lease(8)]}}
    return Record(inputs=INPUTS | inputs, reached=reached, answers=answers)


def restored(record: Record) -> fleets.Fleet:
    hosts = cancel.inventory(record)["all"]["children"][cancel.GROUP]["hosts"]
    return fleets.build(record.inputs, list(record.inputs["hosts"]), hosts)


def phases(fleet: fleets.Fleet) -> set[str]:
    return {phase for phase in ("revert", "settle") if fleets.phase_hosts(fleet, phase)}


@pytest.mark.parametrize("phase", ["preflight", "stage", "migrate", "start", "smoke"])
def test_before_the_switch_only_the_lease_ends(phase: str) -> None:
    fleet = restored(run(["preflight", phase] if phase != "preflight" else ["preflight"]))
    assert phases(fleet) == {"settle"}
    assert fleets.holds(fleet, "failed", "web1") is (phase == "start")


@pytest.mark.parametrize("phase", cancel.MOVES)
def test_from_the_first_moved_visitor_on_all_hosts_go_back(phase: str) -> None:
    order = ["preflight", "stage", "start", "smoke", "canary", "switch", "watch", "confirm"]
    fleet = restored(run(order[: order.index(phase) + 1]))
    assert phases(fleet) == {"revert", "settle"}
    assert fleets.fence(fleet) == 9
    assert fleets.revert_words(fleet)["bad"] is False


def test_a_release_that_had_failed_a_check_is_marked_bad_all_the_same() -> None:
    record = run(["preflight", "start", "smoke", "switch"])
    error = {"what": "500", "code": fleets.CHECK_FAILED}
    record.answers["switch"] = {"web1": [{"verdict": "fail", "results": {"route": {"colour": "blue"}}, "error": error}]}
    assert fleets.revert_words(restored(record))["bad"] is True


def test_a_host_whose_lease_is_not_known_gets_no_generation() -> None:
    record = run(["preflight"])
    del record.answers["preflight"]["web2"]
    fleet = restored(record)
    assert fleets.fence(fleet) is None
    assert phases(fleet) == {"settle"}


@pytest.mark.parametrize(
    ("reached", "inputs", "needed"),
    [([], {}, False), (["preflight"], {"check": True}, False), (["status"], {"verb": "status"}, False)],
)
def test_a_run_that_took_nothing_needs_no_way_back(reached: list[str], inputs: dict[str, Any], needed: bool) -> None:
    assert cancel.needed(run(reached, **inputs)) is needed
    assert cancel.needed(run(["preflight"])) is True


@pytest.mark.parametrize(("ended", "stays"), [(["web1", "web2"], []), (["web1"], ["web2"]), ([], ["web1", "web2"])])
def test_a_cancel_while_a_window_ends_knows_which_hosts_serve_again(ended: list[str], stays: list[str]) -> None:
    record = run(["preflight", "stage", "plan_migrations", "maintenance", "migrate", "maintenance_end_fits"])
    record.reached.append("maintenance_end")
    for phase in ("stage", "maintenance"):
        record.answers[phase] = {host: [passed()] for host in ("web1", "web2")}
    error = {"what": "0007_x failed", "why": "", "next": "", "code": fleets.CHECK_FAILED}
    record.answers["migrate"] = {"web1": [{"verdict": "fail", "results": {}, "error": error}]}
    record.answers["maintenance_end"] = {host: [passed(maintenance={"ended": "r1"})] for host in ended}
    fleet = restored(record)
    assert fleets.page_stays(fleet) == stays
    assert phases(fleet) == {"settle"}
    assert fleets.problems(fleet)[0].what == "0007_x failed"


def test_the_exit_status_says_what_the_visitors_get() -> None:
    record = run(["preflight", "switch"])
    went, stayed = passed(revert={"decided": "ABORT"}), passed(revert={"decided": "COMMIT"})
    both = Record(answers={"revert": {"web1": [went], "web2": [went]}})
    one = Record(answers={"revert": {"web1": [went]}})
    late = Record(answers={"revert": {"web1": [stayed]}})
    found = [cli.ending(record, 254, cancelled=True, back=back)[1] for back in (both, one, late, Record())]
    assert found == [7, 9, 8, 9]
    assert cli.ending(run(["preflight"]), 254, cancelled=True, back=Record())[1] == 7


@pytest.mark.parametrize("end", [*text.GOOD, "status", "unlock"])
def test_a_good_end_is_told_without_a_failure(end: str) -> None:
    outcome = {"ok": True, "ending": end, "line": f"shop: {end}", "notes": [], "failure": None}
    record = Record(inputs=INPUTS, outcome=outcome)
    assert cli.ending(record, 0, cancelled=False, back=None) == (end, cli.OK)
    assert cli.closing(end, record, None) == {"failure": None, "line": f"shop: {end}", "notes": []}
