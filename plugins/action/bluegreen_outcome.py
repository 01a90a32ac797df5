"""How a run ended, from all hosts' answers; fails when that is not what was asked for. Runs on the controller."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from plugins.module_utils import bluegreen_report as report  # noqa: E402
from plugins.module_utils import bluegreen_text as text  # noqa: E402
from plugins.module_utils.bluegreen_fleet import Fleet  # noqa: E402
from plugins.module_utils.bluegreen_hostvars import raw, read_fleet, read_inputs  # noqa: E402
from plugins.module_utils.bluegreen_inputs import plain  # noqa: E402


class ActionModule(ActionBase):
    """`bluegreen_outcome:` without arguments; see plugins/modules/bluegreen_outcome.py."""

    _VALID_ARGS: frozenset[str] = frozenset()
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        hostvars = task_vars["hostvars"]
        inputs = read_inputs(hostvars)
        verb = inputs.get("verb")
        if verb == "status":
            return result | status(hostvars, inputs)
        if verb == "unlock":
            return result | unlock(hostvars, inputs)
        if verb == "manage":
            return result | manage(hostvars, inputs)
        fleet = read_fleet(hostvars, inputs.get("hosts") or [])
        found = text.outcome(fleet)
        lines = text.migration_lines(fleet) if not found["ok"] else []
        if fleet.check and not fleet.restoring:
            plan = text.plan(fleet)
            lines += text.plan_lines(plan) if found["ok"] else []
            found["plan"] = plan
            if inputs.get("plan_out"):
                lines += write(inputs["plan_out"], text.as_json(plan))
        if target := report.path(inputs):
            problems = write_report(target, fleet, found)
            lines += problems
            found = found if problems else naming(found, report.page_path(target))
        return result | ending(found, lines)


def ending(found: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """The result of the task: what the callback prints, and one line for any other callback."""
    failure = found["failure"]
    message = (
        " · ".join(failure[key] for key in ("what", "why", "next")) if failure else found["line"].replace("{time}", "")
    )
    return {"outcome": found, "lines": lines, "failed": not found["ok"], "msg": message}


def write_report(target: str, fleet: Fleet, found: dict[str, Any]) -> list[str]:
    """Write report.json, and the page beside it. Returns a line that says what went wrong with that, if anything."""
    from plugins.module_utils import bluegreen_page as pages

    try:
        content = text.as_json(report.build(fleet, found))
        lines = save(target, content)
        return lines or save(report.page_path(target), pages.page(pages.read(json.loads(content))))
    except Exception as problem:  # noqa: BLE001  the hosts have decided: a mistake in here must not turn success to failure
        return [f"the report could not be made: {type(problem).__name__}: {problem}"]


def naming(found: dict[str, Any], page: str) -> dict[str, Any]:
    """The outcome with the report's path in its last line, whichever that is."""
    if failure := found["failure"]:
        return found | {"failure": failure | {"next": f"{failure['next']} (report: {page})"}}
    return found | {"line": f"{found['line']}; report: {page}"}


def write(path: str, content: str) -> list[str]:
    """Write a file for the person who asked. Returns a line that says so, or why not."""
    return save(path, content) or [f"written to {path}"]


def save(path: str, content: str) -> list[str]:
    """Write a file, and the directories that it lies in. Returns a line that says why not, if it could not be done."""
    try:
        Path(path).expanduser().parent.mkdir(parents=True, exist_ok=True)
        Path(path).expanduser().write_text(content, encoding="utf-8")
    except OSError as problem:
        return [f"{path} could not be written: {problem.strerror}"]
    return []


def status(hostvars: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The table of all hosts, or JSON."""
    answers = {host: plain(raw(hostvars, host).get("__status_result") or {}) for host in inputs["hosts"]}
    # hosts that --limit left out were not asked
    rows = text.status_rows({host: answer for host, answer in answers.items() if answer})
    silent = [row for row in rows if row.get("error")]
    failure = None
    if silent or not rows:
        named = text.listed([row["host"] for row in silent]) or "no host"
        why = str((silent or [{}])[0].get("error") or "")
        failure = {"what": f"{named} gave no answer", "why": why, "next": "the table above shows the others"}
    content = text.as_json({"app": inputs["app"], "hosts": rows})
    lines = content.splitlines() if inputs["format"] == "json" else text.status_table(rows)
    if inputs.get("out"):
        written = write(inputs["out"], content if inputs["format"] == "json" else "\n".join(lines) + "\n")
        lines = written if inputs["format"] == "json" else lines + written
    return ending(
        {"ok": failure is None, "ending": "status", "line": "", "notes": [], "failure": failure, "rows": rows}, lines
    )


def unlock(hostvars: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The lease, or what became of the one that was named."""
    answers = {host: plain(raw(hostvars, host).get("__unlock_result") or {}) for host in inputs["hosts"]}
    found = text.unlocked({host: answer for host, answer in answers.items() if answer}, inputs.get("lease"))
    return ending({"ok": found["failure"] is None, "ending": "unlock", "notes": [], **found}, list(found.pop("lines")))


def manage(hostvars: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What the management command printed; its exit status decides."""
    answer = plain(raw(hostvars, inputs["migration_host"]).get("__manage_result") or {})
    done = (answer.get("results") or {}).get("manage") or {}
    error = answer.get("error") or {}
    failure = None
    if answer.get("verdict") != "pass":
        failure = {
            "what": str(error.get("what") or "the command did not run"),
            "why": str(error.get("why") or ""),
            "next": str(error.get("next") or "ansible-playbook status.yml"),
        }
    elif done.get("rc"):
        last = (done.get("output") or [""])[-1]
        failure = {
            "what": f"{inputs['what']}: exit status {done['rc']}",
            "why": last,
            "next": "its output stands above",
        }
    line = "" if failure else f"{inputs['app']}: {inputs['what']} on {inputs['migration_host']} ({{time}})"
    return ending(
        {"ok": failure is None, "ending": "manage", "line": line, "notes": [], "failure": failure},
        list(done.get("output") or []),
    )
