"""Hurts the controller, or stops it for a moment, at one point of a run. Loaded by benchmarks/faults.py only.

The point comes from the environment: `before:<number of the task>`, `before:<name of the play>`, or `during:` the same
(while the hosts work on it, FAULT_DELAY seconds after the first was asked). Every task is written to FAULT_TIMELINE, on
the machine's monotonic clock, so that it can be laid beside what visitors saw.
"""

# ruff: noqa: ARG002  Ansible gives the signatures

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: bluegreen_fault
type: aggregate
short_description: Kills or stops the controller at one point of a run
description:
  - For benchmarks/faults.py; does nothing without its environment variables.
"""

PATIENCE = 120.0  # seconds that a stopped controller waits for the word to go on


class CallbackModule(CallbackBase):
    """Counts tasks, and acts once."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bluegreen_fault"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        self.timeline = os.environ.get("FAULT_TIMELINE", "")
        self.when, _, self.point = os.environ.get("FAULT_AT", "").partition(":")
        self.action = os.environ.get("FAULT_DO", "")  # KILL, INT, TERM, or "pause"
        self.whom = os.environ.get("FAULT_WHOM", "all")
        self.delay = float(os.environ.get("FAULT_DELAY", "0"))
        self.go = Path(os.environ.get("FAULT_GO", "/nowhere"))
        self.number = 0
        self.play = ""
        self.done = not self.when

    def write(self, event: str, **details: object) -> None:
        """One line of the timeline."""
        if self.timeline:
            line = {"at": time.monotonic(), "event": event, "number": self.number, "play": self.play, **details}
            with open(self.timeline, "a", encoding="utf-8") as out:  # noqa: PTH123
                out.write(json.dumps(line) + "\n")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self.play = play.get_name().strip()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.number += 1
        self.write("task", task=task.get_name().strip())
        if self.here("before"):
            self.act()

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        self.write("host", host=host.get_name())
        if self.here("during"):
            self.done = True
            threading.Timer(self.delay, self.act).start()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.write("end")

    def here(self, when: str) -> bool:
        """Whether this is the point."""
        return not self.done and self.when == when and self.point in (str(self.number), self.play)

    def act(self) -> None:
        """Do what was asked for, once."""
        self.done = True
        self.write("hit")
        if self.action == "pause":
            until = time.monotonic() + PATIENCE
            while not self.go.exists() and time.monotonic() < until:
                time.sleep(0.02)
            self.write("on")
            return
        number = getattr(signal, f"SIG{self.action}")
        own = os.getpid()
        if self.whom == "all":
            for pid in descendants(own):
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        os.kill(own, number)


def descendants(root: int) -> list[int]:
    """The processes below one: workers are sessions of their own, a signal to the group does not reach them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found
