"""What a run was asked for: checked, never templated a second time.

Pure functions. Ansible treats the values of `-e` as templates, so everything a person types is taken as it was typed
and must match a whole pattern before it is used anywhere.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

APP_FILE = "group_vars/all/app.yml"
APP_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
HEX_PART = re.compile(r"[0-9a-f]{6,40}")
RELEASE_ID = re.compile(r"[0-9a-f]{12}-[0-9a-f]{8}")


class Refused(Exception):
    """An input that cannot be used: what is wrong, why, and what to type instead."""

    def __init__(self, what: str, why: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.todo = todo

    def as_error(self) -> dict[str, str]:
        """The error in the form that every verb of the host tool uses."""
        return {"what": self.what, "why": self.why, "next": self.todo}


# what `configure` is given; each comes from the setting of the same name with app_ before it
CONFIG_KEYS = (
    "wsgi", "asgi", "settings_module", "source_dir", "pythonpath", "env", "secrets", "secrets_revoked", "files",
    "writable_dirs", "processes", "workers", "threads", "request_timeout", "warm", "smoke", "static_url",
)  # fmt: skip

WHOLE_NUMBERS = ("workers", "threads", "request_timeout")


def show(value: object) -> str:
    """A value for an error text: one printable line, short."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def config(values: Mapping[str, object]) -> dict[str, Any]:
    """What `configure` is given: the release's configuration, secrets included."""
    found = {key: plain(values.get(f"app_{key}")) for key in CONFIG_KEYS}
    found |= {key: int(found[key]) for key in WHOLE_NUMBERS if found[key] not in (None, "")}
    found["secrets_revoked"] = found["secrets_revoked"] or None  # none at all and an empty list are the same release
    return {key: value for key, value in found.items() if value is not None and value != ""}


def plain(value: Any) -> Any:
    """A value in Python's own types: Ansible tags its texts, and tags are not JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def signs_in(checks: object) -> bool:
    """Whether the smoke checks reach a page behind a sign-in; without one, little is proven."""
    return isinstance(checks, list) and any(isinstance(check, Mapping) and check.get("session") for check in checks)


# what a person typed


def several(value: object) -> list[Any]:
    """The items of a list, or of one text with commas or blanks between them."""
    return list(value) if isinstance(value, (list, tuple)) else re.split(r"[,\s]+", str(value).strip(" []\n"))


def check_target(value: object) -> str | None:
    """The sha or release id of `-e to=`; None when left out. Raises Refused."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and (HEX_PART.fullmatch(value.lower()) or RELEASE_ID.fullmatch(value)):
        return str(value).lower()
    raise Refused(
        f"to={show(value)} names no release",
        "it must be 6 to 40 hex characters",
        "ansible-playbook status.yml shows what is kept",
    )


def check_snapshot(name: str, value: object) -> str:
    """The id of a snapshot; empty when left out. Raises Refused."""
    if value is None or value == "":
        return ""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{12}-[0-9a-f]{8}", value):
        return value
    why = "it is a time and a release: 20260101T000000-0123456789ab-01234567"
    raise Refused(
        f"{name}={show(value)} is no snapshot", why, "sudo bluegreen snapshots on the migration host names them"
    )


def check_seconds(name: str, value: object, default: float, ceiling: float = 3600) -> float:
    """A duration in seconds, given as number or text. Raises Refused."""
    if value is None or value == "":
        return default
    text = str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or float(text) > ceiling:
        raise Refused(
            f"{name}={show(value)} is not a duration",
            f"it must be 0 to {ceiling:g} seconds",
            f"for example -e {name}=30",
        )
    return float(text)


def check_without(value: object, hosts: Sequence[str], migration_host: object) -> list[str]:
    """The app servers to leave out (`-e without=web7,web8`), in order. Raises Refused."""
    if value is None or value == "" or value == []:
        return []
    names = value if isinstance(value, list) else re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else []
    unknown = [name for name in names if name not in hosts]
    if unknown or not names:
        raise Refused(
            f"without={show(value)} names no app server",
            f"the app servers are {', '.join(sorted(hosts))}",
            f"for example -e without={max(hosts)}",
        )
    if set(names) == set(hosts):
        raise Refused("without leaves no app server", "somebody has to serve", "leave one of them in")
    main = migration_host or min(hosts)
    if main in names:
        raise Refused(
            f"without={main} leaves out the migration host",
            "migrations and what runs once have their place there",
            "set migration_host to another app server, ansible-playbook provision.yml, then the same again",
        )
    return sorted({str(name) for name in names})


LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z0-9_]+")
APPROVAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z0-9_]+@sha256:[0-9a-f]{64}")


