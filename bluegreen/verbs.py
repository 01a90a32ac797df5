"""The verbs: what each is given, whether it changes the host, and which function does it.

The command line and the batch are both made from this table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any

from bluegreen import config as configuration
from bluegreen import (
    images,
    inflight,
    jobs,
    lease,
    maintenance,
    privileges,
    processes,
    prune,
    reconcile,
    release,
    rollback,
    secrets,
    smoke,
    start,
    status,
    switch,
)
from bluegreen.config import COLOURS, other
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed, refused
from bluegreen.state import ABORT, COMMIT, Record, now

Params = dict[str, Any]
Answer = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Param:
    """A parameter of a verb; `data` ones are objects and come on stdin only."""

    kind: type
    default: Any = None
    help: str = ""
    data: bool = False
    required: bool = False
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb.

    `changes`: takes the lock and checks lease and generation. `wait`: seconds to wait for the lock. `long`: renews the
    lease while it works.
    """

    run: Callable[[Context, Params], Answer]
    help: str
    params: dict[str, Param] = dataclasses.field(default_factory=dict)
    changes: bool = True
    wait: float = 10.0
    long: bool = False


DATABASES = {  # how migrations run
    "databases": Param(dict, {}, "alias → {host, port}, or {}", data=True),
    "lock_timeout": Param(float, 2.0, "seconds"),
    "statement_timeout": Param(float, 900.0, "seconds"),
    "patience": Param(float, 120.0, "seconds to wait for long transactions"),
    "snapshots": Param(int, 5, "kept"),
    "recipient": Param(str, "", "of age, for whom snapshots are encrypted"),
}
RELEASE = Param(str, help="release id, as status shows it", required=True)


def _named_or_live(context: Context, params: Params) -> str:
    if params.get("release"):
        return str(params["release"])
    live = context.state.live()
    if live is None:
        raise refused("no release is live on this host", "", "run ansible-playbook deploy.yml -e sha=…")
    return live.release


# releases


def stage(context: Context, params: Params) -> Answer:
    """Make an artifact usable on this host."""
    try:
        return stage_origin(context, params)
    finally:
        if params["image"] is not None and not context.dry_run:
            images.forget_upload(context.paths, params["image"])


def stage_origin(context: Context, params: Params) -> Answer:
    """The same: whose it is first, then its bytes."""
    manifest = params["manifest"]
    images.check_manifest(manifest, context.app, params["sha"])
    name = images.parse_stem(context.app, manifest["artifact"])
    signed = images.check_origin(
        context.paths, context.config, manifest, params["signature"], lambda: images.get_ready(params["source"])
    )
    if context.dry_run:
        images.check_platform(manifest, status.machine(context)["arch"], images.host_glibc(), images.host_pythons())
        have = images.manifest_of(context.paths, name) is not None
        if not have:
            images.check_space(context.paths, context.config, manifest["image"]["bytes"])
        return {"have": have, "stop": not have}
    return images.stage(context.paths, context.config, manifest, params["image"], params["source"], signed)


def configure(context: Context, params: Params) -> Answer:
    """Make a release of a staged artifact and a configuration."""
    settings = params["config"]
    smoke.parse_checks(settings.get("smoke") or [])
    if context.dry_run:
        release.check_config(settings)
        manifest = images.manifest_of(context.paths, images.parse_stem(context.app, params["artifact"]))
        if manifest is None:
            return {"release": None, "changed": True}
        made, _ = release.split_config(settings)
        identity = release.release_id(context.key, str(manifest["sha"]), manifest["image"]["sha256"], made)
        return {"release": identity, "changed": not release.complete(context.paths, identity)}
    identity, new = release.configure(context.paths, context.config.user, context.key, params["artifact"], settings)
    settings = release.config_of(context.paths, identity)
    if context.state.record(identity) is None:
        context.state.set_record(Record(identity, settings["sha"], params["artifact"], staged_at=now()))
        context.state.append_history("stage", release=identity, sha=settings["sha"], deploy_id=context.deploy_id)
    return {"release": identity, "changed": new}


