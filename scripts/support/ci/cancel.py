"""The way back of a run that was cut short: what playbooks/cancel.yml must know of it. Pure functions.

It goes on where the run was cut: with its name and its generation, so that hosts which have accepted a newer run refuse
it. Should it not get that far, the dead-man's timers do the same a little later.
"""

from __future__ import annotations

import sys
from typing import Any

from plugins.module_utils.bluegreen_fleet import PARTS, PHASES, WINDOW_ENDS
from support.ci.record import Record

GROUP = "cancelled"  # the hosts of playbooks/cancel.yml
TOLD = (*PHASES[: PHASES.index("confirm") + 1], *WINDOW_ENDS)  # the phases whose answers the way back decides by
MOVES = ("canary", "switch", "watch", "confirm")  # visitors may have been moved once one of them began
WHY = {"what": "the run was cancelled", "why": "it was told to stop", "next": "the same again", "code": "cancelled"}


def needed(record: Record) -> bool:
    """Whether a run that is cut short here leaves anything on hosts: a lease, or visitors on an unconfirmed release."""
    inputs = record.inputs
    changes = inputs.get("verb") in ("deploy", "rollback") and not inputs.get("check")
    return bool(changes and record.reached and record.outcome is None)


def moved(record: Record) -> bool:
    """Whether visitors may be on an unconfirmed release."""
    return any(phase in MOVES for phase in record.reached)


def inventory(record: Record) -> dict[str, Any]:
    """An inventory that gives each host the answers it gave, and a failure of the phase that was cut short.

    The roles revert and settle decide by these answers, as they would have done in the run itself.
    """
    # named here, it is there from the first play on
    controller = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    own: dict[str, dict[str, Any]] = {"localhost": {**controller, "__inputs_result": dict(record.inputs)}}
    hosts = {str(host): variables(record, str(host)) for host in record.inputs["hosts"]}
    return {"all": {"hosts": own, "children": {GROUP: {"hosts": hosts}}}}


def variables(record: Record, host: str) -> dict[str, Any]:
    """The registered answers of one host."""
    reached = [phase for phase in TOLD if phase in record.reached]
    found: dict[str, Any] = {}
    for phase in reached:
        answers = record.answers.get(phase, {}).get(host, [])
        given = [{"verdict": "pass", "results": {}} if "censored" in one else dict(one) for one in answers]
        missed = not given and phase in ("preflight", "start", "switch")
        if phase == reached[-1] or missed:
            given = cut(given, phase, record)
        # of a phase in rounds the last ones say everything
        found |= {f"__{phase}_{part}": one for part, one in zip(PARTS, given[-len(PARTS) :], strict=False)}
    return found


def cut(given: list[dict[str, Any]], phase: str, record: Record) -> list[dict[str, Any]]:
    """A host's answers in the phase that was cut short: the last is a failure, if it is not one already."""
    last: dict[str, Any] = given[-1] if given else {"results": {}}
    if phase == "preflight" and not given:
        # it may hold the lease all the same; without a generation nothing but the lease is touched
        last = {"results": {"lease": {"lease": {"deploy_id": record.inputs["deploy_id"]}}}}
    if last.get("verdict") != "fail":
        last = last | {"verdict": "fail", "error": dict(WHY), "phase": phase}
    return [*given[:-1], last]


def verdict(record: Record, back: Record) -> str:
    """How a cancel ended: back (no visitor is on the release that was cut short), confirmed, or unknown."""
    reverts = [answer for answers in back.answers.get("revert", {}).values() for answer in answers]
    decided = any(((answer.get("results") or {}).get("revert") or {}).get("decided") == "COMMIT" for answer in reverts)
    if decided or (back.outcome or {}).get("ending") in ("live", "rolled back", "nothing to do"):
        return "confirmed"
    if not moved(record):
        return "back"
    hosts = [str(host) for host in record.inputs["hosts"]]
    went = all(host in back.answers.get("revert", {}) and back.passed("revert", host) for host in hosts)
    return "back" if went else "unknown"


def unsettled(record: Record, back: Record) -> list[str]:
    """Hosts that have not said that they cleared up and gave the lease back."""
    answers = back.answers.get("settle", {})
    return [host for host in map(str, record.inputs["hosts"]) if not (host in answers and back.passed("settle", host))]
