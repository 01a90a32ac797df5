"""What a run is asked for, checked on the controller before any host is contacted.

It finds the artifact, verifies its image once, and gives the run its name. A refusal fails the task: nothing has been
touched yet, and a failed play on localhost ends the run.
"""

from __future__ import annotations

import datetime
import getpass
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible import constants as C  # noqa: N812  as Ansible itself names it
from ansible import context
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from bluegreen import signature  # noqa: E402
from bluegreen.errors import BluegreenError  # noqa: E402
from plugins.filter.bluegreen_monitoring import prometheus_url  # noqa: E402
from plugins.filter.bluegreen_settings import ROLLOUT as ROLLOUT_FILE  # noqa: E402
from plugins.filter.bluegreen_settings import settings_problems  # noqa: E402
from plugins.module_utils import bluegreen_artifacts as artifacts  # noqa: E402
from plugins.module_utils import bluegreen_fleet as fleets  # noqa: E402
from plugins.module_utils import bluegreen_inputs as asked  # noqa: E402
from plugins.module_utils import bluegreen_kpi as figures  # noqa: E402
from plugins.module_utils import bluegreen_prometheus as prometheus  # noqa: E402
from plugins.module_utils import bluegreen_store as stores  # noqa: E402
from plugins.module_utils.bluegreen_inputs import Refused  # noqa: E402

# what a person may give with -e, read as it was typed and never templated
TYPED = (
    "sha",
    "artifact",
    "to",
    "watch",
    "canary",
    "inconclusive",
    "report",
    "after_reverts",
    "retry_bad",
    "command",
    "format",
    "out",
    "html",
    "plan_out",
    "schema",
    "snapshot",
    "accept_data_loss",
    "wait",
    "without",
    "lease",
    "migrations_approve",
    "migrations_approved_by",
    "migrations_approve_reason",
    "migrations_late",
    "migrations_maintenance_window",
)
MAX_WAIT = 86400  # seconds


