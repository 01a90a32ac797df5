"""Filter `bluegreen_runs`: whether a phase runs on a host, given what all hosts have answered so far."""

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


def runs(hostvars: Any, phase: str, host: str, hosts: Sequence[str], part: str = "") -> bool:
    """`hostvars | bluegreen_runs('switch', inventory_hostname, ansible_play_hosts_all)`.

    `part`: `first` (the migration host alone) or `rest`, for phases of two tasks.
    """
    fleet = read_fleet(hostvars, hosts)
    if not fleet.inputs.get("deploy_id"):
        # the play on localhost was left out by --limit: the task itself says so
        return phase == "preflight"
    return bluegreen_fleet.runs(fleet, phase, host, part)


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"bluegreen_runs": runs}
