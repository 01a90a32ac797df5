"""The host tool dies, or the disk fails it, at every system call that changes something.

On one host, without Ansible: the verbs are called as a controller would, by a batch on stdin, under strace. The other
hosts go on as they are.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from support.example_fleet import APP

from . import judge
from .judge import Run
from .rig import NEW, OLD, Report, Rig

KILL, ERROR = "host-tool-kill", "host-tool-error"
HOST = "web1"
VERBS = ("stage", "route", "decide", "confirm", "revert", "prune")
TTL = 2.0
ERRORS = ("ENOSPC", "EIO")
OURS = ("/var/lib/bluegreen", "/srv/", "/run/", "/etc/")
THIRD = "r5"  # a release that the fleet does not know: staged and pruned again and again


@dataclass(frozen=True)
class Place:
    """One system call of one verb, and what is done to it: KILL, or an error."""

    verb: str
    call: str
    number: int
    about: str
    what: str
    then: str  # what follows: wait (for the dead-man), reconcile, or again (the same call at once)

    @property
    def inject(self) -> str:
        """strace's option."""
        how = "signal=KILL" if self.what == "KILL" else f"error={self.what}"
        return f"-e inject={self.call}:{how}:when={self.number}"


class Refused(Exception):
    """The host tool answered no."""


class Driver:
    """Calls the host tool on one host as a controller does."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.id = ""
        self.fence: int | None = None

    def call(self, *steps: dict[str, Any], under: str = "", check: bool = True) -> dict[str, Any]:
        """One batch; {} if it gave no answer."""
        message = {"deploy_id": self.id, "holder": "faults", "fence": self.fence, "steps": list(steps)}
        text = self.rig.on(
            HOST,
            f"exec {under} /usr/local/bin/bluegreen batch --app {APP}",
            stdin=json.dumps(message).encode(),
            check=False,
        )
        try:
            answer: dict[str, Any] = json.loads(text)
        except ValueError:
            answer = {}
        if check and not answer.get("ok"):
            raise Refused(json.dumps(answer.get("error") or text[-300:]))
        return answer

    def take(self) -> None:
        """Begin a deploy of its own: the lease, as soon as it is free, and what an earlier one left."""
        self.id, self.fence = f"20260101t000000-{uuid.uuid4().hex[:6]}", None
        until = time.monotonic() + 30
        while True:
            take = {"verb": "lease", "action": "take", "ttl": 3.0, "what": "faults", "brief": True}
            answer = self.call(take, check=False)
            if answer.get("ok"):
                break
            if time.monotonic() > until:
                raise Refused(json.dumps(answer.get("error")))
            time.sleep(0.2)
        lease = answer["results"]["lease"]
        # the register's generation is this run's own; what the host has accepted must be exceeded
        self.fence = max(lease["generation"], lease["fence"] + 1)
        self.call({"verb": "resume"})

    def release(self) -> None:
        """Give the lease back."""
        self.call({"verb": "lease", "action": "release"}, check=False)


class Bench:
    """Brings the host to where a verb is called, and on to the end of the deploy."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.driver = rig, Driver(rig)
        store = rig.fleet.store
        stem = next(path.stem for path in sorted(store.glob(f"{APP}-{rig.fleet.shas[THIRD]}-*.squashfs")))
        self.manifest = json.loads((store / f"{stem}.json").read_text())
        self.signature = (store / f"{stem}.json.sig").read_text()
        others = (path for path in store.glob(f"{APP}-*.json") if path.stem != stem and not path.stem.endswith(".cdx"))
        shared = {name for path in others for name in json.loads(path.read_text())["static"]["hashed"]}
        self.own = [name for name in self.manifest["static"]["hashed"] if name not in shared]
        rig.on(HOST, "cat > /srv/spare.squashfs", stdin=(store / f"{stem}.squashfs").read_bytes())

    def goal(self) -> str:
        """The release on the idle colour: every pass moves the host to the other one."""
        status = self.rig.status([HOST])[HOST]
        if not status["idle"]["running"]:
            raise Refused(f"nothing runs on the idle colour: {status['idle']}")
        return str(status["idle"]["release"])

    def upload(self) -> str:
        """The third release's image lies in the inbox."""
        name = f"upload-{uuid.uuid4().hex[:8]}"
        self.rig.on(HOST, f"cp /srv/spare.squashfs /srv/{APP}/inbox/{name} && chown deploy: /srv/{APP}/inbox/{name}")
        return name

    def stage(self) -> dict[str, Any]:
        """The step that stages the third release."""
        return {"verb": "stage", "manifest": self.manifest, "signature": self.signature, "image": self.upload()}

    def steps(self, verb: str, goal: str) -> list[dict[str, Any]]:
        """What a controller calls, up to this verb."""
        route = {"verb": "route", "release": goal, "share": 100, "ttl": TTL, "kind": "deploy"}
        decide = {"verb": "decide", "decision": "COMMIT", "release": goal}
        confirm = {"verb": "confirm", "release": goal}
        revert = {"verb": "revert", "why": "asked for"}
        rows: dict[str, list[dict[str, Any]]] = {
            "route": [route],
            "decide": [route, decide],
            "confirm": [route, decide, confirm],
            "revert": [route, revert],
        }
        if verb == "stage":
            return [self.stage()]
        if verb == "prune":
            return [{"verb": "prune", "keep": 5}]
        return rows[verb]

    def ready(self, verb: str) -> tuple[str, dict[str, Any]]:
        """Everything before the verb is done; the goal, and the verb's own step."""
        goal = self.goal()
        self.driver.take()
        if verb == "prune":
            self.driver.call(self.stage())
            self.rig.on(HOST, FORGOTTEN.format(app=APP))
        *before, last = self.steps(verb, goal)
        if before:
            self.driver.call(*before)
        if verb == "stage":
            self.rig.on(HOST, f"cd /srv/{APP}/static && xargs -0r rm -f --", stdin="\0".join(self.own).encode())
        return goal, last

    def finish(self, goal: str) -> None:
        """A new run to the end: the goal is live, nothing else is left."""
        self.driver.take()
        live = self.rig.status([HOST])[HOST]["live"]["release"]
        if live != goal:
            self.driver.call(*self.steps("confirm", goal))
        self.driver.call({"verb": "processes", "action": "settle", "wait": False})
        self.driver.call(self.stage())
        self.driver.call({"verb": "prune", "keep": 5})
        self.driver.release()


