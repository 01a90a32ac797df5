"""What was asked for. Each input must match a whole pattern before Ansible sees it: Ansible evaluates templates."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from plugins.module_utils import bluegreen_inputs as asked
from support.common import REPO, Failure

BAD_INPUT = 2  # exit status
VERBS = ("deploy", "rollback", "status", "unlock")
ENVIRONMENT = re.compile(r"[a-z][a-z0-9_-]{0,30}")
PATH = re.compile(r"[A-Za-z0-9._~/@+=,-][A-Za-z0-9._~/@+=, -]{0,400}")
LABEL = r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z0-9_]+"
APPROVAL = rf"{LABEL}@sha256:[0-9a-f]{{64}}"
WORDS = r"[A-Za-z0-9À-ɏ .,;:!?@#%&*+=/_()-]{1,500}"  # neither quotes nor braces: nothing that is evaluated
ASKED = re.compile(r"-e '(\{\"migrations_[a-z]+\": .*?\})'")  # how a refusal names the words that would do


@dataclasses.dataclass(frozen=True)
class Option:
    """An input that becomes a variable of the run: what it may look like, whose it is, and what to type instead."""

    pattern: str
    verbs: tuple[str, ...]
    wanted: str
    example: str
    required: bool = False
    beside: str = ""  # needed where this other option is given


CHANGES = ("deploy", "rollback")
OPTIONS: Mapping[str, Option] = {
    "sha": Option(r"[0-9a-f]{6,40}", ("deploy",), "6 to 40 of 0-9 and a-f: a commit", "abc123", required=True),
    "artifact": Option(
        r"[a-z][a-z0-9-]{0,30}-[0-9a-f]{40}-[0-9a-f]{8}", ("deploy",), "the name of an artifact", "shop-<sha>-<recipe>"
    ),
    "canary": Option(r"[1-9][0-9]?(?:,[1-9][0-9]?)*", ("deploy",), "shares in percent, in steps of 5", "5,25"),
    "inconclusive": Option(r"go_on|revert", ("deploy",), "go_on or revert", "go_on"),
    "to": Option(r"[0-9a-f]{6,40}|[0-9a-f]{12}-[0-9a-f]{8}", ("rollback",), "a commit or a release id", "abc123"),
    "watch": Option(r"[0-9]{1,4}(?:\.[0-9]{1,3})?", CHANGES, "0 to 3600 seconds", "30"),
    "wait": Option(r"[0-9]{1,5}", CHANGES, "0 to 86400 seconds", "600"),
    "without": Option(r"[A-Za-z0-9_.-]+(?:,[A-Za-z0-9_.-]+)*", CHANGES, "names of app servers", "web7,web8"),
    "lease": Option(r"[A-Za-z0-9._-]{1,64}", ("unlock",), "the id of a lease, as unlock shows it", "20261121T…"),
    "migrations-approve": Option(
        rf"{APPROVAL}(?:,{APPROVAL})*", ("deploy",), "approvals as the refusal printed them", "shop.0007_x@sha256:…"
    ),
    "migrations-approved-by": Option(WORDS, ("deploy",), "who approves", "ann", beside="migrations-approve"),
    "migrations-approve-reason": Option(WORDS, ("deploy",), "why", "'80 rows'", beside="migrations-approve"),
    "migrations-late": Option(
        rf"{LABEL}(?:,{LABEL})*", ("deploy",), "app.name of migrations, as the refusal printed them", "shop.0007_x"
    ),
    "artifact-store": Option(PATH.pattern, ("deploy",), "a directory, instead of artifact_store", "artifacts/"),
    "report": Option(PATH.pattern, CHANGES, "a directory", "report/"),
    "plan-out": Option(PATH.pattern, CHANGES, "a file", "plan.json"),
    "out": Option(PATH.pattern, ("status",), "a file", "status.json"),
}
FLAGS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "retry-bad": (("deploy",), "deploy a commit that was reverted before"),
    "after-reverts": (("deploy",), "deploy though the last ones were reverted"),
    "migrations-maintenance-window": (("deploy",), "stop the application while refused migrations run"),
}
FILES = ("artifact-store", "report", "plan-out", "out")  # named from where the caller stands
CEILINGS = {"watch": 3600.0, "wait": 86400.0}  # seconds

EPILOG = """\
secrets, from the environment (an empty one is a missing one; NAME_FILE names a file instead):
  BLUEGREEN_SSH_KEY         the private key of deploy_user, without a passphrase
  BLUEGREEN_KNOWN_HOSTS     the host keys of all hosts, as in ~/.ssh/known_hosts (not secret)
  BLUEGREEN_VAULT_PASSWORD  where the inventory has files that ansible-vault encrypted
  BLUEGREEN_SECRET_<NAME>   the variable vault_<name>, instead of a vault
  BLUEGREEN_SECRETS         several of them as a JSON object: {"<NAME>": "<value>"}

exit status:
  0  the fleet serves what was asked for          5  it failed before any visitor was moved
  1  an error that nobody foresaw                 6  it was reverted: the fleet serves what it served
  2  an input was refused, nothing started        7  cancelled: nothing changed, or all went back
  3  a secret is missing or does not fit          8  cancelled too late: the new release was confirmed
  4  the run was refused, nothing was changed     9  not every host could be asked; the hosts settle it themselves
