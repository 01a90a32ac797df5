"""The command line: one verb with options, or a batch of verbs as JSON on stdin.

One JSON object on stdout, one line for a person on stderr, the exit status says what kind of failure (errors.Code).
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluegreen import __version__, units
from bluegreen.config import Paths, check_app_name, installed_apps, load_config
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed
from bluegreen.verbs import VERBS, perform

if TYPE_CHECKING:
    import argparse

SYSTEM = {  # what the host may lack, and where to look
    errno.ENOSPC: ("the disk is full", "df -h; df -i"),
    errno.EDQUOT: ("the disk is full", "quota; df -h"),
    errno.EIO: ("the disk fails", "dmesg"),
    errno.EROFS: ("the disk is read-only", "dmesg; findmnt"),
    errno.EBUSY: ("a file is in use by something else", "findmnt"),
    errno.ENOMEM: ("memory is used up", "free -h"),
    errno.EMFILE: ("too many files are open", "ulimit -n"),
    errno.ENFILE: ("too many files are open", "sysctl fs.file-nr"),
}


def parser() -> argparse.ArgumentParser:
    """The parser, made from the table of verbs."""
    import argparse  # slow to import, and a batch needs none

    top = argparse.ArgumentParser(
        prog="bluegreen", description="What serves on this host, and how to change it. Run it with sudo."
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    several = commands.add_parser("batch", help="several verbs, as JSON on stdin")
    several.add_argument("--app", required=True)
    install = commands.add_parser("compile", help="write this program with this host's byte code")
    install.add_argument("out", type=Path)
    for name, verb in VERBS.items():
        command = commands.add_parser(name, help=verb.help)
        command.add_argument("--app", help="the application; may be left out where there is only one")
        command.add_argument("--dry-run", action="store_true", help="say what would be done")
        command.add_argument("--deploy-id", default="", help=argparse.SUPPRESS)
        command.add_argument("--fence", type=int, help=argparse.SUPPRESS)
        if name == "reconcile":
            command.add_argument("--all", action="store_true", help="every application of this host")
        if any(param.data for param in verb.params.values()):
            command.add_argument(
                "--data", metavar="-", help="- reads a JSON object with the remaining parameters from stdin"
            )
        for option, param in verb.params.items():
            if param.data:
                continue
            flag = f"--{option.replace('_', '-')}"
            if param.kind is bool:
                command.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=param.help or None)
            else:
                command.add_argument(
                    flag, type=param.kind, default=None, choices=param.choices or None, help=param.help or None
                )
    return top


def one_app(name: str | None, root: Path) -> str:
    """The application meant: the one named, or the only one there is."""
    if name:
        return check_app_name(name)
    apps = installed_apps(root)
    if len(apps) == 1:
        return apps[0]
    raise bad_input("which application? say --app NAME", f"this host has {', '.join(apps) or 'none'}")


def make_context(app: str, root: Path, **caller: Any) -> Context:
    """The context of a call."""
    paths = Paths(app, root)
    return Context(paths, load_config(paths), **caller)


def person() -> str:
    """Who calls: the person behind sudo."""
    return f"{os.environ.get('SUDO_USER') or os.environ.get('USER') or 'root'}@{os.uname().nodename}"


def single(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Run one verb from the command line."""
    verb = VERBS[options.verb]
    given = {
        name: getattr(options, name)
        for name, param in verb.params.items()
        if not param.data and getattr(options, name) is not None
    }
    if getattr(options, "data", None):
        extra = read_stdin()
        given |= extra
    if options.verb == "reconcile" and options.all:
        return reconcile_all(root, given, options.dry_run)
    local = options.deploy_id or f"local-{int(time.time())}-{os.getpid()}"
    context = make_context(
        one_app(options.app, root), root, deploy_id=local, fence=options.fence, holder=person(), dry_run=options.dry_run
    )
    return perform(context, options.verb, given)


def reconcile_all(root: Path, given: dict[str, Any], dry_run: bool) -> dict[str, Any]:
    """Reconcile every application; one that fails does not keep the others down."""
    answers: dict[str, Any] = {}
    for app in installed_apps(root):
        try:
            context = make_context(app, root, deploy_id="boot", holder=person(), dry_run=dry_run)
            answers[app] = perform(context, "reconcile", given)
        except BluegreenError as problem:
            print(f"bluegreen: {app}: {problem}", file=sys.stderr)
            answers[app] = {"error": problem.as_dict("reconcile")}
        except Exception:  # noqa: BLE001  the other applications must come up
            answers[app] = {"error": unforeseen("reconcile")}
    failed = [app for app, answer in answers.items() if "error" in answer]
    if failed:
        raise check_failed(f"{', '.join(failed)} could not be reconciled", "see the lines above", "", answers)
    return answers


def read_stdin() -> dict[str, Any]:
    """The JSON object on stdin."""
    try:
        value = json.load(sys.stdin)
    except ValueError as problem:
        raise bad_input("stdin does not hold JSON", str(problem)) from None
    if not isinstance(value, dict):
        raise bad_input("stdin must hold a JSON object")
    return value


