"""Back to what was confirmed before: decided from recorded state, the same on every host. The tests are one story."""

from __future__ import annotations

import json
import re

from promises import Deployment

A, B, C = "r2", "r5", "r6"


def warm(fleet: Deployment) -> set[bool]:
    """Whether the idle colour of each host runs."""
    return {status["idle"]["running"] for status in fleet.status().values()}


def hashed_files(fleet: Deployment) -> set[str]:
    """The hashed static files that the live release's page names."""
    page = fleet.on("web1", f"curl -sf -H 'Host: {fleet.domain}' http://127.0.0.1/")
    return set(re.findall(r"/static/[^\"'?]+\.[0-9a-f]{12}\.\w+", page))


def test_a_page_of_the_release_before_the_last_out_of_a_cache_still_gets_its_files(fleet: Deployment) -> None:
    fleet.given("r1")
    named = hashed_files(fleet)
    assert named
    fleet.deploy(A, watch=0)
    fleet.deploy(B, watch=0)
    assert hashed_files(fleet) != named, "the releases should differ in what is asked for"
    wanted = " ".join(f"-o /dev/null http://127.0.0.1{path}" for path in sorted(named))
    answers = fleet.everywhere(f"curl -s -w '%{{http_code}} ' -H 'Host: {fleet.domain}' {wanted}")
    assert {code for answer in answers.values() for code in answer.split()} == {"200"}, answers


def test_after_a_then_b_a_rollback_is_back_on_a_within_seconds_and_loses_no_request(fleet: Deployment) -> None:
    assert warm(fleet) == {True}
    with fleet.under_load():
        ran = fleet.must("rollback.yml")
        fleet.expect_live(A)
    assert ran.seconds < 30, ran.tail()


def test_times_of_directories_do_not_matter(fleet: Deployment) -> None:
    fleet.everywhere(
        "for each in $(ls -d /srv/orders/releases/*/ | sort -R); do touch -h ${each%/} 2>/dev/null; done; true"
    )
    fleet.on("web2", "touch -d '2001-01-01' /srv/orders/releases/* 2>/dev/null; true")
    fleet.deploy(C, watch=0)


def test_after_c_a_rollback_goes_to_a_and_not_to_b_which_was_rolled_back(fleet: Deployment) -> None:
    with fleet.under_load():
        fleet.must("rollback.yml")
        fleet.expect_live(A)


def test_rolling_back_to_the_live_release_is_refused_and_changes_nothing(fleet: Deployment) -> None:
    before = fleet.snapshot()
    fleet.refuse("rollback.yml", to=fleet.sha(A))
    assert fleet.snapshot() == before


def test_rolling_back_once_more_goes_one_further_back(fleet: Deployment) -> None:
    fleet.must("rollback.yml")
    fleet.expect_live("r1")


def test_a_release_can_be_named(fleet: Deployment) -> None:
    fleet.deploy(A, watch=0)
    fleet.deploy(C, watch=0)
    fleet.must("rollback.yml", to=fleet.sha("r1")[:10])
    fleet.expect_live("r1")


def test_a_release_that_is_not_there_is_refused_and_changes_nothing(fleet: Deployment) -> None:
    before = fleet.snapshot()
    fleet.refuse("rollback.yml", to="0123456789ab")
    assert fleet.snapshot() == before


def test_the_environment_of_its_time_comes_back_with_a_release(fleet: Deployment) -> None:
    old = environment(fleet, "LOG_LEVEL")
    other = json.dumps({"app_env": {"ALLOWED_HOSTS": fleet.domain, "HTTPS": "0", "LOG_LEVEL": "WARNING"}})
    fleet.must("deploy.yml", "-e", other, sha=fleet.sha(A), watch=0)
    fleet.expect_live(A)
    assert environment(fleet, "LOG_LEVEL") == {"WARNING"}
    fleet.must("rollback.yml")
    assert environment(fleet, "LOG_LEVEL") == old


def environment(fleet: Deployment, name: str) -> set[str]:
    """The values of a variable in the processes that serve."""
    found = set()
    for host, status in fleet.status().items():
        pid = fleet.on(host, f"systemctl show -P MainPID orders@{status['live']['colour']}").strip()
        found.add(fleet.on(host, f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n s/^{name}=//p").strip())
    return found
