"""Asks for the KPIs of one round of a canary or watch. Runs on the controller; answers are data and never a failure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from plugins.module_utils import bluegreen_fleet as fleets  # noqa: E402
from plugins.module_utils import bluegreen_inputs as inputs_of  # noqa: E402
from plugins.module_utils import bluegreen_prometheus as prometheus  # noqa: E402
from plugins.module_utils.bluegreen_hostvars import read_fleet  # noqa: E402

TOKEN = "judge_prometheus_token"  # noqa: S105  the name of the setting


class ActionModule(ActionBase):
    """`bluegreen_kpis: {phase, ttl}`; see plugins/modules/bluegreen_kpis.py."""

    _VALID_ARGS = frozenset(("phase", "ttl"))
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = inputs_of.plain(self._task.args)
        fleet, phase = read_fleet(task_vars["hostvars"], []), str(args["phase"])
        # read here and not in the role, so that the secret is never a task's argument
        token = str(self._templar.template(task_vars[TOKEN]) or "") if TOKEN in task_vars else ""
        # a part of the time-to-live, which the next round has to renew
        patience = min(prometheus.PATIENCE, float(args["ttl"]) / 4)
        url = str(fleets.judge_settings(fleet)["prometheus"])
        questions = fleets.kpi_questions(fleet, phase) if fleets.worth_asking(fleet, phase) else []
        samples = prometheus.samples(url, token, questions, patience)
        return result | fleets.carry_kpis(fleet, phase, samples) | {"changed": False}