def start_verb(context: Context, params: Params) -> Answer:
    """Start the idle colour with a release."""
    return start.start(context, params["release"], params["timeout"], params["warm"], params["alive"])


def drain(context: Context, params: Params) -> Answer:
    """Wait until nothing is in flight on the idle colour, then stop it."""
    colour = params["colour"] or start.idle_colour(context)
    live = context.state.live()
    if live and live.colour == colour:
        raise refused(f"{colour} is live", "", f"only {other(colour)} can be drained")
    if context.state.pending():
        raise refused("a switch is pending", "", "confirm or revert it first")
    if context.dry_run:
        sockets = {"requests": context.paths.socket(colour), "websockets": context.paths.websocket(colour)}
        return {"colour": colour, "in_flight": {what: inflight.sample(str(one)) for what, one in sockets.items()}}
    if live:
        start.write_route(context, live.colour)
    if params["cold"]:
        switch.let_go(context)
    started = time.monotonic()
    cut = start.stop_colour(context, colour, params["ceiling"] or context.config.drain_ceiling)
    context.state.append_history("drain", colour=colour, cut=cut)
    return {"colour": colour, "cut": cut, "seconds": round(time.monotonic() - started, 2)}


def processes_verb(context: Context, params: Params) -> Answer:
    """Start, settle or stop background processes."""
    live = context.state.live()
    action = params["action"]
    if action == "start":
        name = _named_or_live(context, params)
        colour = start.colour_of(context, name)
        if colour is None:
            raise refused(f"{name} is in neither colour", "", "start it first")
        if context.dry_run:
            return {"started": []}
        names = processes.start_early(context, colour)
        processes.stay_alive(names, params["alive"])
        return {"started": names}
    if live is None:
        return {"started": [], "stopped": []}
    if context.dry_run:
        return {"started": [], "stopped": list(processes.running(context.app, other(live.colour)))}
    if action == "stop":
        return {"started": [], "stopped": processes.stop(context, other(live.colour), params["wait"])}
    return processes.settle(context, live.colour, params["wait"], params["alive"])


# traffic


def smoke_verb(context: Context, params: Params) -> Answer:
    """Check a colour on its socket, or the live release through nginx."""
    aim = params["target"]
    pending = context.state.pending()
    wanted = params["release"] or (pending.release if pending and aim == "front" else None)
    name = _named_or_live(context, {"release": None if aim == "live" else wanted})
    colour = start.colour_of(context, name)
    if colour is None:
        raise refused(f"{name} is in neither colour", "", f"bluegreen start --app {context.app} --release {name}")
    raw = (
        params["checks"] if params["checks"] is not None else release.checks_of(context.paths, name).get("smoke") or []
    )
    checks = smoke.parse_checks(raw)
    session = params["session"]
    first = params["role"] == "first"
    chosen, left_out = smoke.select(checks, aim, first, bool(session))
    where = rollback.front_target(context, name) if aim == "front" else start.target(context, colour, name)
    if any(check.command for check in chosen) and session is None:
        session = session_by_command(context, name, next(check.command for check in chosen if check.command))
    chosen = [check for check in chosen if not check.command]

    def work() -> Answer:
        problem = smoke.identity(where, 5 if aim == "front" else 1, min(5, params["timeout"]))
        if problem:
            return {
                "verdict": "fail",
                "checks": [{"name": "identity", "path": "/", "ok": False, "problem": problem, "ms": 0, "tries": 1}],
                "session": None,
            }
        return smoke.run(chosen, where, session, params["timeout"])

    result = privileges.call(work, timeout=params["timeout"] + 60)
    until = time.monotonic() + params["during"]
    rounds = 1
    while result["verdict"] == "pass" and time.monotonic() < until:
        time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        result = privileges.call(work, timeout=params["timeout"] + 60)
        rounds += 1
    kept = result.pop("session")
    secrets = [text for check in checks for text in smoke.secret_texts(check)]
    result = smoke.redact(result, secrets + list((kept or {}).values()))
    result |= {
        "release": name,
        "colour": colour,
        "left_out": left_out,
        "rounds": rounds,
        "proven": any(c.session for c in chosen),
    }
    if result["verdict"] == "fail":
        if aim == "front" and pending and pending.release == name:
            switch.require_routed(context, name)  # else the release before has answered
        failed = next(item for item in result["checks"] if not item["ok"])
        raise check_failed(
            f"the check {failed['name']} ({failed['path']}) fails on {name}", failed["problem"], "", result
        )
    return {**result, "session": kept}