after 5 and 7 a maintenance page that was up may stay: the last lines say so, and what ends it
"""


@dataclasses.dataclass(frozen=True)
class Request:
    """A run that was asked for. `variables`: what Ansible gets, all texts or true."""

    verb: str
    environment: str
    variables: Mapping[str, str | bool]
    check: bool
    diff: bool
    verbosity: int
    result: Path | None


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message}; see scripts/deploy --help", BAD_INPUT)


def parser() -> argparse.ArgumentParser:
    """The options; see --help."""
    top = Parser(
        prog="deploy",
        description="Run a deploy, a rollback, a status or an unlock from a CI job.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("verb", choices=VERBS)
    top.add_argument("--env", required=True, metavar="NAME", help="the environment: a directory in inventories/")
    for name, option in OPTIONS.items():
        for_whom = f" ({', '.join(option.verbs)})"
        top.add_argument(f"--{name}", metavar=option.example, default="", help=option.wanted + for_whom)
    for name, (verbs, text) in FLAGS.items():
        top.add_argument(f"--{name}", action="store_true", help=f"{text} ({', '.join(verbs)})")
    top.add_argument("--check", action="store_true", help="show the plan; nothing that serves changes")
    top.add_argument("--diff", action="store_true", help="as ansible-playbook --diff")
    top.add_argument("-v", dest="verbosity", action="count", default=0, help="as ansible-playbook -v, to -vvvv")
    top.add_argument("--result", metavar="FILE", default="", help="write how it ended, as JSON")
    return top


def parse(words: Sequence[str], inventories: Path = REPO / "inventories") -> Request:
    """The request of a command line. An empty value is one that was not given. Raises Failure (2)."""
    options = parser().parse_args(list(words))
    verb: str = options.verb
    environment = check_environment(options.env, inventories)
    variables: dict[str, str | bool] = {}
    values = {name: check_value(name, getattr(options, name.replace("-", "_")), verb) for name in OPTIONS}
    for name, option in OPTIONS.items():
        if value := values[name]:
            variables[name.replace("-", "_")] = str(Path(value).expanduser().absolute()) if name in FILES else value
        elif (option.required and verb in option.verbs) or values.get(option.beside):
            raise Failure(f"--{name} is missing: it must be {option.wanted}, for example --{name} {option.example}", 2)
    for name, (verbs, _) in FLAGS.items():
        if getattr(options, name.replace("-", "_")):
            refuse_verb(name, verb, verbs)
            variables[name.replace("-", "_")] = True
    if options.verbosity > 4:
        raise Failure(f"-{'v' * options.verbosity} is more than -vvvv", BAD_INPUT)
    if "out" in variables:
        variables["format"] = "json"
    result = Path(options.result).expanduser().absolute() if options.result else None
    if result and not result.parent.is_dir():
        raise Failure(f"--result: there is no directory {result.parent}", BAD_INPUT)
    return Request(verb, environment, variables, options.check, options.diff, options.verbosity, result)


def check_environment(value: str, inventories: Path) -> str:
    """The name of an environment. Raises Failure that names those there are."""
    known = sorted(path.name for path in inventories.iterdir() if path.is_dir()) if inventories.is_dir() else []
    if ENVIRONMENT.fullmatch(value) and value in known:
        return value
    raise Failure(f"--env {asked.show(value)} is not an environment: there are {', '.join(known) or 'none'}", BAD_INPUT)


def refuse_verb(name: str, verb: str, verbs: Sequence[str]) -> None:
    """Refuse an option of another verb. Raises Failure."""
    if verb not in verbs:
        raise Failure(f"--{name} is not for {verb}: it belongs to {' and '.join(verbs)}", BAD_INPUT)


def check_value(name: str, value: str, verb: str) -> str:
    """A value that may be given to Ansible, or nothing. Raises Failure."""
    option = OPTIONS[name]
    if not value:
        return ""
    refuse_verb(name, verb, option.verbs)
    try:
        if not re.fullmatch(option.pattern, value, re.ASCII):
            what = f"{name}={asked.show(value)} cannot be used"
            raise asked.Refused(what, f"it must be {option.wanted}", f"for example --{name} {option.example}")
        if name == "canary":
            asked.check_canary(value)
        if name in CEILINGS:
            asked.check_seconds(name, value, 0.0, CEILINGS[name])
    except asked.Refused as refusal:
        words = [refusal.what, refusal.why, refusal.todo.replace(f"-e {name}=", f"--{name} ")]
        raise Failure(f"--{': '.join(filter(None, words[:2]))}{f'; {words[2]}' if words[2] else ''}", 2) from None
    return value


def playbook(verb: str) -> Path:
    """The playbook of a verb."""
    return REPO / f"{verb}.yml"


def words(request: Request, files: Sequence[Path]) -> list[str]:
    """What is said to ansible-playbook besides the playbook: paths and flags, never a value."""
    found = ["-i", str(REPO / "inventories" / request.environment)]
    found += [word for path in files for word in ("-e", f"@{path}")]
    found += ["--check"] * request.check + ["--diff"] * request.diff
    return found + ([f"-{'v' * request.verbosity}"] if request.verbosity else [])


def own_words(todo: str) -> str:
    """What to type next, where those are words about migrations for ansible-playbook: the same for scripts/deploy."""

    def options(found: re.Match[str]) -> str:
        return " ".join(
            f"--{name.replace('_', '-')}"
            + ("" if value is True else f" {','.join(value) if type(value) is list else '…'}")
            for name, value in json.loads(found[1]).items()
        )

    window = "migrations_maintenance_window"
    return ASKED.sub(options, todo).replace(f"-e {window}=true", f"--{window.replace('_', '-')}")


def base(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a result file says in any case."""
    return {"format": 1, "run_url": asked.run_url(environment)}
