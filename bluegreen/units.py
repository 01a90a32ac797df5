"""systemd, asked and told. Every call goes through `run`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

from bluegreen.errors import BluegreenError, Code, check_failed


def missing(command: Sequence[str]) -> BluegreenError:
    """A program that this host lacks."""
    return BluegreenError(
        Code.NOT_PROVISIONED, f"{command[0]} is not installed", "", "run ansible-playbook provision.yml"
    )


def overdue(command: Sequence[str], seconds: float) -> BluegreenError:
    """A program that took longer than it may."""
    return check_failed(f"{' '.join(command[:3])} did not end within {seconds:g} s")


def failed(command: Sequence[str], status: int, said: str) -> BluegreenError:
    """A program that ended with another status than 0, and its last word."""
    return check_failed(f"{' '.join(command[:4])} failed with status {status}", last_line(said))


def run(
    command: Sequence[str], timeout: float = 60, check: bool = True, stdin: str | None = None, aloud: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a program of the system and keep what it prints; `aloud`: its stderr goes to ours while it works.

    Raises BluegreenError when it fails (unless `check` is off), is missing, or takes longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command,
            check=False,
            encoding="utf-8",
            errors="replace",  # what a release prints may be anything
            stdout=subprocess.PIPE,
            stderr=None if aloud else subprocess.PIPE,
            timeout=timeout,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise missing(command) from None
    except subprocess.TimeoutExpired:
        raise overdue(command, timeout) from None
    if check and done.returncode:
        raise failed(command, done.returncode, done.stderr or done.stdout)
    return done


T = TypeVar("T")


def stream(command: Sequence[str], stdin: str, keep: Callable[[IO[bytes]], T], timeout: float) -> tuple[int, T, str]:
    """Run a program and give what it writes to `keep` while it writes. Returns its status, what keep made, its errors.

    The program is ended when `keep` raises, and after `timeout` seconds.
    """
    import tempfile
    import threading

    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(timeout, child.kill)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it died at once: its status and errors say why
                child.stdin.write(stdin.encode())
                child.stdin.close()
            made = keep(child.stdout)
            child.wait()
        finally:
            timer.cancel()
            if child.poll() is None:
                child.terminate()
                child.wait()
            child.stdout.close()
        errors.seek(0)
        return child.returncode, made, errors.read().decode("utf-8", "replace")


def head(command: Sequence[str], most: int, size: int, timeout: float) -> tuple[int, list[str], bool]:
    """Run a program and keep at most `most` lines of what it prints, its complaints among them; then it is ended.

    So it is after `size` bytes. Returns its exit status, the lines, and whether all of it came. Raises BluegreenError
    when it is missing, or takes longer than `timeout`.
    """
    import signal
    import threading

    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # what it started ends with it
        )
    except FileNotFoundError:
        raise missing(command) from None
    killed = threading.Event()

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    def late() -> None:
        killed.set()
        end()

    timer = threading.Timer(timeout, late)
    timer.start()
    lines: list[str] = []
    assert child.stdout is not None
    with child:
        while len(lines) < most and (line := child.stdout.readline(size + 1)):
            size -= len(line)
            if size < 0:  # one line may have no end
                break
            lines.append(line.rstrip(b"\n").decode("utf-8", "backslashreplace"))
        whole = len(lines) < most and size >= 0
        if not whole:
            end()
    timer.cancel()
    if killed.is_set():
        raise overdue(command, timeout)
    return child.returncode, lines, whole


_running: list[subprocess.Popen[str]] = []


def begin(command: Sequence[str]) -> Callable[[], None]:
    """Start a program of the system beside this one. What is returned waits for it, and raises when it failed."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
        )
    except FileNotFoundError:
        raise missing(command) from None
    _running.append(child)

    def finish() -> None:
        _running.remove(child)
        try:
            _, said = child.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise overdue(command, 60) from None
        if child.returncode:
            raise failed(command, child.returncode, said)

    return finish


def finish_all() -> None:
    """Wait for what `begin` started and nobody waited for; whether it succeeded does not matter."""
    while _running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            _running.pop().communicate(timeout=10)


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def systemctl(*words: str, timeout: float = 60, check: bool = True) -> str:
    """Call systemctl. Returns what it printed."""
    return run(("systemctl", "--no-ask-password", *words), timeout, check).stdout


def properties(units: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Properties of several units in one call; a unit that systemd does not know is `inactive`."""
    if not units:
        return {}
    text = systemctl("show", "--property", ",".join(("Id", *names)), "--", *units)
    result = {}
    for unit, block in zip(units, text.strip().split("\n\n"), strict=True):
        result[unit] = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    return result


def state_of(unit: str) -> str:
    """What a unit does: active, activating, deactivating, failed, inactive …"""
    return properties([unit], ["ActiveState"])[unit].get("ActiveState", "")


def listed(*patterns: str) -> dict[str, str]:
    """The units that match and are active, starting, stopping or failed, each with its state."""
    text = systemctl(
        "list-units",
        "--plain",
        "--no-legend",
        "--no-pager",
        "--full",
        "--state=active,activating,deactivating,reloading,failed",
        *patterns,
    )
    rows = [line.split() for line in text.splitlines() if line.strip()]
    return {row[0]: row[2] for row in rows}


def journal(unit: str, since: float, lines: int = 20) -> list[str]:
    """The last lines that a unit itself wrote since a wall-clock time (seconds), whichever of its runs wrote them."""
    run(("journalctl", "--sync"), check=False)
    words = ("journalctl", "--no-pager", "--quiet", "--output=json", "--output-fields=MESSAGE,_PID", "--lines=200")
    done = run((*words, f"--since=@{since:.3f}", f"--unit={unit}"), check=False)
    return own_lines(done.stdout)[-lines:]


def own_lines(text: str) -> list[str]:
    """The messages of journalctl's JSON lines, without those that systemd wrote about the unit."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            message = entry.get("MESSAGE")
            if isinstance(message, list):  # bytes that are not text
                message = bytes(message).decode("utf-8", "replace")
            if entry.get("_PID") != "1" and message and message.strip():
                found.append(message)
    return found


def web_unit(app: str, colour: str) -> str:
    """The unit that serves a colour."""
    return f"{app}@{colour}.service"


def process_unit(app: str, colour: str, process: str, number: int) -> str:
    """The unit of one copy of a background process."""
    return f"{app}-{colour}@{process}-{number}.service"


def timer_unit(app: str, colour: str, process: str) -> str:
    """The timer of a process that runs by the clock."""
    return f"{app}-{colour}@{process}-1.timer"