def session_by_command(context: Context, name: str, command: str) -> dict[str, str]:
    """A session made by a management command, which prints `cookie=value` on a line of its own."""
    answer = jobs.manage(context, name, command, 60)
    found = [match for line in answer["output"] if (match := re.fullmatch(r"([\w-]+)=(\S+)", line.strip()))]
    if answer["rc"] or not found:
        raise check_failed(f"the command {command.split(maxsplit=1)[0]} makes no session", "it must print cookie=value")
    return {found[-1][1]: found[-1][2]}


def route_verb(context: Context, params: Params) -> Answer:
    """Route a share of the visitors to a release; all of them is a switch."""
    if not 0 < params["share"] <= 100 or params["share"] % 5:
        raise bad_input(
            f"share {params['share']} is not possible",
            f"the nearest is {min(100, max(5, round(params['share'] / 5) * 5))}",
            "use steps of 5",
        )
    if params["ttl"] < 1:
        raise bad_input("ttl must be at least 1 second")
    return switch.route_to(context, params["release"], params["share"], params["ttl"], params["kind"], params["fresh"])


def revert(context: Context, params: Params) -> Answer:
    """Go back to what was confirmed."""
    if params["deadman"]:
        return switch.deadman_fired(context, params["deadman"])
    return switch.revert(context, params["why"], params["bad"])


def decide(context: Context, params: Params) -> Answer:
    """Write what becomes of this deploy in the register, or learn it."""
    without = params["without"]
    if not all(isinstance(name, str) for name in without):
        raise bad_input("without must be a list of host names", f"it is {without!r}")
    return switch.decide(context, params["decision"], params["release"], params["why"], without)


def register_verb(context: Context, params: Params) -> Answer:
    """Make the register's tables where there are none, or show what it knows."""
    if not context.config.register:
        return {"register": None}
    reply = context.register.look()  # makes them
    shown = {
        "app": context.app,
        "id": reply.id,
        "lease": reply.held.public() if reply.held else None,
        "generation": reply.generation,
    }
    latest = dataclasses.asdict(reply.latest) if reply.latest else None
    if params["action"] == "init":
        return {"register": shown, "made": reply.made}
    return {"register": {**shown, "latest": latest}}


def measure(context: Context, params: Params) -> Answer:
    """What visitors got, by colour, from nginx's log."""
    from bluegreen import traffic  # only a canary and a watch need it

    if params["max_bytes"] < traffic.MAX_LINE:
        raise bad_input(f"max_bytes must be at least {traffic.MAX_LINE}")
    return traffic.measure(context, params)


def mark(context: Context, params: Params) -> Answer:
    """Remember a release as bad, or forgive it."""
    if context.state.record(params["release"]) is None:
        raise refused(f"{params['release']} was never on this host")
    if not context.dry_run:
        switch.mark(context, params["release"], params["state"], params["why"])
        context.state.append_history("mark", release=params["release"], state=params["state"], why=params["why"])
    return {"release": params["release"], "state": params["state"]}


# jobs


def migrate(context: Context, params: Params) -> Answer:
    """Judge or run the pending migrations of a release."""
    from bluegreen import migrations  # slow to import

    name = _named_or_live(context, params)
    allowed, options = migrations.options_of(params)
    if params["plan"]:
        return migrations.plan(context, name, allowed, options)
    return migrations.migrate(context, name, params["timeout"], allowed, options, params["moment"] == "late")


def restore(context: Context, params: Params) -> Answer:
    """Put a snapshot back, or say what that would lose."""
    from bluegreen import migrations
    from bluegreen import restore as restoring

    options = migrations.Options(migrations.databases_of(params["databases"]))
    return restoring.restore(context, params["snapshot"], params["accept"], options)