def batch(app: str, root: Path, call: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Run several verbs in order until one fails. Returns the answer and the exit status."""
    started = time.monotonic()
    results: dict[str, Any] = {}
    answer: dict[str, Any] = {
        "ok": True,
        "results": results,
        "error": None,
        "stopped": None,
        "host": os.uname().nodename,
    }
    verb, name, status = "batch", "batch", 0
    try:
        check_call(call)
        context = make_context(
            check_app_name(app),
            root,
            deploy_id=str(call.get("deploy_id") or ""),
            fence=call.get("fence"),
            holder=str(call.get("holder") or person()),
            dry_run=bool(call.get("dry_run")),
        )
        answer["host"] = context.config.host or answer["host"]
        for step in call.get("steps") or []:
            params = dict(step)
            verb = str(params.pop("verb", ""))
            name = str(params.pop("id", verb))
            # a later step may use what an earlier one of the same call found out
            params = {key: look_up(value, results) if is_reference(value) else value for key, value in params.items()}
            results[name] = perform(context, verb, params)
            if results[name].pop("stop", False):
                answer["stopped"] = name
                break
    except BluegreenError as problem:
        status = int(problem.code)
        answer |= {"ok": False, "error": problem.as_dict(verb)}
        if problem.details:
            results[name] = problem.details
        print(f"bluegreen: {problem}", file=sys.stderr)
    except Exception:  # noqa: BLE001  the answer must be JSON whatever happens
        answer |= {"ok": False, "error": unforeseen(verb)}
        status = answer["error"]["code"]
    answer["seconds"] = round(time.monotonic() - started, 3)
    return answer, status


def check_call(call: dict[str, Any]) -> None:
    """Refuse a batch whose parts are of the wrong type."""
    if type(call.get("fence")) not in (int, type(None)):
        raise bad_input("fence must be a whole number or null", f"it is {call['fence']!r}")
    steps = call.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise bad_input("steps must be a list of objects", 'for example: {"steps": [{"verb": "status"}]}')


def is_reference(value: Any) -> bool:
    """Whether a parameter is `{"from": step, "key": name}`."""
    return isinstance(value, dict) and set(value) == {"from", "key"}


def look_up(reference: dict[str, Any], results: dict[str, Any]) -> Any:
    """What an earlier step of the same call found out."""
    found = results.get(str(reference["from"]), {})
    if reference["key"] not in found:
        raise bad_input(f"there is no {reference['key']} of {reference['from']}", f"done before: {', '.join(results)}")
    return found[reference["key"]]


def unforeseen(verb: str) -> dict[str, Any]:
    """The exception at hand, which no verb expects: what the host lacks is told in one line, all else is a bug.

    Of a bug the caller gets the last line, and stderr the whole of it.
    """
    problem = sys.exception()
    if isinstance(problem, OSError) and problem.errno in SYSTEM:
        lacks, look = SYSTEM[problem.errno]
        todo = f"mend that ({look}), then type the same again"
        failure = BluegreenError(Code.REFUSED, f"bluegreen {verb}: {lacks}", str(problem), todo)
        print(f"bluegreen: {failure}", file=sys.stderr)
        return failure.as_dict(verb)
    import traceback  # slow to import

    text = traceback.format_exc()
    print(text, file=sys.stderr)
    lines = text.strip().splitlines()
    return {
        "verb": verb,
        "what": f"bluegreen {verb} met a bug",
        "why": lines[-1],
        "next": "report it with the lines above",
        "code": int(Code.BUG),
    }


def show(answer: dict[str, Any]) -> None:
    """One JSON object on stdout, indented for a person."""
    print(json.dumps(answer, indent=2 if sys.stdout.isatty() else None, sort_keys=True, default=str))


def batch_answer(app: str, root: Path) -> int:
    """Run the batch on stdin and print its answer. The controller's way in: it needs no parser."""
    try:
        answer, status = batch(app, root, read_stdin())
    except BluegreenError as problem:
        answer, status = {"ok": False, "results": {}, "error": problem.as_dict("batch")}, int(problem.code)
    show(answer)
    return status


def main(arguments: Sequence[str] | None = None, root: Path = Path("/")) -> int:
    """Run the program. Returns its exit status."""
    os.umask(0o022)
    try:
        return run(list(sys.argv[1:] if arguments is None else arguments), root)
    finally:
        units.finish_all()


def run(words: list[str], root: Path) -> int:
    """Do what the words of the command line say. Returns the exit status."""
    if words[:2] == ["batch", "--app"] and len(words) == 3:
        return batch_answer(words[2], root)
    options = parser().parse_args(words)
    if options.verb == "compile":
        from bluegreen.build import compile_installed

        show({"changed": compile_installed(Path(sys.argv[0]), options.out)})
        return 0
    if options.verb == "batch":
        return batch_answer(options.app, root)
    try:
        answer = single(options, root)
    except BluegreenError as problem:
        print(f"bluegreen: {problem}", file=sys.stderr)
        show({"error": problem.as_dict(options.verb), **problem.details})
        return int(problem.code)
    except PermissionError as problem:
        denied = BluegreenError(Code.NOT_PROVISIONED, str(problem), "", "run it with sudo")
        print(f"bluegreen: {denied}", file=sys.stderr)
        show({"error": denied.as_dict(options.verb)})
        return int(denied.code)
    except Exception:  # noqa: BLE001  the answer must be JSON whatever happens
        error = unforeseen(options.verb)
        show({"error": error})
        return int(error["code"])
    show(answer)
    return 0
