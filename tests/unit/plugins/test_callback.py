"""The screen: phases with times, three lines for a failure."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest

from plugins.callback import bluegreen as callback


class Screen:
    verbosity = 0

    def __init__(self) -> None:
        self.text = ""

    def display(self, msg: str, color: Any = None, newline: bool = True, **_: Any) -> None:
        self.text += msg + ("\n" if newline else "")

    @property
    def lines(self) -> list[str]:
        return [re.sub(r"(\d+ min )?\d+(\.\d)? s\b", "T", line) for line in self.text.splitlines()]


class Show:
    """A callback with a screen, and short names for the events."""

    def __init__(self) -> None:
        self.screen = Screen()
        self.callback = callback.CallbackModule()
        self.callback._display = self.screen
        self.callback._handle_warnings = lambda _: None

    def play(self, name: str) -> None:
        self.callback.v2_playbook_on_play_start(SimpleNamespace(get_name=lambda: name))

    def task(self, role: str, action: str = "bluegreen") -> Any:
        owner = SimpleNamespace(get_name=lambda: role)
        task = SimpleNamespace(_role=owner, action=action, get_name=lambda: f"{role} : do", ignore_unreachable=True)
        self.callback.v2_playbook_on_task_start(task, False)
        return task

    def result(self, task: Any, host: str, **answer: Any) -> Any:
        return SimpleNamespace(task=task, host=SimpleNamespace(get_name=lambda: host), result=answer)

    def end(self, **changed: int) -> list[str]:
        stats = SimpleNamespace(processed=dict.fromkeys(changed, 1), summarize=lambda host: {"changed": changed[host]})
        self.callback.v2_playbook_on_stats(stats)
        return self.screen.lines


@pytest.fixture
def show() -> Show:
    return Show()


def test_a_deploy(show: Show) -> None:
    show.play("Stage")
    task = show.task("stage")
    for host in ("web1", "web2"):
        show.callback.v2_runner_on_ok(show.result(task, host, verdict="pass", results={"stage": {"have": True}}))
    show.play("Migrate")
    show.callback.v2_runner_on_skipped(show.result(show.task("migrate"), "web1"))
    show.play("Outcome")
    end = {"line": "shop: abc is live ({time})", "notes": ["look"], "failure": None}
    show.callback.v2_runner_on_ok(show.result(show.task("outcome", "bluegreen_outcome"), "localhost", outcome=end))
    assert show.end(web1=1) == [
        "  Stage           2 hosts       T   image already there",
        "  note  look",
        "shop: abc is live (T)",
    ]


def test_a_line_for_each_round_of_a_canary_stands_above_its_phase(show: Show) -> None:
    show.play("Canary")
    for line in ("canary 5 %: so far", "canary 5 %: pass"):
        task = show.task("canary")
        sums = json.dumps({"rounds": [{"share": 5, "new": {"ok": 1200}}]})
        for host in ("web1", "web2"):
            answer = {"verdict": "pass", "results": {"extend": {}}, "judged": sums}
            show.callback.v2_runner_on_ok(show.result(task, host, **answer))
        show.callback.v2_runner_on_ok(show.result(show.task("canary", "bluegreen_kpis"), "web1", asked="{}"))
        show.callback.v2_runner_on_ok(show.result(show.task("canary", "ansible.builtin.debug"), "web1", msg=line))
        # the include of the next round: no answer of a host
        again = show.task("canary", "ansible.builtin.include_tasks")
        show.callback.v2_runner_on_ok(show.result(again, "web1", include="round.yml"))
    show.play("Switch")
    assert show.screen.lines == [
        "    canary 5 %: so far",
        "    canary 5 %: pass",
        "  Canary          2 hosts       T   5 %: 2,400 requests of the new release",
    ]


def test_what_a_role_has_to_say_is_shown(show: Show) -> None:
    show.play("Provision databases")
    task = show.task("database", "ansible.builtin.debug")
    show.callback.v2_runner_on_ok(show.result(task, "db1", msg="db1: a restart is due;\nchoose a quiet minute"))
    assert "  note  db1: a restart is due; choose a quiet minute" in show.screen.lines


def test_a_failure_ends_in_three_lines(show: Show) -> None:
    show.play("Start")
    task = show.task("start")
    show.callback.v2_runner_on_ok(show.result(task, "web1", verdict="pass", results={}))
    show.callback.v2_runner_on_unreachable(show.result(task, "web2", verdict="fail", unreachable=True, results={}))
    show.play("Outcome")
    end = {"failure": {"what": "Start: web2: unreachable", "why": "no route", "next": "look"}, "notes": []}
    show.callback.v2_runner_on_failed(show.result(show.task("outcome", "bluegreen_outcome"), "localhost", outcome=end))
    assert show.end(web1=0) == [
        "  Start           2 hosts       T   failed on web2",
        "FAILED  Start: web2: unreachable",
        "  why   no route",
        "  next  look",
    ]


def test_a_refusal_is_three_lines(show: Show) -> None:
    show.play("Inputs")
    error = {"what": "sha is missing", "why": "name one", "next": "-e sha=abc123"}
    task = show.task("inputs", "bluegreen_inputs")
    show.callback.v2_runner_on_failed(show.result(task, "localhost", error=error, msg="sha is missing"))
    assert show.end(localhost=0) == ["FAILED  sha is missing", "  why   name one", "  next  -e sha=abc123"]


def test_another_playbook_gets_a_line_for_each_role(show: Show) -> None:
    show.play("Provision app servers")
    for role, changed in (("base", True), ("base", False), ("runtime", False)):
        task = show.task(role, "ansible.builtin.apt")
        show.callback.v2_runner_on_ok(show.result(task, "web1", changed=changed))
    assert show.end(web1=1) == [
        "  base            1 host        T   1 change",
        "  runtime         1 host        T   nothing to change",
        "done: 1 host, 1 change (T)",
    ]


def test_a_failed_task_of_another_playbook(show: Show) -> None:
    show.play("Provision app servers")
    task = show.task("base", "ansible.builtin.apt")
    show.callback.v2_runner_on_failed(show.result(task, "web1", msg="No package matching 'x'\nis available"))
    lines = show.end(web1=0)
    assert lines[0] == "FAILED  web1: base : do"
    assert lines[1] == "  why   No package matching 'x' is available"
    assert not any(line.startswith("done") for line in lines)


def test_a_secret_result_stays_secret(show: Show) -> None:
    show.play("Provision app servers")
    task = show.task("base", "ansible.builtin.copy")
    show.callback.v2_runner_on_failed(show.result(task, "web1", censored="the output has been hidden"))
    assert "its output is secret" in show.end(web1=0)[1]


def test_a_vault_without_its_password_says_how_to_give_it(show: Show) -> None:
    task = show.task("inputs", "bluegreen_inputs")
    words = "Task failed: Decryption failed (no vault secrets were found that could decrypt)."
    show.callback.v2_runner_on_failed(show.result(task, "localhost", msg=words))
    assert "--ask-vault-pass" in show.end(localhost=0)[-1]


def test_a_terminal_shows_the_phase_that_runs(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback.CallbackModule, "live", True)
    show.play("Watch")
    task = show.task("watch")
    assert show.screen.text == "  Watch …"
    show.callback.v2_runner_on_ok(show.result(task, "web1", verdict="pass", results={"smoke": {"rounds": 3}}))
    show.end(web1=0)
    assert "\r\033[K  Watch" in show.screen.text


def test_masking_is_declared() -> None:
    assert callback.CallbackModule.__dict__["ANSIBLE_SUPPORTS_MASKING"] is True
