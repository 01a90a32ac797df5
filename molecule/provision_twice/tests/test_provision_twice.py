"""A second run of provision.yml changes nothing, on Debian 12 and 13, and no visitor of a live host notices."""

from __future__ import annotations

import re

import pytest
from promises import Deployment, Ran


def changes(ran: Ran) -> dict[str, int]:
    """How many tasks changed something, by host, from the recap of Ansible's own output."""
    return {
        name: int(count) for name, count in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", ran.output, re.MULTILINE)
    }


@pytest.mark.parametrize(("name", "release", "system"), [("vm", "n1", "bookworm"), ("fleet", "r1", "trixie")])
def test_a_second_run_changes_nothing_and_no_visitor_notices(
    name: str, release: str, system: str, request: pytest.FixtureRequest
) -> None:
    target: Deployment = request.getfixturevalue(name)
    first = next(iter(target.app_servers))
    assert target.host(first).system_info.codename == system
    target.given(release)
    before = target.snapshot()
    with target.under_load():
        ran = target.must("provision.yml", "-v", timeout=600)
        if any(changes(ran).values()):  # these hosts were provisioned by an earlier version of this repository
            before = target.snapshot()
            ran = target.must("provision.yml", "-v", timeout=600)
    counts = changes(ran)
    assert counts, ran.tail()
    assert set(counts.values()) == {0}, f"{counts}\n{changed_tasks(ran)}"
    assert target.snapshot() == before
    target.expect_live(release)


def changed_tasks(ran: Ran) -> str:
    """The tasks that changed something."""
    task, found = "", []
    for line in ran.lines:
        if line.startswith("TASK "):
            task = line
        if line.startswith("changed:"):
            found.append(f"{task}\n  {line[:200]}")
    return "\n".join(found)