def undo(context: Context, params: Params) -> Answer:
    """Undo what newer releases migrated, or say what that would do."""
    from bluegreen import backwards, migrations

    _, options = migrations.options_of({**params, "approve": [], "by": "", "reason": "", "late": [], "window": False})
    if params["plan"]:
        return backwards.plan(context, params["release"], params["to"], options)
    return backwards.undo(context, params["release"], params["to"], params["timeout"], options)


def snapshots(context: Context) -> Answer:
    """The snapshots of this host, newest first."""
    from bluegreen import snapshot

    return {"snapshots": snapshot.kept(context)}


def fits(context: Context) -> Answer:
    """Which kept releases fit the schema as it is."""
    from bluegreen import migrations

    return migrations.fits(context)


def maintenance_verb(context: Context, params: Params) -> Answer:
    """Open or end a maintenance window, or show it."""
    from bluegreen import window

    if params["action"] == "begin":
        return window.begin(context, params["why"])
    if params["action"] == "end":
        return window.end(context, params["wait"], params["checked"])
    return {"maintenance": maintenance.read(context)}


def manage(context: Context, params: Params) -> Answer:
    """Run one management command in a release."""
    return jobs.manage(context, _named_or_live(context, params), params["command"], params["timeout"])


def history(context: Context, params: Params) -> Answer:
    """What happened on this host, oldest first."""
    return {"entries": context.state.history(params["limit"])}


def note(context: Context, params: Params) -> Answer:
    """Add a line to the history."""
    if not context.dry_run:
        context.state.append_history(params["event"], **{**params["details"], "deploy_id": context.deploy_id})
    return {}


def tokens(context: Context) -> Answer:
    """The tokens that nginx's configuration needs. Secret."""
    return {purpose: configuration.token(context.key, purpose) for purpose in ("probe", "next")}


