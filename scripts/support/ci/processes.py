"""Everything that a run started, and its end.

Ansible's workers leave the process group and ssh's shared connections leave the process tree: the kernel is asked to
give both back to this process (PR_SET_CHILD_SUBREAPER), so that they can be found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PASSES = 50
PATIENCE = 2.0  # seconds until a killed process is gone


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def parents() -> dict[int, int]:
    """Each process of the machine that lives → its parent."""
    found = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  names, not paths: this runs in a signal handler
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                state, parent = Path("/proc", name, "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    found[int(name)] = int(parent)
    return found


def below(root: int, parent_of: Mapping[int, int], keep: Collection[int] = ()) -> list[int]:
    """The descendants of a process, without `keep` and theirs."""
    found, level = [], [root]
    while level:
        level = [pid for pid, parent in parent_of.items() if parent in level and pid not in keep]
        found += level
    return found


def kill_all(keep: Collection[int] = ()) -> list[int]:
    """Kill every descendant; returns whom."""
    victims = below(os.getpid(), parents(), keep)
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return victims


def kill_now(keep: Collection[int] = ()) -> None:
    """Kill every descendant, also those that were born meanwhile. Takes nothing they left: who waits for them does."""
    for _ in range(PASSES):
        if not kill_all(keep):
            return
        time.sleep(0.01)


def end_all(keep: Collection[int] = ()) -> bool:
    """Kill every descendant until none is left, and take what they left. False if some would not go."""
    until = time.monotonic() + PATIENCE
    while kill_all(keep):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    for name in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError, ValueError):
            for pid in map(int, (name / "children").read_text(encoding="ascii").split()):
                if pid not in keep:
                    os.waitpid(pid, os.WNOHANG)
    return True
