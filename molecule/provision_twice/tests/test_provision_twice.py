"""A second run of provision.yml changes nothing on a whole fleet, and no visitor of a live host notices."""

from __future__ import annotations

from promises import Deployment


def test_a_second_run_changes_nothing_and_no_visitor_notices(fleet: Deployment) -> None:
    fleet.given("r1")
    fleet.provision_again()
    fleet.expect_live("r1")