# ruff: noqa: ARG005, E501  one row for a verb: the table is read across
VERBS: dict[str, Verb] = {
    "status": Verb(lambda c, p: status.status(c), "what this host serves, keeps and has pending", changes=False),
    "history": Verb(history, "what happened here", {"limit": Param(int, 50)}, changes=False),
    "lease": Verb(lease.verb, "who may change the application now", {
        "action": Param(str, "show", choices=("take", "release", "show", "break")), "what": Param(str, "work on the host"),
        "ttl": Param(float, lease.TTL, "seconds until it expires unless renewed"), "cap": Param(float, lease.CAP, "seconds until it ends in any case"),
        "process": Param(str, "", "who takes it: the process"), "run_url": Param(str, "", "who takes it: the page of the run"),
        "lease": Param(str, "", "break: the id of the lease"), "brief": Param(bool, False)},
        wait=60),  # a run that died may have left migrations being judged
    "register": Verb(register_verb, "the fleet's register", {"action": Param(str, "show", choices=("init", "show"))}, changes=False),
    "resume": Verb(lambda c, p: switch.resume(c), "finish or undo what an earlier run left pending", long=True),
    "stage": Verb(stage, "fetch, verify and open an artifact", {
        "manifest": Param(dict, data=True, required=True), "signature": Param(str, "", "of the manifest", data=True),
        "sha": Param(str, "", "the commit that was asked for"), "image": Param(str, None, "name of the uploaded file in the inbox"),
        "source": Param(dict, None, "where to fetch the image: {url, accept, token, seconds}", data=True)}, long=True),
    "configure": Verb(configure, "make a release of an artifact and a configuration", {
        "artifact": Param(str, required=True), "config": Param(dict, data=True, required=True)}),
    "check": Verb(lambda c, p: jobs.check(c, p["release"]), "manage.py check --deploy in a release", {"release": RELEASE}, long=True),
    "start": Verb(start_verb, "start the idle colour with a release, and warm it", {
        "release": RELEASE, "timeout": Param(float, 60.0), "warm": Param(bool, True),
        "alive": Param(float, 3.0, "seconds a background process must stay alive")}, long=True),
    "abandon": Verb(lambda c, p: start.abandon(c), "give up the idle colour's release, warm the one before again", long=True),
    "smoke": Verb(smoke_verb, "check a release on its socket, or through nginx", {
        "target": Param(str, "idle", choices=("idle", "live", "front")), "release": Param(str, None), "checks": Param(list, None, data=True),
        "session": Param(dict, None, data=True), "role": Param(str, "first", choices=("first", "other")),
        "timeout": Param(float, 30.0), "during": Param(float, 0.0, "seconds to go on checking")}, changes=False, long=True),
    "route": Verb(route_verb, "route visitors to a release until confirmed", {
        "release": RELEASE, "share": Param(int, 100), "ttl": Param(float, 60.0, "seconds until it reverts by itself"),
        "kind": Param(str, "deploy", choices=("deploy", "rollback")), "fresh": Param(bool, False, "ask the release once more before")}),
    "extend": Verb(lambda c, p: switch.extend(c, p["ttl"], p["release"]), "move the deadline of a pending switch", {
        "ttl": Param(float, 60.0), "release": Param(str, None)}),
    "measure": Verb(measure, "what visitors got, by colour", {
        "during": Param(float, 0.0, "seconds to wait first"), "window": Param(float, 0.0, "the last seconds instead of all since the switch"),
        "cursor": Param(dict, None, "where the last reading ended", data=True), "groups": Param(list, [], "groups of paths", data=True),
        "known": Param(list, [], "groups from before", data=True), "strict": Param(bool, False, "a log that cannot be read is an error"),
        "max_bytes": Param(int, 16 << 20, "of the log; these are 40,000 requests, read in less than a second")}, changes=False),
    "decide": Verb(decide, "write what becomes of a deploy, whoever is first, or learn it", {
        "decision": Param(str, required=True, choices=(COMMIT, ABORT)), "release": Param(str, ""), "why": Param(str, ""),
        "without": Param(list, [], "hosts that were left out", data=True)}),
    "confirm": Verb(lambda c, p: switch.confirm(c, p["release"]), "make a pending switch final", {"release": RELEASE}),
    "revert": Verb(revert, "go back to what was confirmed", {
        "why": Param(str, "asked for"), "bad": Param(bool, False, "remember the release as bad"), "deadman": Param(str, "", "the timer's call")}, wait=300),
    "rollback": Verb(lambda c, p: rollback.rollback(c, p["to"], p["ttl"]), "roll this host back (the others go on)", {
        "to": Param(str, None, "release id or sha"), "ttl": Param(float, 60.0)}, long=True),
    "rollback_target": Verb(lambda c, p: rollback.rollback_target(c, p["to"]), "where a rollback would go", {"to": Param(str, None)}, changes=False),
    "mark": Verb(mark, "remember a release as bad, or forgive it", {
        "release": RELEASE, "state": Param(str, "bad", choices=("bad", "staged", "rolled_back")), "why": Param(str, "")}),
    "drain": Verb(drain, "stop the idle colour when nothing is in flight", {
        "colour": Param(str, "", choices=("", *COLOURS)), "ceiling": Param(float, 0.0),
        "cold": Param(bool, False, "and keep no older release warm: the schema is about to leave them behind")}, long=True),
    "processes": Verb(processes_verb, "background processes", {
        "action": Param(str, "settle", choices=("start", "settle", "stop")), "release": Param(str, None), "wait": Param(bool, True),
        "alive": Param(float, 0.0)}, long=True),
    "prune": Verb(lambda c, p: prune.prune(c, p["keep"] or c.config.releases_keep), "remove old releases", {"keep": Param(int, 0)}, long=True),
    "migrate": Verb(migrate, "run the pending migrations of a release", {
        "release": Param(str, None), "plan": Param(bool, False, "judge them, run nothing"), "timeout": Param(float, 3600.0),
        "approve": Param(list, [], data=True), "by": Param(str, "", "who approves"), "reason": Param(str, "", "why"),
        "late": Param(list, [], "app.name of those that run after the release is confirmed", data=True),
        "window": Param(bool, False, "those that are refused may run, approved and with the application stopped"),
        "moment": Param(str, "before", "late: now run those", choices=("before", "late")),
        **DATABASES}, long=True),
    "undo": Verb(undo, "undo the migrations of newer releases, from their code", {
        "to": Param(str, required=True, help="release id of the older one"), "release": Param(str, None, "of the newer one; else what is or was live"),
        "plan": Param(bool, False, "say what it would do"), "timeout": Param(float, 3600.0), **DATABASES}, long=True),
    "restore": Verb(restore, "put the data back as a snapshot has it", {
        "snapshot": Param(str, required=True, help="its id"), "accept": Param(str, "", "its id again: what was written since is lost"),
        "databases": DATABASES["databases"]}, long=True),
    "snapshots": Verb(lambda c, p: snapshots(c), "the snapshots that were taken before approved migrations", changes=False),
    "fits": Verb(lambda c, p: fits(c), "which kept releases fit the schema", changes=False),
    "manage": Verb(manage, "one management command in a release", {
        "command": Param(str, required=True), "release": Param(str, None), "timeout": Param(float, 3600.0)}, changes=False, long=True),
    "maintenance": Verb(maintenance_verb, "stop the application and show a page, or serve the live release again", {
        "action": Param(str, "show", choices=("begin", "end", "show")), "why": Param(str, "asked for on the host"),
        "wait": Param(float, 60.0, "end: seconds for the live release to answer"),
        "checked": Param(bool, False, "end: it is known to fit the schema")}, long=True),
    "reconcile": Verb(lambda c, p: reconcile.reconcile(c, p["wait"]), "make the host what its state says", {
        "wait": Param(float, 60.0)}, wait=60),
    "note": Verb(note, "add a line to the history", {"event": Param(str, required=True), "details": Param(dict, {}, data=True)}),
    "tokens": Verb(lambda c, p: tokens(c), "the tokens for nginx (secret)", changes=False),
}  # fmt: skip

