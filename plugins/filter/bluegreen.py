"""Where a phase runs, given what all hosts have answered so far (`bluegreen_runs`, `bluegreen_hosts`), and what a round
of a canary or watch was like (`bluegreen_round`)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from plugins.module_utils import bluegreen_fleet  # noqa: E402
from plugins.module_utils.bluegreen_hostvars import read_fleet  # noqa: E402

NOBODY = ["!all"]  # an empty list would mean every host of the inventory


def runs(hostvars: Any, phase: str, host: str, hosts: Sequence[str], part: str = "") -> bool:
    """`hostvars | bluegreen_runs('switch', inventory_hostname, ansible_play_hosts_all)`.

    `part`: of a phase with two tasks: `first` (the migration host alone), `rest`, or `again` (a second attempt).
    """
    fleet = read_fleet(hostvars, hosts)
    if not fleet.inputs.get("deploy_id"):
        # the play on localhost was left out by --limit: the task itself says so
        return phase == "preflight"
    return bluegreen_fleet.runs(fleet, phase, host, part)


def hosts(hostvars: Any, phase: str, part: str = "") -> list[str]:
    """`hosts: "{{ hostvars | default({}) | bluegreen_hosts('switch') }}"`: a play without hosts costs nothing.

    Roles ask `bluegreen_runs` all the same: the play's hosts only save the tasks that would be skipped.
    """
    fleet = read_fleet(hostvars, [])
    if not fleet.inputs.get("deploy_id"):
        return ["app_servers"] if phase == "preflight" and not part else NOBODY
    return bluegreen_fleet.phase_hosts(fleet, phase, part) or NOBODY


def asks(hostvars: Any, phase: str, host: str, hosts: Sequence[str]) -> bool:
    """`hostvars | bluegreen_asks('canary', inventory_hostname, ansible_play_hosts)`: one host of those still here."""
    return bluegreen_fleet.asks(read_fleet(hostvars, hosts), phase, host, [str(one) for one in hosts])


def round_line(hostvars: Any, phase: str) -> str:
    """`hostvars | bluegreen_round('canary')`: what a person reads after a round; empty if there is nothing to say."""
    return bluegreen_fleet.round_line(read_fleet(hostvars, []), phase)


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Their names in templates."""
        return {
            "bluegreen_runs": runs,
            "bluegreen_hosts": hosts,
            "bluegreen_asks": asks,
            "bluegreen_round": round_line,
        }