def check_approvals(value: object, by: object, reason: object) -> dict[str, Any]:
    """The migrations approved by name: {approve, by, reason}. A list, or one text with commas. Raises Refused."""
    if value in (None, "", []):
        return {"approve": [], "by": "", "reason": ""}
    parts = several(value)
    for part in parts:
        if not isinstance(part, str) or not APPROVAL.fullmatch(part):
            raise Refused(
                f"migrations_approve: {show(part)} is not an approval",
                "it is app.name@sha256: and 64 hex digits, as the deploy that was refused printed it",
                "copy it whole",
            )
    said = {"migrations_approved_by": by, "migrations_approve_reason": reason}
    for name, text in said.items():
        if not isinstance(text, str) or not text.strip() or not text.isprintable() or len(text) > 500:
            raise Refused(
                f"{name} is missing" if text in (None, "") else f"{name} {show(text)} is not a line of text",
                "an approval says who gives it, and why; both go into the ledger",
                f"-e {name}='…'",
            )
    return {"approve": [str(part) for part in parts], "by": str(by).strip(), "reason": str(reason).strip()}


def check_late(value: object, without: Sequence[str]) -> list[str]:
    """The migrations that run once the release is confirmed. A list, or one text with commas. Raises Refused.

    without: hosts that are left out; what they serve may need the schema as it is.
    """
    if value in (None, "", []):
        return []
    parts = several(value)
    for part in parts:
        if not isinstance(part, str) or not LABEL.fullmatch(part):
            why = "it is app.name, as the plan of migrations shows it"
            raise Refused(
                f"migrations_late: {show(part)} is not a migration", why, """-e '{"migrations_late": ["app.0007_x"]}'"""
            )
    if without:
        why = f"{', '.join(without)} may still serve a release that needs the schema as it is"
        raise Refused("migrations_late is not for a deploy that leaves hosts out", why, "leave without out, or wait")
    return list(dict.fromkeys(parts))


def check_window(value: object, late: object, without: Sequence[str]) -> bool:
    """Whether the application may be stopped while refused migrations run. Raises Refused."""
    name = "migrations_maintenance_window"
    if not check_flag(name, value):
        return False
    if late:
        raise Refused(f"{name} and migrations_late do not go together", "one of them is enough", f"leave {name} out")
    if without:
        why = f"{', '.join(without)} would go on serving a release that the schema leaves behind"
        raise Refused(f"{name} is not for a deploy that leaves hosts out", why, "leave without out, or wait")
    return True


def check_lease(value: object) -> str | None:
    """The lease to break (`-e lease=`); None to show it. Raises Refused."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        return str(value)
    raise Refused(
        f"lease={show(value)} is not the id of a lease",
        "it is what unlock.yml shows without it",
        "ansible-playbook unlock.yml",
    )


def check_flag(name: str, value: object) -> bool:
    """A yes or no, given as boolean or text. Raises Refused."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False, "none": False}
    found = words.get(str(value).lower()) if value is not None else False
    if found is None:
        raise Refused(f"{name}={show(value)} is neither true nor false", "", f"-e {name}=true")
    return found


def check_canary(value: object) -> list[int]:
    """The shares of a canary in percent: one, several with commas, or a list; none for 0. Raises Refused."""
    if value in (None, "", 0, "0", [], False):
        return []
    parts = several(value)
    steps = [float(str(part)) for part in parts if NUMBER.fullmatch(str(part))]
    example = "for example -e canary=5 or -e canary=5,25"
    if len(steps) != len(parts):
        raise Refused(f"canary={show(value)} is not a share", "it is 5 to 95 percent, in steps of 5", example)
    for step in steps:
        if step != nearest_share(step):
            why = "a share is 5 to 95 percent, in steps of 5"
            raise Refused(f"canary={step:g} is not possible", why, f"the nearest is {nearest_share(step)}")
    if steps != sorted(set(steps)):
        raise Refused(f"canary={show(value)} does not rise", "each step routes more visitors than the last", example)
    return [int(step) for step in steps]


NUMBER = re.compile(r"-?[0-9]{1,6}(\.[0-9]{1,6})?")


def nearest_share(percent: float) -> int:
    """The possible share of a canary that is nearest."""
    return int(min(95, max(5, 5 * round(percent / 5))))


def check_canary_watch(value: float, shortest: float) -> float:
    """The seconds of a canary's step. Raises Refused if they are fewer than those of one round."""
    if value < shortest:
        raise Refused(
            f"watch={value:g} is too short for a canary",
            f"what visitors get is read every {shortest:g} s",
            "for example -e watch=120",
        )
    return value


def check_watch(value: float, shortest: float) -> float:
    """The seconds of the watch after a switch; 0: none. Raises Refused if nothing could be seen in them."""
    if 0 < value < shortest:
        raise Refused(
            f"watch={value:g} is too short",
            f"what visitors get is looked at every {shortest:g} s at most",
            "-e watch=0 for none, or longer: for example -e watch=30",
        )
    return value