# A release that nobody needs: prune has a directory to remove, not only an image.
FORGOTTEN = """
cd /srv/{app}/releases
some=$(ls | head -n 1)
for number in 1 2; do
  id=00000000000$number-0000000$number
  [ -e $id ] || cp -a $some $id
  sed "s/$some/$id/; s/confirmed\\"/staged\\"/" /var/lib/bluegreen/{app}/records/$some.json > /tmp/$id
  python3 - /tmp/$id $id <<'END'
import json, sys
record = json.load(open(sys.argv[1]))
record |= {{"id": sys.argv[2], "state": "staged", "staged_at": "2001-01-0" + sys.argv[2][11]}}
json.dump(record, open("/var/lib/bluegreen/{app}/records/" + sys.argv[2] + ".json", "w"))
END
done
"""


def places(bench: Bench, verb: str, options: Namespace, errors: bool) -> list[Place]:
    """Every system call of a verb that changes something, as an undisturbed call of it makes them."""
    goal, last = bench.ready(verb)
    names = ",".join((*judge.CHANGING, *judge.CALLING))
    bench.driver.call(last, under=f"strace -qq -y -s 60 -o /run/fault.log -e trace={names}")
    log = bench.rig.on(HOST, "cat /run/fault.log")
    bench.finish(goal)
    chance = random.Random(f"{options.seed} {verb} {errors}")  # noqa: S311
    found = []
    ours = [
        (call, number, about)
        for call, number, about in judge.calls_of(log)
        if call != "write" or about.startswith("1<") or any(place in about for place in OURS)
    ]
    for call, number, about in judge.thin(ours, options.seed):
        if errors and call in judge.CALLING:
            continue
        for what in ERRORS if errors else ("KILL",):
            then = chance.choice(("wait", "reconcile", "again"))
            found.append(Place(verb, call, number, about[:60], what, then))
    return found


def host_tool(rig: Rig, options: Namespace, report: Report, errors: bool) -> None:
    """All verbs, all calls."""
    rig.must(rig.fleet.build(THIRD), f"build {THIRD}")
    rig.given(OLD)
    rig.given(NEW)
    bench = Bench(rig)
    try:
        found = [place for verb in options.verbs for place in places(bench, verb, options, errors)]
        rig.progress(
            f"{len(found)} places: " + ", ".join(f"{v} {sum(p.verb == v for p in found)}" for v in options.verbs)
        )
        for place in judge.sample(found, options.runs, options.seed):
            report(one(bench, place, options))
    finally:
        rig.on(HOST, "rm -f /srv/spare.squashfs /run/fault.log")
    # the host went its own way: the next deploy of the fleet makes it one again
    rig.given(OLD)


def one(bench: Bench, place: Place, options: Namespace) -> Run:
    """One call of one verb that is hurt, and what comes after."""
    rig = bench.rig
    case = KILL if place.what == "KILL" else ERROR
    point = f"{place.verb}, {place.call} {place.number} ({place.about}), then {place.then}"
    result = Run(case, f"host tool {place.what} in {place.verb}", point, options.seed)
    start = time.monotonic()
    goal, last = bench.ready(place.verb)
    before = str((rig.look([HOST])[HOST] or judge.Look(None, None, None)).live)
    under = f"strace -o /run/fault.log -e trace={place.call} {place.inject}"
    fell = time.monotonic()
    answer = bench.driver.call(last, under=under, check=False)
    result.notes.append(f"answer: {json.dumps(answer.get('error') or answer.get('ok'))[:200]}")
    if not judge.struck(rig.on(HOST, "cat /run/fault.log")):
        result.fault = f"(the host tool came to its end before the place, in {place.verb})"
    if place.then == "again" and place.verb not in ("stage", "prune"):
        again = bench.driver.call(last, check=False)
        if not again.get("ok"):
            result.notes.append(f"again: {json.dumps(again.get('error'))[:200]}")
    elif place.then == "reconcile":
        rig.on(HOST, f"bluegreen reconcile --app {APP}", check=False)
    after = rig.observe(fell, [HOST], ttl=TTL)
    result.whole = after
    look = rig.look([HOST])[HOST]
    result.ended = "old" if look and look.live == before else "new" if look and look.live == goal else "?"
    if result.ended == "?":
        result.problems.append(f"it ended on {look}")
    began = time.monotonic()
    try:
        bench.finish(goal)
        result.rerun = 0
    except Refused as refusal:
        result.rerun = 1
        result.notes.append(f"re-run: {refusal}")
    result.rerun_seconds = time.monotonic() - began
    return rig.finish(result, start, [HOST], TTL, [HOST])


def host_tool_kill(rig: Rig, options: Namespace, report: Report) -> None:
    """The host tool is killed."""
    host_tool(rig, options, report, errors=False)


def host_tool_error(rig: Rig, options: Namespace, report: Report) -> None:
    """The disk is full, or broken."""
    host_tool(rig, options, report, errors=True)