class ActionModule(ActionBase):
    """`bluegreen_inputs: {verb}`; see plugins/modules/bluegreen_inputs.py."""

    _VALID_ARGS = frozenset(("verb",))
    _requires_connection = False
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            return {**result, **self._inputs(str(self._task.args["verb"]), task_vars)}
        except Refused as refusal:
            return {**result, "failed": True, "error": refusal.as_error(), "msg": asked.in_one_line(refusal)}

    def _inputs(self, verb: str, task_vars: dict[str, Any]) -> dict[str, Any]:
        given = {name: task_vars.get(name) for name in TYPED}
        if verb in ("deploy", "rollback", "restore"):
            asked.check_limit(task_vars.get("ansible_limit"), verb)
        if verb != "manage":
            asked.check_stray(task_vars.get("_raw_params"), verb)
        hosts = sorted(str(host) for host in task_vars["groups"].get("app_servers") or [])
        asked.check_hosts(hosts, None)
        hostvars = task_vars["hostvars"]
        checked = hosts if verb == "deploy" else hosts[:1]
        values = {host: read_settings(hostvars[host], full=verb == "deploy") for host in checked}
        main = asked.check_hosts(hosts, values[hosts[0]].get("migration_host"))
        without = asked.check_without(given["without"], hosts, main) if verb in ("deploy", "rollback") else []
        for host in checked:
            problems = settings_problems(values[host], task_vars["groups"]) if verb == "deploy" else []
            if problems:
                raise asked.settings_refusal(problems)
        first = values[hosts[0]]
        if not first.get("judge_prometheus_url"):  # worked out here: a setting of all hosts sees no other host
            first["judge_prometheus_url"] = prometheus_url(task_vars["groups"].get("monitoring") or [], hostvars)
        found = {
            "verb": verb,
            "app": asked.check_app(first.get("app_name")),
            "hosts": [host for host in hosts if host not in without],
            "without": without,
            "migration_host": main,
            "deploy_id": asked.deploy_id(datetime.datetime.now(datetime.UTC), secrets.token_hex(3)),
            "holder": asked.holder(getpass.getuser(), os.uname().nodename),
            "run_url": asked.run_url(os.environ),
            "process": os.getppid(),  # this task has a process of its own
            "wait": asked.check_seconds("wait", given["wait"], 0.0, MAX_WAIT),
            "check": bool(self._task.check_mode),
            "plan_out": asked.check_path("plan_out", given["plan_out"]),
        }
        more: dict[str, Any] = getattr(self, f"_{verb}")({**given, "without": without}, first, found["app"])
        return found | more

    def _deploy(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        rounds = watching(given, settings)
        artifact = find_artifact(given, settings, app)
        manifest = artifact.pop("found")
        if note := artifact.pop("note"):
            self._display.display(f"  note  {note}", color=C.COLOR_WARN)
        judge = judging(given, settings)
        check_queries(judge, str(settings.get("judge_prometheus_token") or ""), app, manifest["sha"])
        return {
            "sha": manifest["sha"],
            "what": f"deploy {manifest['sha'][:12]}",
            **rounds,
            "judge": judge,
            "after_reverts": asked.check_flag("after_reverts", given["after_reverts"]),
            "max_reverts": int(settings.get("rollout_max_reverts") or 0),
            "report": asked.check_path("report", given["report"]),
            "report_dir": str(settings.get("rollout_report_dir") or ""),
            "retry_bad": asked.check_flag("retry_bad", given["retry_bad"]),
            "min_free_mb": int(settings.get("rollout_min_free_mb") or 0),
            "proven": asked.signs_in(settings.get("app_smoke")),
            "artifact": artifact,
            "migrations": migrating(given, settings),
        }

    def _rollback(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        if asked.check_canary(given["canary"]):
            raise Refused(
                f"canary={asked.show(given['canary'])} is not for a rollback",
                "it goes back to a release that visitors know",
                "leave canary out",
            )
        schema = asked.check_choice("schema", given["schema"], ("reverse",), "")
        to = asked.check_target(given["to"])
        what = f"rollback to {to}" if to else "rollback"
        return {
            "to": to,
            "schema": schema,
            "migrations": options(settings),
            "what": what,
            "watch": asked.check_watch(asked.check_seconds("watch", given["watch"], 0.0), fleets.SHORTEST),
            "report": asked.check_path("report", given["report"]),
            "report_dir": str(settings.get("rollout_report_dir") or ""),
        }

    def _restore(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        snapshot = asked.check_snapshot("snapshot", given["snapshot"])
        if not snapshot:
            shown = "sudo bluegreen snapshots on the migration host names them"
            raise Refused("snapshot is missing", "name the one that is put back", shown)
        return {
            "snapshot": snapshot,
            "accept": asked.check_snapshot("accept_data_loss", given["accept_data_loss"]),
            "migrations": options(settings),
            "what": f"restore {snapshot}",
        }

    def _status(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        if given["html"]:
            raise Refused(
                "html=… is not available yet",
                "this version writes a table or JSON",
                "-e format=json -e out=status.json",
            )
        form = given["format"] or "text"
        if form not in ("text", "json"):
            raise Refused(f"format={asked.show(form)} is not known", "it is text or json", "-e format=json")
        return {"format": str(form), "out": asked.check_path("out", given["out"]), "what": "status"}

    def _unlock(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        return {"lease": asked.check_lease(given["lease"]), "what": "unlock"}

    def _manage(self, given: dict[str, Any], settings: dict[str, Any], app: str) -> dict[str, Any]:
        command = asked.typed("command", context.CLIARGS.get("extra_vars") or ()) or given["command"]
        if not command or not isinstance(command, str) or not command.isprintable():
            why = "it is one line: a management command and its arguments"
            raise Refused(
                "command is missing" if not command else f"command {asked.show(command)} cannot be run",
                why,
                "ansible-playbook manage.yml -e command=showmigrations",
            )
        return {"command": str(command), "what": f"manage {str(command).split()[0]}"}


def watching(given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The steps of the canary and the seconds of each, and of the watch after the switch. Raises Refused.

    With a canary `-e watch=` is how long each of its steps is judged; without one, the watch.
    """
    chosen = given["canary"] if given["canary"] not in (None, "") else settings.get("rollout_canary_steps")
    steps = asked.check_canary(chosen)
    usual, usual_step = float(settings.get("rollout_watch") or 0), float(settings.get("rollout_canary_watch") or 60)
    seconds = asked.check_seconds("watch", given["watch"], usual_step if steps else usual)
    if not steps:
        return {"canary": [], "canary_watch": 0.0, "watch": asked.check_watch(seconds, fleets.SHORTEST)}
    return {"canary": steps, "canary_watch": asked.check_canary_watch(seconds, fleets.ROUND), "watch": usual}


def migrating(given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What the verb migrate is given: approvals, what runs late, and the settings migrations_*. Raises Refused."""
    window = asked.check_window(
        given["migrations_maintenance_window"], given["migrations_late"], given["without"] or ()
    )
    late = asked.check_late(given["migrations_late"], given["without"] or ())
    said = asked.check_approvals(
        given["migrations_approve"], given["migrations_approved_by"], given["migrations_approve_reason"]
    )
    return {**said, **({"late": late} if late else {}), **({"window": True} if window else {}), **options(settings)}


def options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How migrations run and are undone: the settings migrations_* of the host's verbs."""
    return {
        "databases": settings.get("migrations_databases") or {"default": {}},
        "lock_timeout": float(settings.get("migrations_lock_timeout") or 2),
        "statement_timeout": float(settings.get("migrations_statement_timeout") or 900),
        "patience": float(settings.get("migrations_patience") or 120),
        "snapshots": int(settings.get("migrations_snapshots_keep") or 5),
        "recipient": str(settings.get("migrations_snapshot_recipient") or ""),
    }


def judging(given: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The settings judge_* without their prefix; what is not set has its default where it is used. Raises Refused."""
    usual = str(settings.get("judge_inconclusive") or "revert")
    numbers = ("max_error_share", "max_p95", "error_budget", "latency_factor", "min_requests")
    found: dict[str, Any] = {
        name: float(settings[f"judge_{name}"]) for name in numbers if settings.get(f"judge_{name}") not in (None, "")
    }
    if "min_requests" in found:
        found["min_requests"] = int(found["min_requests"])
    inconclusive = asked.check_choice("inconclusive", given["inconclusive"], ("go_on", "revert"), usual)
    found |= {"groups": settings.get("judge_groups") or [], "inconclusive": inconclusive}
    if settings.get("judge_kpis"):
        found |= {"kpis": settings["judge_kpis"], "prometheus": str(settings["judge_prometheus_url"])}
    return found


def check_queries(judge: Mapping[str, Any], token: str, app: str, sha: str) -> None:
    """Ask each KPI once: a query that does not parse, or gives several series, is a mistake. Raises Refused.

    A source that does not answer is none: it may be back when the release is judged.
    """
    values = {"app": app, "sha": sha, "release": f"{sha[:12]}-00000000", "window": "60s"}
    values |= {"colour_new": "green", "colour_live": "blue"}
    kpis = judge.get("kpis") or []
    queries = [figures.fill(kpi["query"], values)[0] for kpi in kpis]
    for kpi, said in zip(kpis, prometheus.ask_all(judge["prometheus"], token, queries) if kpis else [], strict=True):
        if said.mistake:
            raise asked.settings_refusal([f"judge_kpis: {kpi['name']}: {said.why}: correct it in {ROLLOUT_FILE}"])


def read_settings(variables: Any, full: bool) -> dict[str, Any]:
    """The settings of one app server, worked out. Raises Refused naming the one that cannot be.

    A rollback needs a few of them only: its release brings its own configuration.
    """
    from plugins.filter.bluegreen_settings import SETTINGS

    few = ("app_name", "migration_host", "rollout_report_dir")
    names = [name for name in SETTINGS if full or name in few or name.startswith("migrations_")]
    found = {}
    for name in names:
        if name not in variables:
            continue
        try:
            found[name] = asked.plain(variables[name])
        except AnsibleError as problem:
            raise asked.settings_refusal(
                [f"{name} cannot be computed: {asked.first_line(problem)}: correct it in {SETTINGS[name][1]}"]
            ) from None
    return found


def find_artifact(given: Mapping[str, Any], settings: Mapping[str, Any], app: str) -> dict[str, Any]:
    """The artifact that is meant, its origin and its bytes verified before any host is contacted. Raises Refused.

    `found` is its manifest and `note` what a person should know; the rest is what the phases need.
    """
    seconds, most = float(settings.get("artifact_timeout") or 600), int(settings.get("artifact_max_mb") or 2048)
    store = stores.open_store(
        str(settings.get("artifact_store") or ""), str(settings.get("artifact_token") or ""), seconds
    )
    try:
        stem, manifest = stores.choose(store, app, given["sha"], given["artifact"] or None)
        armoured = store.signature(stem)
        signer, note = check_origin(settings, manifest, armoured)
        if manifest["image"]["bytes"] > most << 20:
            size = manifest["image"]["bytes"] >> 20
            raise Refused(f"the image of {stem} is too large", f"{size} MB, and {most} may be", "see artifact_max_mb")
        by_host = isinstance(store, stores.Web) and settings.get("artifact_fetch") == "host"
        source = store.source(manifest) if isinstance(store, stores.Web) and by_host else None
        image = "" if by_host else str(store.image(manifest))
        paths = {name: str(path) for name, path in store.files(manifest, armoured).items()}
    except artifacts.ArtifactError as problem:
        raise asked.artifact_refusal(str(problem)) from None
    return {
        "found": manifest,
        "note": note,
        "stem": stem,
        "image": image,
        "signature": "",
        **paths,
        "source": source,
        "signer": signer,
        "bytes": manifest["image"]["bytes"],
        "python": manifest.get("python"),
        "arch": manifest.get("arch"),
    }


def check_origin(
    settings: Mapping[str, Any], manifest: dict[str, Any], armoured: str
) -> tuple[dict[str, str] | None, str]:
    """Who signed a manifest, and a note where nobody knows. Raises Refused where it must be known."""
    signers = str(settings.get("artifact_signers") or "")
    short = f"{manifest['app']} {manifest['sha'][:12]}"
    if not armoured:
        required = asked.check_flag("artifact_require_signature", settings.get("artifact_require_signature"))
        if required or signers:
            why = "artifact_require_signature is true here" if required else "artifact_signers names who signs here"
            raise Refused(f"the artifact of {short} is not signed", why, "scripts/build-artifact --sign KEY")
        return None, f"the artifact of {short} is not signed: whoever can write to the store can have made it"
    if not signers:
        return None, f"the signature of {short} is not verified: artifact_signers is not set"
    try:
        allowed = read_file("artifact_signers", signers).decode("utf-8", "replace")
        revoked = str(settings.get("artifact_revoked") or "")
        listed = read_file("artifact_revoked", revoked) if revoked else b""
        return signature.verify(signature.text(manifest), armoured, allowed, listed), ""
    except BluegreenError as problem:
        raise Refused(f"{short}: {problem.what}", problem.why, problem.todo) from None


def read_file(name: str, path: str) -> bytes:
    """The content of the file that a setting names. Raises Refused."""
    place = Path(path).expanduser()
    try:
        return (place if place.is_absolute() else Path(ROOT) / place).read_bytes()
    except OSError as problem:
        todo = f"correct it in {ROLLOUT_FILE} or the inventory"
        raise Refused(f"{name} {asked.show(path)} cannot be read", str(problem.strerror), todo) from None
