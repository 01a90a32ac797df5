"""Prints phases with their times instead of tasks; a failure ends in three lines. With -v: the usual detail as well."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812  Ansible's own name for it
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from plugins.module_utils import bluegreen_text as text  # noqa: E402

DOCUMENTATION = r"""
name: bluegreen
type: stdout
short_description: Phases with times, and three lines for a failure
description:
  - One line for each phase of a deploy, with the seconds it took and what it did.
  - Other playbooks get one line for each role with the number of changes.
  - With -v, the output of the default callback.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
"""

ANSIBLE_SUPPORTS_MASKING = (
    True  # ansible-core 2.22: what is shown goes through Display, which masks; no file is written
)


class CallbackModule(DefaultCallback):
    """One line for each phase; `self.verbose` hands everything to the default callback as well."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "bluegreen"
    ANSIBLE_SUPPORTS_MASKING = True

    def __init__(self) -> None:
        super().__init__()
        self.began = time.monotonic() - process_age()
        self.play_name = ""
        self.section: Section | None = None
        self.outcome: Mapping[str, Any] | None = None
        self.lines: list[str] = []
        self.failures = 0
        self.open_line = False

    @property
    def verbose(self) -> bool:
        return bool(self._display.verbosity > 0)

    @property
    def live(self) -> bool:
        """Whether the last line can be rewritten."""
        return bool(sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not self.verbose)

    # lines

    def show(self, line: str, color: str | None = None) -> None:
        """Print one line; an announced phase that stands there unfinished gives way to it."""
        self.wipe()
        self._display.display(line, color=color)

    def announce(self, line: str) -> None:
        """Show that a phase runs: rewritten at its end on a terminal."""
        self.wipe()
        self._display.display(line, color=C.COLOR_VERBOSE, newline=False, screen_only=True)
        self.open_line = True

    def wipe(self) -> None:
        if self.open_line:
            self._display.display("\r\033[K", newline=False, screen_only=True)
            self.open_line = False

    # events

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if self.verbose:
            super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.finish()
        self._play = play
        self.play_name = play.get_name().strip()
        self.section = None
        if self.verbose:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        if self.verbose:
            super().v2_playbook_on_no_hosts_matched()

    def v2_playbook_on_no_hosts_remaining(self) -> None:
        if self.verbose:
            super().v2_playbook_on_no_hosts_remaining()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self.verbose:
            super().v2_playbook_on_task_start(task, is_conditional)
        if task.action in C._ACTION_ALL_INCLUDES:
            return  # what it includes speaks for itself
        role = task._role.get_name() if task._role else ""
        section = self.section
        between = task.action in C._ACTION_DEBUG or task.action == "bluegreen_kpis"
        if between and section is not None and section.phase and section.role == role:
            return  # between two rounds of one phase
        key = self.play_name if is_phase(task) else role or self.play_name
        if self.section is None or self.section.key != key:
            self.finish()
            self.section = Section(key, role, phase=is_phase(task))
        if self.section.phase and self.live and not self.open_line:
            self.announce(f"  {self.section.key} …")

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        if self.verbose:
            super().v2_runner_on_start(host, task)

    def v2_runner_on_ok(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_on_ok(result)
        self.take(result)
        if not self.verbose and result.task.action in C._ACTION_DEBUG:
            line = text.one_line(result.result.get("msg", ""))
            if section_is_phase(self.section):
                self.show(f"    {line}")
            else:
                self.show(f"  note  {line}", C.COLOR_WARN)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self.verbose:
            super().v2_runner_on_failed(result, ignore_errors)
        if self.take(result) or self.refusal(result) or ignore_errors:
            return
        self.failures += 1
        if not self.verbose:
            self.show_failure(*plain_failure(result))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_on_unreachable(result)
        if self.take(result) or result.task.ignore_unreachable:
            return
        self.failures += 1
        if not self.verbose:
            host = result.host.get_name()
            why = text.one_line(result.result.get("msg", "")).rsplit("via ssh: ", 1)[-1]
            self.show_failure(
                f"{host} is unreachable", why, f"ssh {host}, or correct the inventory; then the same again"
            )

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_item_on_failed(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self.verbose:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self.verbose:
            super().v2_playbook_on_include(included_file)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.finish()
        if self.verbose:
            super().v2_playbook_on_stats(stats)
        took = text.seconds(time.monotonic() - self.began)
        for line in self.lines:
            self.show(line)
        if self.outcome is not None:
            for line in self.outcome.get("notes") or []:
                self.show(f"  note  {line}", C.COLOR_WARN)
            failure = self.outcome.get("failure")
            if failure:
                self.show_failure(failure["what"], failure["why"], failure["next"])
            elif self.outcome.get("line"):
                self.show(self.outcome["line"].replace("{time}", took), C.COLOR_OK)
        elif not self.failures and not self.verbose and stats.processed:
            changed = sum(stats.summarize(host)["changed"] for host in stats.processed)
            hosts = text.count(len(set(stats.processed) - {"localhost"}), "host")
            self.show(f"done: {hosts}, {text.count(changed, 'change')} ({took})", C.COLOR_OK)

    # what the events mean

    def take(self, result: Any) -> bool:
        """Note an answer. True if it speaks for itself at the end of the run."""
        answer = result.result
        section = self.section
        if section is not None and (is_phase(result.task) or not section.phase):
            section.add(result.host.get_name(), answer)
        if "outcome" in answer:
            self.outcome, self.lines = answer["outcome"], list(answer.get("lines") or [])
            return True
        if not self.verbose and not section_is_phase(section):
            self._handle_warnings(answer)
        return False

    def refusal(self, result: Any) -> bool:
        """Note a failure that comes in our own form; it is shown at the end."""
        error = result.result.get("error")
        if not isinstance(error, Mapping) or "what" not in error:
            return False
        if self.outcome is None:
            self.outcome = {"failure": {key: error.get(key) or "" for key in ("what", "why", "next")}}
        self.section = None
        return True

    def finish(self) -> None:
        """Print the line of the section that ends here."""
        section, self.section = self.section, None
        if section is None or not section.hosts or self.verbose or section.key in ("Inputs", "Outcome"):
            self.wipe()
            return
        took = time.monotonic() - section.began
        if section.phase:
            color = C.COLOR_ERROR if section.bad else None
            self.show(text.phase_line(section.key, len(section.hosts), took, section.detail()), color)
        elif section.hosts != {"localhost"}:
            done = text.count(section.changed, "change") if section.changed else "nothing to change"
            self.show(text.phase_line(section.key, len(section.hosts), took, done))

    def show_failure(self, what: str, why: str, todo: str) -> None:
        """The three lines of a failure."""
        for number, line in enumerate(text.failure_lines(what, why, todo)):
            self.show(line, None if number else C.COLOR_ERROR)


def process_age() -> float:
    """Seconds since this program was started: loading Ansible belongs to what a person waits for."""
    try:
        ticks = int(Path("/proc/self/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


class Section:
    """A phase, or one role of another playbook: who took part, and what came of it."""

    def __init__(self, key: str, role: str, phase: bool) -> None:
        self.key = key
        self.role = role
        self.phase = phase
        self.began = time.monotonic()
        self.hosts: set[str] = set()
        self.answers: dict[str, list[Mapping[str, Any]]] = {}
        self.changed = 0

    def add(self, host: str, answer: Mapping[str, Any]) -> None:
        self.hosts.add(host)
        self.changed += bool(answer.get("changed"))
        # an answer that holds a session comes censored: nothing in it can be counted, and it was a pass
        if not answer.get("censored"):
            self.answers.setdefault(host, []).append(answer)

    @property
    def bad(self) -> bool:
        return any(answer.get("verdict", "pass") != "pass" for answers in self.answers.values() for answer in answers)

    def detail(self) -> str:
        return text.phase_detail(self.role, self.answers)


def is_phase(task: Any) -> bool:
    """Whether a task is a call of the host tool."""
    return bool(task.action == "bluegreen")


def section_is_phase(section: Section | None) -> bool:
    """Whether a section is a phase of a run, and not a role of another playbook."""
    return section is not None and section.phase


def plain_failure(result: Any) -> tuple[str, str, str]:
    """What, why and next of a task that is not ours."""
    answer = result.result
    if answer.get("censored"):
        why = "its output is secret"
    else:
        failed = [item for item in answer.get("results") or [] if isinstance(item, Mapping) and item.get("failed")]
        shown = failed[0] if failed else answer
        words = [shown.get("msg"), shown.get("stderr"), shown.get("module_stderr"), shown.get("stdout")]
        why = next((" ".join(str(word).split()) for word in words if word), "no reason was given")
        if str(shown.get("msg", "")).startswith(("non-zero return code", "MODULE FAILURE")) and shown.get("stderr"):
            why = str(shown["stderr"]).strip().splitlines()[-1]
    todo = "correct it and run the same again (-v shows the whole answer)"
    if "no vault secrets" in why:  # in Ansible's words for a missing password as well as for a wrong one
        todo = "give the vault's password: --ask-vault-pass, or ANSIBLE_VAULT_PASSWORD_FILE=… (docs/secrets.md)"
    return f"{result.host.get_name()}: {result.task.get_name().strip()}", why[:400], todo
