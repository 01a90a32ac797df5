"""How a run is shown: as ansible-playbook shows it, or with GitHub's groups, annotations and summary. No I/O."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from plugins.module_utils.bluegreen_fleet import title
from support.ci.record import Record, Trouble

MOST_ERRORS = 9  # GitHub shows ten annotations of a step; the last one says how it ended
COMMAND = re.compile(r"(?m)^(\s*):(?=:)|##(?=\[)")


def text_of(event: Mapping[str, Any]) -> str:
    """What Ansible printed in an event, with the line breaks that ansible-runner takes off its end."""
    text = str(event.get("stdout") or "").replace("\r\n", "\n")
    lines = int(event.get("end_line") or 0) - int(event.get("start_line") or 0)
    return text + "\n" * max(0, lines - text.count("\n"))


# GitHub's commands


def escape(text: str) -> str:
    """The text of a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(text: str) -> str:
    """The value of a command's property."""
    return escape(text).replace(":", "%3A").replace(",", "%2C")


def mask_lines(masks: Iterable[str]) -> list[str]:
    """Commands after which GitHub hides each text in everything that the job prints."""
    return [f"::add-mask::{escape(text)}" for text in masks]


def error_line(message: str, heading: str = "", path: str = "", line: int = 0, workspace: str = "") -> str:
    """An annotation; its file is named from the workspace, where GitHub looks for it."""
    if path and workspace and PurePath(path).is_relative_to(workspace):
        path = str(PurePath(path).relative_to(workspace))
    given = {"file": path, "line": str(line) if path and line else "", "title": heading}
    properties = ",".join(f"{name}={escape_property(value)}" for name, value in given.items() if value)
    return f"::error {properties}::{escape(message)}" if properties else f"::error::{escape(message)}"


def harmless(text: str) -> str:
    """Text of hosts and tasks, in which nothing is a command to GitHub."""
    return COMMAND.sub(lambda found: f"{found[1]}: " if found[1] is not None else "# #", text)


class Plain:
    """Nothing added, nothing left out."""

    def begin(self, masks: Sequence[str]) -> str:  # noqa: ARG002  the other one prints them
        return ""

    def event(self, event: Mapping[str, Any], record: Record, trouble: Trouble | None) -> str:  # noqa: ARG002
        """What to print of an event."""
        return text_of(event)

    def end(self, failure: Mapping[str, Any] | None) -> str:  # noqa: ARG002  Ansible has said it
        return ""


class GitHub:
    """A group for each phase, which holds its hosts and details; the line of the phase stands below it."""

    def __init__(self, workspace: str = "") -> None:
        self.workspace = workspace
        self.heading = ""
        self.open = False
        self.errors = 0

    def begin(self, masks: Sequence[str]) -> str:
        """The masks come first of all."""
        return "".join(f"{line}\n" for line in mask_lines(masks))

    def event(self, event: Mapping[str, Any], record: Record, trouble: Trouble | None) -> str:
        """What to print of an event."""
        text, data = harmless(text_of(event)), event.get("event_data") or {}
        if event["event"] in ("playbook_on_play_start", "playbook_on_stats"):
            # what is printed here is the line of the phase that has ended
            before, self.heading = self.close(), str(data.get("name") or "")
            return before + text
        if str(data.get("task_action")) == "bluegreen" and event["event"].startswith(("runner_on_ok", "runner_on_un")):
            text += host_line(data, record)
        if text:
            text = self.opening() + text
        if trouble and self.errors < MOST_ERRORS:
            self.errors += 1
            said = " — ".join(filter(None, (trouble.what, trouble.why)))
            text += f"{error_line(said, trouble.title, trouble.path, trouble.line, self.workspace)}\n"
        return text

    def opening(self) -> str:
        """Open the group of the play, if it is not open."""
        if self.open or not self.heading:
            return ""
        self.open = True
        return f"::group::{escape(harmless(self.heading))}\n"

    def close(self) -> str:
        """Close the group, if one is open."""
        was, self.open = self.open, False
        return "::endgroup::\n" if was else ""

    def end(self, failure: Mapping[str, Any] | None) -> str:
        """The last annotation says how it ended."""
        text = self.close()
        if failure:
            said = " — ".join(str(failure[key]) for key in ("why", "next") if failure.get(key))
            text += f"{error_line(said, heading=str(failure['what']))}\n"
        return text


