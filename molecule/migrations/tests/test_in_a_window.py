"""What may not run beside visitors runs while they meet a page, and the page ends in a stated way whatever dies."""

from __future__ import annotations

import contextlib
from http.client import HTTPConnection

import pytest
from promises import Deployment, approvals, until

pytestmark = pytest.mark.full
LIVE, NEXT = "r2", "forgets_note"
WINDOW = {"migrations_maintenance_window": "true"}


def answer(fleet: Deployment) -> tuple[int, str | None, str]:
    """What a visitor gets at the front: status, Retry-After, the page."""
    talk = HTTPConnection(fleet.urls[0].removeprefix("http://"), timeout=20)
    with contextlib.closing(talk):
        talk.request("GET", "/", headers={"Host": fleet.domain})
        got = talk.getresponse()
        return got.status, got.headers["Retry-After"], got.read().decode()


def page(fleet: Deployment) -> bool:
    status, later, text = answer(fleet)
    return status == 503 and later == "120" and "Back soon" in text


def test_a_controller_that_dies_leaves_a_page_that_says_so_and_the_same_again_ends_it(fleet: Deployment) -> None:
    fleet.given(LIVE)
    refused = fleet.refuse("deploy.yml", sha=fleet.sha(NEXT), watch=1)
    assert "0004_forget is refused" in refused.lines[-3], refused.tail()
    words = WINDOW | approvals(fleet.refuse("deploy.yml", sha=fleet.sha(NEXT), watch=1, **WINDOW))
    fleet.expect_live(LIVE)
    process = fleet.start("deploy.yml", sha=fleet.sha(NEXT), watch=1, rollout_lease_ttl=15, **words)
    until(lambda: page(fleet), "the maintenance page", 120)
    process.kill()
    shown = fleet.must("status.yml")
    assert "visitors meet the maintenance page since" in "\n".join(shown.lines), shown.tail()
    fleet.refuse("deploy.yml", sha=fleet.sha("r5"), watch=1, wait=200)
    assert page(fleet)
    ran = fleet.deploy(NEXT, watch=1, wait=200, **words)
    assert "visitors met the maintenance page" in "\n".join(ran.lines), ran.tail()
    assert answer(fleet)[0] == 200
    fleet.expect_live(NEXT)


def test_the_release_before_comes_back_with_its_schema(fleet: Deployment) -> None:
    with fleet.under_load(rate=15):
        fleet.must("rollback.yml", schema="reverse")
    fleet.expect_live(LIVE)
