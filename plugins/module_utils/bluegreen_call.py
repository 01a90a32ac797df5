"""One call of the host tool: what is sent, and what its answer means. Pure functions; no connection."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

PROVISION = "ansible-playbook provision.yml"
PROGRAM = "/usr/local/bin/bluegreen"
LEASE_HELD, BUSY = 5, 75  # the host tool's exit statuses
SECRET_KEYS = ("session",)
# how a shell, env and sudo say that there is no such program, or that this user may not run it
NOT_THERE = re.compile(r"bluegreen: (command not found|not found|No such file or directory)", re.IGNORECASE)
OTHER_VERSION = re.compile(r" has no parameter | is not a verb$")
NOT_ALLOWED = re.compile(
    r"a password is required|not allowed to (execute|run)|not in the sudoers|may not run sudo|unknown user",
    re.IGNORECASE,
)


def command(app: str) -> str:
    """The one command that the deploy user may run as root. Everything else goes to its stdin."""
    return f"sudo -n {PROGRAM} batch --app {app}"


def message(steps: Sequence[Mapping[str, Any]], inputs: Mapping[str, Any], fence: int | None, dry_run: bool) -> str:
    """What is written to the tool's stdin."""
    call = {
        "deploy_id": inputs.get("deploy_id") or "",
        "holder": inputs.get("holder"),
        "fence": fence,
        "dry_run": dry_run,
        "steps": list(steps),
    }
    return json.dumps(call, default=str)


def understand(host: str, app: str, status: int, out: str, err: str) -> dict[str, Any]:
    """The verdict on a call: {verdict, results, error, seconds, stopped}.

    `status`, `out`, `err`: what the command left. Without an answer of the tool, the error says why there is none.
    """
    answer = parse(out)
    if answer is None:
        return {"verdict": "fail", "results": {}, "error": silence(host, app, status, err)}
    good = bool(answer.get("ok"))
    error = answer.get("error") if not good else None
    if error and OTHER_VERSION.search(str(error.get("what") or "")):
        error = {**error, "why": "the host has another version of bluegreen than the controller", "next": PROVISION}
    return {
        "verdict": "pass" if good else "fail",
        "results": answer.get("results") or {},
        "error": (error or {"what": "the host tool gave no reason", "code": status}) if not good else None,
        "seconds": answer.get("seconds"),
        "stopped": answer.get("stopped"),
    }


def parse(out: str) -> dict[str, Any] | None:
    """The JSON object on the last line that holds one; a login banner may stand before it."""
    for line in [out, *reversed(out.splitlines())]:
        text = line.strip()
        if text.startswith("{"):
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if isinstance(value, dict) and ("ok" in value or "results" in value):
                return value
    return None


def silence(host: str, app: str, status: int, err: str) -> dict[str, Any]:
    """Why the tool said nothing."""
    last = next((line.strip() for line in reversed(err.splitlines()) if line.strip()), f"exit status {status}")
    if NOT_ALLOWED.search(err):
        what = "never provisioned for this user"
        return {"what": what, "why": f"sudo says: {last}", "next": PROVISION, "code": "not provisioned"}
    if status in (126, 127) or NOT_THERE.search(err):
        return {
            "what": "never provisioned",
            "why": f"{PROGRAM} is not there",
            "next": PROVISION,
            "code": "not provisioned",
        }
    return {
        "what": "the host tool gave no answer",
        "why": f"exit status {status}: {last}",
        "next": f"on {host}: sudo bluegreen status --app {app}",
        "code": "no answer",
    }


def unreachable(host: str, user: str, text: str) -> dict[str, Any]:
    """Why a host could not be reached."""
    line = " ".join(text.split())
    # ssh's own words are the last ones; Ansible puts its own in front
    line = line.rsplit("via ssh: ", 1)[-1]
    if "Permission denied" in text:
        why = f"it was never provisioned, or the key of {user} is not in deploy_authorized_keys"
        return {"what": "the login is refused", "why": why, "next": PROVISION, "code": "unreachable"}
    if "Host key verification failed" in text or "IDENTIFICATION HAS CHANGED" in text:
        why = "another machine answers at its address, or it was installed again"
        return {
            "what": "the host key is not the known one",
            "why": why,
            "next": f"compare the key with the host's console, then ssh {host}",
            "code": "unreachable",
        }
    return {
        "what": "unreachable",
        "why": line[-200:],
        "next": f"look at the host and the network: ansible {host} -m ansible.builtin.ping",
        "code": "unreachable",
    }


def without_secrets(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results as they may be printed."""
    return {
        name: {key: value for key, value in answer.items() if key not in SECRET_KEYS}
        if isinstance(answer, Mapping)
        else answer
        for name, answer in results.items()
    }


def lease_held(answer: Mapping[str, Any]) -> bool:
    """Whether a call was refused because another run holds the lease, or what it began is still at work on the host."""
    return (answer.get("error") or {}).get("code") in (LEASE_HELD, BUSY)


def resumed(results: Mapping[str, Any]) -> bool:
    """Whether a host has just finished or undone what an earlier run left behind."""
    found = results.get("resume") or {}
    return bool(found.get("finished") or found.get("undone"))


def session_of(results: Mapping[str, Any]) -> dict[str, str] | None:
    """The signed-in session that a smoke step made: secret."""
    for answer in results.values():
        if isinstance(answer, Mapping) and answer.get("session"):
            return {str(name): str(value) for name, value in answer["session"].items()}
    return None