def host_line(data: Mapping[str, Any], record: Record) -> str:
    """One host's answer in the group of a phase."""
    result = data.get("res") or {}
    if not isinstance(result, Mapping):
        return ""
    host = str(data.get("host"))
    phase = str(result.get("phase") or data.get("role") or "")
    word = "pass" if record.passed(phase, host) else "fail"
    took = f" in {float(result['ended']) - float(result['began']):.1f} s" if "ended" in result else ""
    error = result.get("error") or {}
    why = f": {error.get('what')}" if word == "fail" and isinstance(error, Mapping) and error.get("what") else ""
    return harmless(f"  {host}: {word}{took}{why}") + "\n"


# the summary of a job


def cell(value: object) -> str:
    """A text in a table of Markdown, without anything that is markup."""
    return re.sub(r"([\\`*_\[\]|~#])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def table(rows: Sequence[Sequence[object]]) -> list[str]:
    """Rows of Markdown, the first of which is the heading."""
    lines = [f"| {' | '.join(cell(value) for value in row)} |" for row in rows]
    return [lines[0], f"|{' --- |' * len(rows[0])}", *lines[1:]]


def code(text: str) -> str:
    """A text that is shown as it is, in one line."""
    return f"<code>{html.escape(' '.join(text.split()), quote=False)}</code>"


def summary(result: Mapping[str, Any]) -> str:
    """The summary of a job, from what the result file says."""
    what = " ".join(filter(None, (result["verb"].capitalize(), str(result.get("sha") or "")[:12])))
    lines = [f"## {cell(what)} · {cell(result['environment'])}: {cell(result['outcome'])}", ""]
    failure = result.get("failure")
    if failure:
        lines += [f"**{cell(failure['what'])}**", ""]
        lines += [f"Why: {cell(failure['why'])}", ""] if failure.get("why") else []
        lines += [f"Next: {code(str(failure['next']))}", ""] if failure.get("next") else []
    elif result.get("line"):
        lines += [cell(result["line"]), ""]
    lines += [f"- {cell(note)}" for note in result.get("notes") or []] + [""]
    if result.get("phases"):
        rows: list[Sequence[object]] = [("phase", "seconds", *result["hosts"])]
        for phase in result["phases"]:
            took = "" if phase["seconds"] is None else f"{phase['seconds']:.1f}"
            rows.append((title(phase["name"]), took, *(phase["hosts"].get(host, "") for host in result["hosts"])))
        lines += [*table(rows), ""]
    if result.get("migrations") is not None:
        lines += [f"Migrations: {migrations(result['migrations'])}", ""]
    if result.get("status"):
        lines += [*table([("host", "live", "drift"), *(status_row(row) for row in result["status"])]), ""]
    about = {"run": result.get("deploy_id"), "seconds": result.get("seconds"), "exit status": result.get("exit")}
    lines += [cell(" · ".join(f"{name} {value}" for name, value in about.items() if value is not None)), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def migrations(found: Sequence[Any]) -> str:
    """The migrations of a plan, with their verdicts where it gives them."""
    words = [
        " ".join(str(one[key]) for key in ("name", "verdict") if one.get(key)) if isinstance(one, Mapping) else str(one)
        for one in found
    ]
    return cell(", ".join(words) or "none")


def status_row(row: Mapping[str, Any]) -> tuple[object, object, object]:
    """One host of a status."""
    live = row.get("live") or {}
    serves = str(live.get("sha") or row.get("error") or "nothing")[:40]
    return row.get("host"), serves, ", ".join(row.get("drift") or [])