def check_choice(name: str, value: object, choices: Sequence[str], default: str) -> str:
    """One of several words. Raises Refused."""
    if value is None or value == "":
        return default
    if value in choices:
        return str(value)
    raise Refused(f"{name}={show(value)} is not known", f"it is {' or '.join(choices)}", f"-e {name}={choices[0]}")


def check_path(name: str, value: object) -> str | None:
    """A file to write to; None when left out. Raises Refused."""
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not value.isprintable() or "{{" in value or "{%" in value:
        raise Refused(f"{name}={show(value)} is not a file name", "", f"for example -e {name}=/tmp/{name}.json")
    return str(value)


def typed(name: str, extra_vars: Sequence[str]) -> str | None:
    """The text after `-e NAME=` as it stood on the command line, blanks included; None if it was not given so.

    Ansible splits `-e 'command=check --deploy'` at blanks; a person means all of it.
    """
    for given in reversed(extra_vars):
        if given.startswith(f"{name}="):
            text = given.removeprefix(f"{name}=").strip()
            if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
                text = text[1:-1]
            return text
    return None


def check_stray(stray: object, verb: str) -> None:
    """Refuse words in `-e` that belong to no setting: half of a value that had a blank in it. Raises Refused."""
    if stray:
        raise Refused(
            f"-e holds {show(stray)}, which belongs to no name",
            "a value with a blank in it must be quoted",
            f"ansible-playbook {verb}.yml -e sha=abc123",
        )


def check_limit(limit: object, verb: str) -> None:
    """Refuse `--limit`: a fleet ends on one release or not at all. Raises Refused."""
    if limit:
        raise limit_refusal(verb)


def check_hosts(hosts: Sequence[str], migration_host: object) -> str:
    """The migration host, which must be an app server. Raises Refused."""
    if not hosts:
        raise Refused(
            "the inventory has no app servers",
            "the group app_servers is missing or empty",
            "name your hosts in inventories/<environment>/hosts.yml",
        )
    if migration_host is None or migration_host == "":
        return min(hosts)
    if migration_host not in hosts:
        raise Refused(
            f"migration_host {show(migration_host)} is not an app server",
            f"the app servers are {', '.join(sorted(hosts))}",
            f"change it in {APP_FILE}",
        )
    return str(migration_host)


# who asks


def deploy_id(now: datetime.datetime, token: str) -> str:
    """The name of this run: a time in UTC and six random hex characters."""
    return f"{now.astimezone(datetime.UTC):%Y%m%dT%H%M%S}-{token}"


def holder(user: str, machine: str) -> str:
    """Who runs this."""
    return f"{user}@{machine}"


def run_url(environment: Mapping[str, str]) -> str:
    """Where to look at this run if a CI service started it (GitHub, GitLab); else empty."""
    parts = [environment.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if all(parts):
        return f"{parts[0]}/{parts[1]}/actions/runs/{parts[2]}"
    return environment.get("CI_JOB_URL", "")


# refusals in the form of an error


def check_app(value: object) -> str:
    """The application's name, as far as a command line can carry it. Raises Refused."""
    if not isinstance(value, str) or not APP_NAME.fullmatch(value):
        what = "app_name is not set" if value in (None, "") else f"app_name {show(value)} is not a name"
        raise Refused(what, "files, units and directories are named after it", f"set it in {APP_FILE}")
    return str(value)


def settings_refusal(problems: Sequence[str]) -> Refused:
    """Settings that cannot work; each line ends with what to do."""
    what, _, todo = problems[0].rpartition(": ")
    more = f"and {len(problems) - 1} more: {problems[1]}" if len(problems) > 1 else "a deploy needs it"
    return Refused(what or problems[0], more, todo)


def artifact_refusal(line: str) -> Refused:
    """An artifact that cannot be chosen: `what: why; next`."""
    what, _, rest = line.partition(": ")
    why, _, todo = rest.rpartition("; ")
    if not why:
        why, todo = ("", todo) if what != line else ("", "")
    return Refused(what, why or rest, todo if why else "ansible-playbook deploy.yml -e sha=<6 to 40 hex characters>")


def limit_refusal(verb: str) -> Refused:
    """Why --limit is not for deploys."""
    todo = f"ansible-playbook {verb}.yml without --limit" if verb.isalpha() else "the same without --limit"
    return Refused(f"--limit is refused for {verb}", "the hosts left out would go on with another release", todo)


def in_one_line(refusal: Refused) -> str:
    """A refusal for callbacks that print one text."""
    return " · ".join(part for part in (refusal.what, refusal.why, refusal.todo) if part)


def first_line(problem: object) -> str:
    """The first line of an error's text."""
    return (str(problem).strip().splitlines() or ["unknown error"])[0].rstrip(".")
