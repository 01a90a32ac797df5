"""The command line of scripts/deploy: inputs and secrets first, then the run, and the way back if it is cut short."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from plugins.module_utils.bluegreen_text import GOOD as GOOD_RUNS
from support.ci import cancel, hidden, inputs, play, processes, secrets, show
from support.ci.inputs import Request
from support.ci.private import Private, private
from support.ci.record import Record
from support.ci.secrets import Secrets
from support.common import REPO, Failure, write_atomic

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WAY_BACK = 8.0  # seconds: GitHub kills a cancelled job 10 s after the first signal (docs/ci.md)
OK, BUG, REFUSED, FAILED, REVERTED, CANCELLED, CONFIRMED, UNKNOWN = 0, 1, 4, 5, 6, 7, 8, 9
CONNECTION, SECRETS = "connection.json", "secrets.json"  # files of variables, for the run and for its way back
GOOD = (*GOOD_RUNS, "status", "unlock")


class Cancelled(Failure):
    """A signal came before anything ran."""


class Stop:
    """What signals mean: before a run they end the program, in a run they end the run, in its end nothing."""

    def __init__(self) -> None:
        self.number = 0
        self.at = 0.0
        self.keep: set[int] | None = None  # of a run: the processes that are none of it
        self.deaf = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGALRM:
            if self.number:
                return  # GitHub sends two
            self.number, self.at = number, time.monotonic()
        if self.keep is not None:
            processes.kill_now(self.keep)  # the run sees its process end
        elif number != signal.SIGALRM and not self.deaf:
            raise Cancelled("cancelled before anything began: nothing was changed", CANCELLED)

    @contextlib.contextmanager
    def running(self, keep: set[int], until: float | None = None) -> Iterator[None]:
        """A run goes on; at `until` (monotonic) it is killed."""
        if until is not None:
            signal.setitimer(signal.ITIMER_REAL, max(0.05, until - time.monotonic()), 0.5)
        self.keep = keep
        try:
            yield
        finally:
            self.deaf, self.keep = True, None
            signal.setitimer(signal.ITIMER_REAL, 0)
            processes.end_all(keep)


@dataclasses.dataclass
class Output:
    """Where everything goes that is shown; what must not show is blackened on its way."""

    style: show.Plain | show.GitHub
    redact: Callable[[str], str]

    def write(self, text: str) -> None:
        if text:
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write(text)
                sys.stdout.flush()

    def handler(self, record: Record) -> Callable[[Mapping[str, Any]], None]:
        """What ansible-runner calls for each event."""

        def take(event: Mapping[str, Any]) -> None:
            trouble = record.take(event)
            self.write(self.redact(self.style.event(event, record, trouble)))

        return take


def main(arguments: list[str]) -> int:
    """Do what the arguments say; returns the exit status."""
    stop = Stop()
    for number in (*SIGNALS, signal.SIGALRM):
        signal.signal(number, stop)
    given = hidden.given()
    github = os.environ.get("GITHUB_ACTIONS") == "true"
    request: Request | None = None
    try:
        request = inputs.parse(arguments)
        found = secrets.gather(given)
        texts = secrets.inventory_texts(request.environment)
        secrets.require(found, texts)
        vault = secrets.open_vault(texts, found.vault_password)
        secrets.require(found, {**texts, **vault.files})
        hidden_texts = secrets.masks([*found.texts(), *vault.texts()])
        return run(request, found, hidden_texts, stop, github)
    except Failure as failure:
        if github:
            print(show.error_line(str(failure)))
        if request:
            refused(request, failure)
        raise


def refused(request: Request, failure: Failure) -> None:
    """Write the result of a request that did not become a run."""
    what, _, todo = str(failure).partition("; ")
    end = "cancelled" if isinstance(failure, Cancelled) else "refused"
    result = about(request, Record(), end, failure.code) | {"failure": {"what": what, "why": "", "next": todo}}
    save(request, result)


def run(request: Request, found: Secrets, masks: Sequence[str], stop: Stop, github: bool) -> int:
    """Run the playbook with everything that it needs, and remove that again. Returns the exit status."""
    started = time.monotonic()
    redact = secrets.redacter(masks)
    tty = sys.stdout.isatty() and not github
    out = Output(show.GitHub(os.environ.get("GITHUB_WORKSPACE", "")) if github else show.Plain(), redact)
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY") if github else None
    outputs = os.environ.get("GITHUB_OUTPUT") if github else None
    record, back = Record(), None
    out.write(out.style.begin(masks))
    processes.adopt_orphans()
    try:
        with private() as place:
            words = prepare(request, found, place, tty)
            with stop.running(place.keep()):
                rc = play.play(inputs.playbook(request.verb), words, place.path, out.handler(record))
            if stop.number and cancel.needed(record):
                out.write(redact(f"cancelled ({signal.Signals(stop.number).name}): the way back\n"))
                back = way_back(record, request, place, stop, out)
    finally:
        processes.end_all()
    end, status = ending(record, rc, cancelled=bool(stop.number), back=back)
    result = about(request, record, end, status, back) | {"seconds": round(time.monotonic() - started, 1)}
    result |= closing(end, record, back)
    result = secrets.redact_all(result, redact)
    out.write(redact(out.style.end(result["failure"])))
    if result["failure"] and (back or record).outcome is None and not record.refusal:
        print(f"deploy: {result['failure']['what']}; {result['failure']['next']}", file=sys.stderr)
    save(request, result)
    if summary_file:
        append(Path(summary_file), show.summary(result))
    if outputs and result["artifact"]:
        append(Path(outputs), f"artifact={result['artifact']}")
    return status


def prepare(request: Request, found: Secrets, place: Private, tty: bool) -> list[str]:
    """Write what the run reads, start the agent, clean the environment. Returns the words for ansible-playbook."""
    for name in ("tmp", "cp"):
        (place.path / name).mkdir(mode=0o700)
    agent = place.start_agent(found.ssh_key) if found.ssh_key else None
    known = place.write("known_hosts", f"{found.known_hosts}\n") if found.known_hosts else None
    vault = place.write("vault_password", found.vault_password) if found.vault_password else None
    place.write(CONNECTION, json.dumps(play.connection(known)))
    place.write(SECRETS, secrets.variables_file(found.values))
    asked = place.write("inputs.json", json.dumps(dict(request.variables)))
    play.use(play.environment(os.environ, place.path, agent=agent, known_hosts=known, vault=vault, tty=tty))
    return inputs.words(request, [place.path / CONNECTION, place.path / SECRETS, asked])


def way_back(record: Record, request: Request, place: Private, stop: Stop, out: Output) -> Record:
    """Take back what a run left that was cut short, within WAY_BACK seconds of the signal. Returns its record."""
    found = Record()
    hosts = place.write("cancel.json", json.dumps(cancel.inventory(record), default=str))
    words = [*inputs.words(request, [place.path / CONNECTION, place.path / SECRETS]), "-i", str(hosts)]
    with stop.running(place.keep(), until=stop.at + WAY_BACK):
        play.play(REPO / "playbooks" / "cancel.yml", words, place.path / "back", out.handler(found))
    return found


def ending(record: Record, rc: int, *, cancelled: bool, back: Record | None) -> tuple[str, int]:
    """One word for the end, and the exit status."""
    if back is not None:
        said = cancel.verdict(record, back)
        final = "rolled back" if record.inputs.get("verb") == "rollback" else "live"
        return {"back": ("cancelled", CANCELLED), "confirmed": (final, CONFIRMED)}.get(said, ("unknown", UNKNOWN))
    if record.outcome is not None:
        end = str(record.outcome.get("ending"))
        went = record.answers.get("revert", {})
        unsure = end == "reverted" and not (went and all(record.passed("revert", host) for host in went))
        status = OK if record.outcome.get("ok") else {"refused": REFUSED, "reverted": REVERTED}.get(end, FAILED)
        return ("unknown", UNKNOWN) if unsure else (end, status)
    if cancelled:
        return "cancelled", CANCELLED
    if record.refusal:
        return "refused", REFUSED
    if rc == 0:
        return "done", OK
    return ("unknown", UNKNOWN) if cancel.moved(record) else ("error", BUG)


def closing(end: str, record: Record, back: Record | None) -> dict[str, Any]:
    """What failed, why, and what to type next; the last line of a good run; notes."""
    outcome = (back if back is not None else record).outcome or {}
    failure = (back if back is not None and back.outcome else record).failure()
    if end == "cancelled" and failure is None:
        what = "the run was cancelled · " + ("all visitors are where they were" if back else "nothing was changed")
        failure = {"what": what, "why": "it was told to stop", "next": "the same again"}
    if end == "unknown" and (failure is None or back is not None):
        what = "not every host could be asked"
        why = "an unconfirmed switch undoes itself (rollout_ttl), a confirmed one is finished by each host"
        failure = {"what": what, "why": why, "next": "scripts/deploy status, then the same again with --wait 180"}
    if end not in (*GOOD, "done") and failure is None:
        failure = {"what": "Ansible ended early", "why": "its output says why", "next": "the same with -v shows more"}
    line = str(outcome.get("line") or "").replace(" ({time})", "").replace("{time}; ", "").replace("{time}", "")
    notes = list(outcome.get("notes") or [])
    if back is not None and (late := cancel.unsettled(record, back)):
        notes.append(
            f"still clearing up: {', '.join(late)}; the lease ends by itself, so the next run takes --wait 180"
        )
    good = end in GOOD and (back is None or bool(outcome.get("ok")))
    said = {**failure, "next": inputs.own_words(str(failure.get("next") or ""))} if failure and not good else None
    return {"failure": said, "line": line, "notes": notes}


def about(request: Request, record: Record, end: str, status: int, back: Record | None = None) -> dict[str, Any]:
    """What a result file says."""
    last = back if back is not None else record
    outcome, known = last.outcome or {}, record.inputs
    return inputs.base() | {
        "verb": request.verb,
        "environment": request.environment,
        "app": known.get("app"),
        "sha": outcome.get("sha") or known.get("sha") or request.variables.get("sha") or request.variables.get("to"),
        "release": outcome.get("release"),
        "previous": outcome.get("previous"),
        "artifact": (known.get("artifact") or {}).get("stem"),
        "deploy_id": known.get("deploy_id"),
        "ok": status == OK,
        "exit": status,
        "outcome": end,
        "hosts": list(known.get("hosts") or []),
        "phases": record.phases() + (back.phases() if back is not None else []),
        "migrations": record.migrations(),
        "status": outcome.get("rows"),
    }


def save(request: Request, result: Mapping[str, Any]) -> None:
    """Write the result file, if one was asked for."""
    if request.result:
        try:
            write_atomic(request.result, json.dumps(result, indent=2, sort_keys=True, default=str) + "\n")
        except OSError as problem:
            print(f"deploy: {request.result} could not be written: {problem.strerror}", file=sys.stderr)


def append(path: Path, text: str) -> None:
    """Add to a file of the job: its summary, or the outputs of the step."""
    try:
        with path.open("a", encoding="utf-8") as out:
            out.write(f"{text}\n")
    except OSError as problem:
        print(f"deploy: the job's file {path} could not be written: {problem.strerror}", file=sys.stderr)
