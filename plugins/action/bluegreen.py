"""One phase on one host: a batch of steps for the host tool, in one command over the connection Ansible holds.

A thin shell: module_utils/bluegreen_fleet.py completes the steps, bluegreen_call.py reads the answer. The verdict is
data; the task itself never fails because a step did. No module is copied, no Python of the host is looked for.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)  # Ansible imports plugins by file: their shared code is found from the repository's root

from plugins.module_utils import bluegreen_call as calls  # noqa: E402
from plugins.module_utils import bluegreen_fleet as fleets  # noqa: E402
from plugins.module_utils import bluegreen_inputs as inputs_of  # noqa: E402
from plugins.module_utils.bluegreen_fleet import Fleet  # noqa: E402
from plugins.module_utils.bluegreen_hostvars import read_fleet  # noqa: E402

CHANGING = (
    "stage",
    "maintenance",
    "maintenance_end",
    "migrate",
    "undo_first",
    "undo",
    "restore",
    "start",
    "canary",
    "switch",
    "confirm",
    "revert",
    "migrate_late_ready",
    "migrate_late",
    "settle",
)
PAUSE = 1.0  # seconds between two attempts to take a lease
REMIND = 15.0  # seconds between two lines that say who is waited for


class ActionModule(ActionBase):
    """`bluegreen: {phase, app, steps, always}`; see plugins/modules/bluegreen.py."""

    _VALID_ARGS = frozenset(("phase", "app", "steps", "always"))
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = inputs_of.plain(self._task.args)
        host = self._task_host = str(task_vars["inventory_hostname"])
        fleet = read_fleet(task_vars["hostvars"], task_vars.get("ansible_play_hosts_all") or [host])
        if args["phase"] in fleets.PHASES and not fleet.inputs.get("deploy_id"):
            return {**result, **refuse_limit()}
        began = time.time()
        answer = self._phase(args, fleet, host, task_vars)
        result |= {"began": began, "ended": time.time()}
        if args["phase"] in ("plan_undo", "restore"):  # what is lost is named
            said = answer["results"].get("undo") or answer["results"].get("restore") or {}
            for line in said.get("lines") or []:
                self._display.display(f"  {line}")
        secret = calls.session_of(answer["results"]) if args["phase"] == "smoke" else None
        result |= answer | {"phase": args["phase"], "host": host, "results": calls.without_secrets(answer["results"])}
        if args["phase"] in fleets.WATCHED:
            result |= fleets.carry(fleet, args["phase"], host, answer)
            result["results"].pop("measure", None)  # it is in the sums now
            # the answer of the round before gives way to this one
            result["first_began"] = next(
                (one["first_began"] for one in fleet.of(args["phase"], host) if "first_began" in one), began
            )
        result["changed"] = not fleet.check and args["phase"] in CHANGING and bool(answer["results"])
        if secret:
            # the other hosts use it; nothing may print it
            result |= {"session": secret, "_ansible_no_log": True}
        return result

    def _phase(self, args: Mapping[str, Any], fleet: Fleet, host: str, task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """Do the steps; what must happen even then follows when one of them failed."""
        given: dict[str, Any] = {"session": shared_session(fleet)}
        verbs = {step["verb"] for step in args["steps"]}
        if "stage" in verbs:
            given["artifact"] = read_artifact(fleet.inputs)
        if "configure" in verbs:
            given["config"] = self._config(task_vars)
        app, always = args["app"], args.get("always") or []
        try:
            answer = self._call(app, fleet, host, [*args["steps"], *always], given)
            if args["phase"] == "preflight":
                answer = self._wait_for_lease(answer, lambda: self._call(app, fleet, host, args["steps"], given), fleet)
                if calls.resumed(answer["results"]):
                    # what the host told of itself before is no longer true
                    again = self._call(app, fleet, host, args["steps"][:1], given)
                    answer = again | {"results": answer["results"] | again["results"]}
            if answer.get("stopped") == "stage" and not fleet.check:
                how = self._deliver(fleet, app, given["artifact"], task_vars)
                answer = self._call(app, fleet, host, args["steps"], given) | how
            if answer["verdict"] == "fail" and always:
                self._call(app, fleet, host, always, given)
            return answer
        except AnsibleConnectionFailure as failure:
            user = str(self._play_context.remote_user or task_vars.get("ansible_user") or "the deploy user")
            error = calls.unreachable(host, user, str(failure))
            return {"verdict": "fail", "results": {}, "error": error, "unreachable": True, "msg": error["what"]}

    def _wait_for_lease(
        self, answer: dict[str, Any], ask: Callable[[], dict[str, Any]], fleet: Fleet
    ) -> dict[str, Any]:
        """With `-e wait=`: ask again while another run holds the lease, and say who is waited for."""
        until, said = time.monotonic() + float(fleet.inputs.get("wait") or 0), -REMIND
        while calls.lease_held(answer) and time.monotonic() < until:
            if time.monotonic() - said >= REMIND and fleet.hosts[0] == self._task_host:
                said = time.monotonic()
                self._display.display(f"  waiting: {answer['error']['what']}")
            time.sleep(PAUSE)
            answer = ask()
        return answer

    def _call(self, app: str, fleet: Fleet, host: str, steps: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        prepared = fleets.prepare(steps, fleet, host, given)
        if not prepared:
            return {"verdict": "pass", "results": {}, "error": None}
        dry_run = fleet.check or bool(self._task.check_mode)
        text = calls.message(prepared, fleet.inputs, fleets.fence(fleet), dry_run)
        # ssh prints what comes back at -vvv unless the play is silent: a session may be in it
        self._play_context.no_log = True
        self._connection._play_context.no_log = True
        started = time.time()
        done = self._low_level_execute_command(calls.command(app), in_data=text.encode(), sudoable=False)
        middle = (started + time.time()) / 2
        answer = calls.understand(host, app, done["rc"], done["stdout"], done["stderr"])
        clock = ((answer["results"].get("lease") or {}).get("machine") or {}).get("time")
        if clock:
            answer["clock_skew"] = round(clock - middle, 1)
        return answer

    def _deliver(
        self, fleet: Fleet, app: str, artifact: dict[str, Any], task_vars: Mapping[str, Any]
    ) -> dict[str, int]:
        """Complete the step with where the host finds the image: in its inbox, or in the store. Returns its size."""
        source = fleet.inputs["artifact"].get("source")
        if not source:
            artifact["image"], sent = self._upload(fleet, app)
            return {"sent": sent}
        # read here and not in the role, so that the token is never a task's argument
        token = self._templar.template(task_vars["artifact_token"]) if task_vars.get("artifact_token") else ""
        artifact["source"] = {**source, "token": str(token)}
        return {"fetched": int(fleet.inputs["artifact"]["bytes"])}

    def _upload(self, fleet: Fleet, app: str) -> tuple[str, int]:
        """Send the image to the inbox. Returns its name there and its size in bytes."""
        artifact = fleet.inputs["artifact"]
        name = f"{artifact['stem']}.squashfs.{fleet.inputs['deploy_id']}"
        try:
            self._connection.put_file(artifact["image"], f"/srv/{app}/inbox/{name}")
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as failure:
            raise AnsibleConnectionFailure(f"the image could not be sent: {failure}") from failure
        return name, int(artifact["bytes"])

    def _config(self, task_vars: Mapping[str, Any]) -> dict[str, Any]:
        """The release's configuration. Read here and not in the role, so that secrets are never a task's argument."""
        names = [f"app_{key}" for key in inputs_of.CONFIG_KEYS]
        return inputs_of.config({name: self._templar.template(task_vars[name]) for name in names if name in task_vars})


def read_artifact(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What a host needs to know of the artifact: {manifest, signature, sha}. The host verifies it for itself."""
    artifact = inputs["artifact"]
    found = {"manifest": json.loads(Path(artifact["manifest"]).read_text(encoding="utf-8")), "sha": inputs["sha"]}
    if artifact.get("signature"):
        found["signature"] = Path(artifact["signature"]).read_text(encoding="utf-8")
    return found


def shared_session(fleet: Fleet) -> dict[str, str] | None:
    """The session of this deploy's one sign-in, if there was one."""
    for result in fleet.of("smoke", fleet.migration_host):
        if result.get("session"):
            return dict(inputs_of.plain(result["session"]))
    return None


def refuse_limit() -> dict[str, Any]:
    """The inputs were not checked: the play on localhost was left out by --limit."""
    refusal = inputs_of.limit_refusal("deploy.yml and rollback.yml")
    return {
        "failed": True,
        "verdict": "fail",
        "results": {},
        "error": refusal.as_error(),
        "msg": inputs_of.in_one_line(refusal),
    }