# verbs that must work whoever holds the lease: the way back, and asking. Those of a run are still fenced: a controller
# that slept must not undo, or decide about, what came after it.
LEASE_FREE = {"lease", "revert", "reconcile", "note", "decide"}
FENCED = {"revert", "decide"}


def validate(verb: str, given: Params) -> Params:
    """The parameters of a verb, with defaults. Raises BluegreenError that names what is wrong."""
    if verb not in VERBS:
        raise bad_input(f"{verb!r} is not a verb", f"known: {', '.join(VERBS)}")
    spec = VERBS[verb].params
    for name in given:
        if name not in spec:
            raise bad_input(f"{verb} has no parameter {name!r}", f"known: {', '.join(spec) or 'none'}")
    result = {}
    for name, param in spec.items():
        value = given.get(name)
        if value is None:
            if param.required:
                raise bad_input(f"{verb} needs {name}")
            value = param.default
        elif param.kind is float and type(value) is int:
            value = float(value)
        elif type(value) is not param.kind:
            raise bad_input(f"{verb}: {name} must be of type {param.kind.__name__}", f"it is {type(value).__name__}")
        if param.choices and value not in param.choices:
            raise bad_input(f"{verb}: {name} is {value!r}", f"wanted: {', '.join(filter(None, param.choices))}")
        result[name] = value
    return result


def perform(context: Context, verb: str, given: Params) -> Answer:
    """Do one verb: check its parameters, take the lock if it changes something, check authority, act.

    What release code printed comes without the secrets of the releases on this host.
    """
    params = validate(verb, given)
    try:
        answer = act(context, verb, params)
    except BluegreenError as problem:
        if problem.code is Code.CHECK_FAILED:
            secrets.hide_in(problem, secrets.masks(secrets.values(context.paths)))
        raise
    if answer.get("output"):
        answer["output"] = secrets.told(context.paths, answer["output"])
    return answer


def act(context: Context, verb: str, params: Params) -> Answer:
    """Do one verb with checked parameters."""
    entry = VERBS[verb]
    working = lease.renewing(context) if entry.long else contextlib.nullcontext()
    if not entry.changes:
        with working:
            return entry.run(context, params)
    with context.state.lock(verb, entry.wait):
        if verb not in LEASE_FREE:
            lease.check(context)
        elif verb in FENCED:
            lease.check_fence(context)
        with working:
            return entry.run(context, params)
