"""What a run did, from the events of ansible-runner. No I/O."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from plugins.module_utils.bluegreen_fleet import PHASES, title

CALLS = ("bluegreen", "bluegreen_inputs", "bluegreen_outcome")
ENDED = ("runner_on_ok", "runner_on_failed", "runner_on_unreachable")


@dataclasses.dataclass(frozen=True)
class Trouble:
    """A task that failed: the file and line of the task, where, what and why."""

    path: str
    line: int
    title: str
    what: str
    why: str = ""


@dataclasses.dataclass
class Record:
    """A run so far. `inputs`: what the first play found out; `reached`: phases that began, in order."""

    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    refusal: Mapping[str, Any] | None = None
    reached: list[str] = dataclasses.field(default_factory=list)
    answers: dict[str, dict[str, list[Mapping[str, Any]]]] = dataclasses.field(default_factory=dict)
    troubles: list[Trouble] = dataclasses.field(default_factory=list)
    outcome: Mapping[str, Any] | None = None
    error: str = ""  # what Ansible itself said at last

    def take(self, event: Mapping[str, Any]) -> Trouble | None:
        """Note an event; returns what failed in it, the first time that it did."""
        data = event.get("event_data") or {}
        action = str(data.get("resolved_action") or data.get("task_action") or "").rsplit(".", 1)[-1]
        if event["event"] == "playbook_on_task_start" and action == "bluegreen":
            phase = str(data.get("role") or "")
            if phase in PHASES and phase not in self.reached:
                self.reached.append(phase)
        if event["event"] == "error":
            self.error = first_line(str(event.get("stdout") or "")) or self.error
        if event["event"] not in ENDED:
            return None
        answer = data.get("res")
        result: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
        if action in CALLS:
            trouble = self._answer(action, data, result)
        elif event["event"] == "runner_on_ok" or data.get("ignore_errors"):
            trouble = None
        else:
            what = "its output is secret" if result.get("censored") else first_words(result)
            trouble = place(data, f"{data.get('host')}: {data.get('task')}", what)
        if trouble is None or any((known.path, known.what) == (trouble.path, trouble.what) for known in self.troubles):
            return None
        self.troubles.append(trouble)
        return trouble

    def _answer(self, action: str, data: Mapping[str, Any], result: Mapping[str, Any]) -> Trouble | None:
        """Note the answer of one of our own tasks."""
        error = result.get("error") if isinstance(result.get("error"), Mapping) else None
        if action == "bluegreen_inputs":
            if error:
                self.refusal = error
            elif "deploy_id" in result:
                self.inputs = result
            return None  # said at the end
        if action == "bluegreen_outcome":
            self.outcome = result.get("outcome")
            return None
        phase, host = str(result.get("phase") or data.get("role") or ""), str(data.get("host"))
        self.answers.setdefault(phase, {}).setdefault(host, []).append(result)
        if not error or result.get("verdict") == "pass":
            return None
        return place(data, f"{title(phase)}: {host}", str(error.get("what")), str(error.get("why") or ""))

    def passed(self, phase: str, host: str) -> bool:
        """Whether all went well on a host in a phase. An answer that is secret holds a session: it was a pass."""
        answers = self.answers.get(phase, {}).get(host, [])
        return all(answer.get("censored") or answer.get("verdict") == "pass" for answer in answers)

    def phases(self) -> list[dict[str, Any]]:
        """Each phase with answers: {name, seconds, hosts: {name: pass or fail}}."""
        return [
            {
                "name": phase,
                "seconds": seconds_of([answer for given in hosts.values() for answer in given]),
                "hosts": {host: "pass" if self.passed(phase, host) else "fail" for host in hosts},
            }
            for phase, hosts in self.answers.items()
            if phase in PHASES
        ]

    def migrations(self) -> list[Any] | None:
        """What the plan of migrations said: names, or one object for each; None without a plan."""
        for answers in self.answers.get("plan_migrations", {}).values():
            for answer in answers:
                found = (answer.get("results") or {}).get("migrate") or {}
                return list(found.get("verdicts") or found.get("pending") or [])
        return None

    def failure(self) -> Mapping[str, Any] | None:
        """{what, why, next} of a run that did not end as asked."""
        if self.outcome is not None:
            found: Mapping[str, Any] | None = self.outcome.get("failure")
            return found
        if self.refusal:
            return {key: str(self.refusal.get(key) or "") for key in ("what", "why", "next")}
        if self.troubles:
            first = self.troubles[0]
            return {"what": f"{first.title}: {first.what}", "why": first.why, "next": "the same with -v shows more"}
        if self.error:
            return {"what": "Ansible ended early", "why": self.error, "next": "correct it, then the same again"}
        return None


def first_line(text: str) -> str:
    """The first line of an error, without its mark."""
    return next((line.strip().removeprefix("[ERROR]: ") for line in text.splitlines() if line.strip()), "")[:400]


def first_words(result: Mapping[str, Any]) -> str:
    """The reason that a task of Ansible's own gives."""
    words = (result.get(key) for key in ("msg", "stderr", "module_stderr", "stdout"))
    return next((" ".join(str(text).split())[:400] for text in words if text), "no reason was given")


def place(data: Mapping[str, Any], heading: str, what: str, why: str = "") -> Trouble:
    """A trouble with the place of its task."""
    path, _, line = str(data.get("task_path") or "").rpartition(":")
    return Trouble(path, int(line) if line.isdigit() else 1, heading, what, why)


def seconds_of(answers: list[Mapping[str, Any]]) -> float | None:
    """From the first beginning to the last end; None where no answer says."""
    begun = [float(answer.get("first_began") or answer["began"]) for answer in answers if "began" in answer]
    ended = [float(answer["ended"]) for answer in answers if "ended" in answer]
    return round(max(ended) - min(begun), 2) if begun and ended else None
