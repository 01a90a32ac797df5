"""What the fleet has done so far, and what may follow. Pure functions over the hosts' answers.

Verdicts are data: a phase never fails in Ansible's sense. Each host's answer is registered, and everything that
follows (does the next phase run, must all hosts go back, how did it end) is decided here from all answers together.
A host that did not answer counts as failed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from plugins.module_utils import bluegreen_judge as judging
from plugins.module_utils import bluegreen_kpi as figures
from plugins.module_utils.bluegreen_inputs import Refused

Result = Mapping[str, Any]

PHASES = (
    "preflight", "stage", "plan_migrations", "maintenance", "migrate", "plan_undo", "undo_first", "start", "smoke",
    "canary", "switch", "watch", "confirm", "revert", "migrate_late_ready", "migrate_late", "undo", "restore",
    "maintenance_end_fits", "maintenance_end", "settle",
)  # fmt: skip
TITLES = {  # where it is not the phase's own name
    "undo": "Undo migrations",
    "maintenance": "Maintenance page",
    "maintenance_end_fits": "Serve again",
    "maintenance_end": "Serve again",
    "migrate_late_ready": "Late migrations",
    "migrate_late": "Late migrations",
}
# the variables in which the roles register answers: __<phase>_<part>
PARTS = ("first", "rest", "result")
# run on the migration host only
SINGLE = (
    "plan_migrations", "migrate", "plan_undo", "undo_first", "undo", "migrate_late", "restore", "maintenance_end_fits",
)  # fmt: skip
WINDOW_ENDS = ("maintenance_end_fits", "maintenance_end")  # where a deploy that opened a window did not come through
LATE = ("migrate_late_ready", "migrate_late")  # of a deploy with migrations_late
ROLLBACK_SKIPS = ("stage", "plan_migrations", "maintenance", "migrate")
UNDOING = ("plan_undo", "undo_first", "undo")  # of a rollback with -e schema=reverse
DRY = ("preflight", "stage", "plan_migrations", "plan_undo")  # what --check runs
REVERTIBLE = ("canary", "switch", "watch", "confirm")
CHECK_FAILED = 4  # of the host tool's exit statuses
REFUSALS = (2, 3, 5, 6, 7, 75)  # those after which nothing was changed
MAX_SKEW = 60.0  # seconds between a host's clock and the controller's
MIN_FREE_INODES = 2  # percent
ROUND = 5.0  # seconds of a round of a canary or watch: a host that breaks in it is found by its end
SHORTEST = 1.0  # seconds of a watch: one round in which the front door is asked twice and nginx's log is read
ROUNDS = 60  # a long watch has longer rounds instead of more
WINDOW = 300.0  # seconds before a switch that a watch is compared with, at most
WATCHED = ("canary", "watch")  # phases that go on in rounds
ASKED = {phase: f"__{phase}_kpis" for phase in WATCHED}  # the variables in which the roles register KPIs


def title(phase: str) -> str:
    """A phase as people read it: Canary, Plan migrations."""
    return TITLES.get(phase) or (phase[:1].upper() + phase[1:]).replace("_", " ")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that went wrong: where, what, why, and what to type next."""

    phase: str
    host: str
    what: str
    why: str = ""
    todo: str = ""
    code: int | str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Fleet:
    """A run: its inputs, its hosts in order, and per host and phase the answers that came."""

    inputs: Mapping[str, Any]
    hosts: tuple[str, ...]
    answers: Mapping[str, Mapping[str, Sequence[Result]]]
    asked: Mapping[str, Sequence[Mapping[str, Any]]] = dataclasses.field(default_factory=dict)  # phase → KPIs by round

    @property
    def rollback(self) -> bool:
        return self.inputs.get("verb") == "rollback"

    @property
    def restoring(self) -> bool:
        return self.inputs.get("verb") == "restore"

    @property
    def check(self) -> bool:
        return bool(self.inputs.get("check"))

    @property
    def migration_host(self) -> str:
        return str(self.inputs.get("migration_host") or self.hosts[0])

    def of(self, phase: str, host: str) -> Sequence[Result]:
        """The answers of one host in one phase."""
        return self.answers.get(host, {}).get(phase, ())

    def step(self, phase: str, host: str, step: str) -> Mapping[str, Any]:
        """What one step of a phase answered on a host; empty if it did not run."""
        for result in self.of(phase, host):
            found = (result.get("results") or {}).get(step)
            if isinstance(found, Mapping):
                return found
        return {}

    def watched(self, host: str) -> float:
        """Seconds that a host has been watched after the switch."""
        return float(next((result["watched"] for result in self.of("watch", host) if "watched" in result), 0.0))

    def status(self, host: str) -> Mapping[str, Any]:
        """What the host said about itself in the preflight."""
        found = self.step("preflight", host, "lease").get("status")
        return found if isinstance(found, Mapping) else {}

    def passed(self, phase: str, host: str) -> bool:
        """Whether a host took part in a phase and everything went well there."""
        results = self.of(phase, host)
        return bool(results) and all(result.get("verdict") == "pass" for result in results)

    def ran(self, phase: str) -> bool:
        """Whether any host took part in a phase."""
        return any(self.of(phase, host) for host in self.hosts)

    def sums(self, phase: str, host: str) -> Mapping[str, Any]:
        """What a host has measured in the rounds of a canary's step or of the watch; empty before the first."""
        return read_sums(next((result["judged"] for result in self.of(phase, host) if "judged" in result), "{}"))

    @functools.cached_property
    def canary(self) -> judging.Verdict:
        """The verdict on the canary's step so far."""
        return judge_step(self)

    @functools.cached_property
    def watch(self) -> judging.Verdict:
        """The verdict on the watch so far."""
        return judge_watch(self)

    @functools.cached_property
    def target(self) -> Mapping[str, Any]:
        """A rollback's target {release, sha}. Raises Refused."""
        statuses = statuses_of(self)
        if in_window(self) and (live := live_releases(statuses)):
            return next({"release": item["release"], "sha": item["sha"]} for item in live.values())
        return choose_target(statuses, self.inputs.get("to"), bool(self.inputs.get("schema")))


def statuses_of(fleet: Fleet) -> dict[str, Mapping[str, Any]]:
    """What each host said about itself in the preflight."""
    return {host: fleet.status(host) for host in fleet.hosts}


# maintenance windows


def asks_window(fleet: Fleet) -> bool:
    """Whether this deploy may stop the application."""
    return bool((fleet.inputs.get("migrations") or {}).get("window"))


def in_window(fleet: Fleet) -> bool:
    """Whether a window was open on any host when this run began."""
    return any(fleet.status(host).get("maintenance") is not None for host in fleet.hosts)


def opens_window(fleet: Fleet) -> bool:
    """Whether this deploy stops the application: a migration needs it, or an earlier run has done so."""
    planned = fleet.step("plan_migrations", fleet.migration_host, "migrate")
    return asks_window(fleet) and (in_window(fleet) or bool(planned.get("stopped")))


def in_maintenance(fleet: Fleet, host: str) -> bool:
    """Whether a host's visitors met the page at some time in this run."""
    return fleet.status(host).get("maintenance") is not None or bool(fleet.of("maintenance", host))


def may_serve_again(fleet: Fleet) -> bool:
    """Whether the release before the window fits the schema: it was asked, or nothing has run since."""
    if not fleet.ran("migrate") and not in_window(fleet):
        return True
    phase = "preflight" if fleet.rollback else "maintenance_end_fits"
    told = fleet.step(phase, fleet.migration_host, "fits").get("fits") or {}
    live = live_releases(statuses_of(fleet)).values()
    return bool(live) and all(told.get(item["release"]) == [] for item in live)


def ends_window(fleet: Fleet, phase: str, host: str) -> bool:
    """Whether a host asks if the release before fits, or serves it again: where the new one did not come through."""
    if fleet.check or fleet.restoring or committed(fleet) or not in_maintenance(fleet, host):
        return False
    if fleet.rollback:
        return phase == "maintenance_end" and not problems(fleet, "maintenance_end_fits")
    if not problems(fleet, "maintenance_end_fits") or not fleet.ran("maintenance"):
        return False  # nothing went wrong, or this run was refused before it did anything
    if phase == "maintenance_end_fits":
        return host == fleet.migration_host and not fleet.ran(phase)
    return may_serve_again(fleet)


def page_stays(fleet: Fleet) -> list[str]:
    """Hosts whose visitors meet the maintenance page when this run ends."""
    if committed(fleet) or fleet.check:
        return []
    there = [host for host in fleet.hosts if in_maintenance(fleet, host)]
    return [host for host in there if not fleet.step("maintenance_end", host, "maintenance").get("ended")]


@functools.lru_cache(maxsize=256)
def read_sums(text: str) -> Mapping[str, Any]:
    """What `carry` wrote. It is kept as text: Ansible looks at every part of a variable, again for each host."""
    found: dict[str, Any] = json.loads(text)
    return found


def build(inputs: Mapping[str, Any], hosts: Sequence[str], variables: Mapping[str, Mapping[str, Any]]) -> Fleet:
    """The fleet from what the roles registered. `variables`: host → its variables."""
    answers = {}
    asked: dict[str, Sequence[Mapping[str, Any]]] = {}
    for host in hosts:
        mine: dict[str, list[Result]] = {}
        for phase in PHASES:
            for part in PARTS:
                result = variables.get(host, {}).get(f"__{phase}_{part}")
                if isinstance(result, Mapping) and not result.get("skipped"):
                    mine.setdefault(phase, []).append(result)
        answers[host] = mine
        for phase, name in ASKED.items():
            found = variables.get(host, {}).get(name)
            if isinstance(found, Mapping) and found.get("asked"):
                rows = read_sums(found["asked"])["rounds"]
                asked[phase] = max(rows, asked.get(phase, []), key=len)  # one host asks; more know more if it changed
    return Fleet(inputs, tuple(hosts), answers, asked)


# what went wrong


def problems(fleet: Fleet, before: str | None = None) -> list[Problem]:
    """Everything that went wrong so far (before phase `before`), in the order of the phases."""
    found: list[Problem] = []
    for phase in PHASES:
        if phase == before:
            break
        if phase in ("confirm", "revert") and committed(fleet):
            continue  # the decision stands: a host that missed it follows by itself, see `unfinished`
        failed = [problem for host in fleet.hosts for problem in host_problems(fleet, phase, host)]
        found += failed
        if not failed and fleet.ran(phase):
            found += lost_hosts(fleet, phase) or judgements(fleet, phase)
    return found


def host_problems(fleet: Fleet, phase: str, host: str) -> list[Problem]:
    """What one host answered in a phase that is not a pass."""
    found = []
    for result in fleet.of(phase, host):
        if result.get("verdict") == "pass":
            continue
        error = result.get("error") or {}
        what = error.get("what") or result.get("msg") or "there was no answer"
        found.append(
            Problem(
                phase, host, str(what), str(error.get("why") or ""), str(error.get("next") or ""), error.get("code")
            )
        )
    return found


def lost_hosts(fleet: Fleet, phase: str) -> list[Problem]:
    """Hosts that had to take part and did not: the play lost them."""
    wanted = (fleet.migration_host,) if phase in SINGLE else fleet.hosts
    if phase in ("revert", "settle", *WINDOW_ENDS):
        return []
    if phase == "canary":
        wanted = tuple(canary_hosts(fleet))
    return [
        Problem(phase, host, "gave no answer", "it was lost from the play", "ansible-playbook status.yml")
        for host in wanted
        if not fleet.of(phase, host)
    ]


def judgements(fleet: Fleet, phase: str) -> list[Problem]:
    """What is wrong with all answers together though each one alone is good."""
    if phase == "preflight":
        return judge_preflight(fleet)
    if phase == "stage":
        return judge_stage(fleet)
    if phase in WATCHED and (late := left_behind(fleet, phase)):
        return late
    if phase == "canary" and canary_position(fleet)[0] < len(canary_steps(fleet)):
        cut = Problem(phase, "", "the canary was cut short", "its rounds ended before its time", "the same again")
        return judge_traffic(fleet, phase) or [cut]
    return judge_traffic(fleet, phase) if phase in WATCHED else []


def judge_preflight(fleet: Fleet) -> list[Problem]:
    """Whether every machine can take the release, and whether it may be taken."""
    found = []
    for host in fleet.hosts:
        answer = fleet.step("preflight", host, "lease")
        machine, status = answer.get("machine") or {}, fleet.status(host)
        skew = next((result.get("clock_skew") for result in fleet.of("preflight", host) if "clock_skew" in result), 0.0)
        if abs(skew or 0.0) > MAX_SKEW:
            found.append(
                Problem(
                    "preflight",
                    host,
                    f"the clock is {abs(skew or 0.0):.0f} s {'ahead' if (skew or 0) > 0 else 'behind'}",
                    "sessions and certificates depend on it",
                    "start time synchronisation on the host",
                )
            )
        pending = status.get("pending")
        if pending:
            found.append(pending_problem(host, pending))
        if not fleet.rollback and not fleet.restoring:
            found += judge_machine(fleet, host, machine, status)
    found = found or judge_lease(fleet)
    found = found or judge_window(fleet)
    if found or fleet.restoring:
        return found
    return judge_target(fleet) if fleet.rollback else judge_bad(fleet) or judge_reverts(fleet)


def judge_window(fleet: Fleet) -> list[Problem]:
    """Whether this run may go on though hosts serve their maintenance page: it must be one that ends the window."""
    hosts = [host for host in fleet.hosts if fleet.status(host).get("maintenance") is not None]
    if not hosts or fleet.restoring:
        return []
    known = fleet.status(hosts[0])["maintenance"]
    why = f"since {str(known.get('since'))[:19]}: {known.get('why') or known.get('deploy_id') or 'it was asked for'}"
    what, ends = "visitors meet the maintenance page", "ansible-playbook rollback.yml"
    live = {str((fleet.status(host).get("live") or {}).get("sha")) for host in hosts}
    if fleet.rollback and (fleet.inputs.get("to") or fleet.inputs.get("schema")):
        return [Problem("preflight", hosts[0], what, why, f"{ends} without more serves the release before it again")]
    if not fleet.rollback and sha(fleet) in live:
        return [Problem("preflight", hosts[0], what, f"{why}; {sha(fleet)[:12]} is the release before it", ends)]
    if not fleet.rollback and not asks_window(fleet):
        todo = f"the same with -e migrations_maintenance_window=true, or {ends} to serve the release before it again"
        return [Problem("preflight", hosts[0], what, why, todo)]
    return []


def judge_lease(fleet: Fleet) -> list[Problem]:
    """Whether all hosts ask the same register, and got the lease at the same time."""
    answers = {host: fleet.step("preflight", host, "lease") for host in fleet.hosts}
    registers = {host: answer.get("register") for host, answer in answers.items()}
    if len(set(registers.values())) > 1:
        why = ", ".join(f"{host} asks {register or 'none'}" for host, register in registers.items())
        todo = "name one PostgreSQL that all reach (bluegreen_database_url), then ansible-playbook provision.yml"
        return [Problem("preflight", "", "the hosts do not share one register", why, todo)]
    if len({(answer.get("lease") or {}).get("since") for answer in answers.values() if answer.get("register")}) > 1:
        why = "this run paused for longer than its lease, and another one was at work meanwhile"
        return [Problem("preflight", "", "the lease was lost and taken again", why, "type the same again")]
    return []


def pending_problem(host: str, pending: Mapping[str, Any]) -> Problem:
    """A switch of an earlier run waits for its deadline."""
    left = float(pending.get("expires_in") or 0)
    what = f"a switch to {str(pending.get('sha'))[:12]} is not confirmed yet"
    return Problem(
        "preflight",
        host,
        what,
        f"its run ended early; the host goes back by itself in {left:.0f} s",
        "wait that long, then type the same again",
    )


def judge_machine(fleet: Fleet, host: str, machine: Mapping[str, Any], status: Mapping[str, Any]) -> list[Problem]:
    """Python, architecture, C library and free space, against the artifact."""
    wanted = fleet.inputs.get("artifact") or {}
    build = "build the artifact for the hosts' system: app_python, scripts/build-artifact"
    pythons = machine.get("pythons") or []
    if machine.get("arch") and machine["arch"] != wanted.get("arch"):
        return [
            Problem(
                "preflight",
                host,
                f"the artifact was built for {wanted.get('arch')}",
                f"this host is {machine['arch']}",
                build,
            )
        ]
    if pythons and wanted.get("python") not in pythons:
        return [
            Problem(
                "preflight",
                host,
                f"the artifact needs Python {wanted.get('python')}",
                f"this host has {', '.join(pythons)}",
                build,
            )
        ]
    present = any(
        item.get("artifact") == wanted.get("stem") and item.get("complete") for item in status.get("releases") or []
    )
    needed = 0 if present else -(-int(wanted.get("bytes") or 0) // (1 << 20))
    keep = int(fleet.inputs.get("min_free_mb") or 0)
    free = machine.get("free_mb")
    if isinstance(free, int) and free - needed < keep:
        why = f"{free} MB free, {needed} MB needed, {keep} MB must stay free"
        return [Problem("preflight", host, "the disk is nearly full", why, f"on {host}: sudo bluegreen prune --keep 2")]
    if int(machine.get("free_inodes_pct", 100)) < MIN_FREE_INODES:
        return [
            Problem(
                "preflight",
                host,
                "the file system is nearly out of inodes",
                f"{machine['free_inodes_pct']} % are free",
                "remove small files on the host",
            )
        ]
    return []


def judge_target(fleet: Fleet) -> list[Problem]:
    """Whether there is a release to roll back to."""
    if in_window(fleet):
        return judge_end(fleet)
    try:
        target = fleet.target
    except Refused as refusal:
        return [Problem("preflight", "", refusal.what, refusal.why, refusal.todo)]
    return judge_fit(fleet, str(target["release"]), str(target["sha"]))


def judge_end(fleet: Fleet) -> list[Problem]:
    """Whether the release before a maintenance window may serve again: only where it is known to fit the schema."""
    live = {str(item["release"]): str(item["sha"]) for item in live_releases(statuses_of(fleet)).values()}
    told = fleet.step("preflight", fleet.migration_host, "fits")
    todo = "deploy a corrected commit with -e migrations_maintenance_window=true, or restore.yml a snapshot first"
    for name, commit in live.items():
        misfits = (told.get("fits") or {}).get(name)
        if misfits is None:
            why = str(told.get("why") or "what it expects is not kept on the migration host")
            what = f"whether {commit[:12]} fits the schema is not known, so the maintenance page stays"
            return [Problem("preflight", fleet.migration_host, what, why, todo)]
        if misfits:
            what = f"{commit[:12]} does not fit the schema any more, so the maintenance page stays"
            return [Problem("preflight", fleet.migration_host, what, str(misfits[0]), todo)]
    return []


def judge_fit(fleet: Fleet, wanted: str, commit: str) -> list[Problem]:
    """Whether the schema has left a rollback's target behind; where that is not known the way back stays open."""
    misfits = (fleet.step("preflight", fleet.migration_host, "fits").get("fits") or {}).get(wanted)
    if not misfits or fleet.inputs.get("schema"):  # then plan_undo looks at it
        return []
    why = f"{misfits[0]}{f' (and {len(misfits) - 1} more)' if len(misfits) > 1 else ''}"
    todo = "deploy a corrected commit: ansible-playbook deploy.yml -e sha=…; docs/migrations.md has the other ways"
    return [Problem("preflight", fleet.migration_host, f"{commit[:12]} does not fit the schema any more", why, todo)]


def records_of(fleet: Fleet, sha: str) -> list[tuple[str, Mapping[str, Any]]]:
    """What the hosts remember of a commit: (host, record)."""
    return [
        (host, item)
        for host in fleet.hosts
        for item in fleet.status(host).get("releases") or []
        if item.get("sha") == sha
    ]


def judge_bad(fleet: Fleet, release: str = "") -> list[Problem]:
    """Refuse a commit that was reverted automatically, unless it is asked for by name.

    One that was also confirmed, with another configuration, is refused only with that which was bad: as a `release`,
    whose id is known once it is configured.
    """
    if fleet.inputs.get("retry_bad"):
        return []
    sha = str(fleet.inputs.get("sha") or "")
    records = [(host, item) for host, item in records_of(fleet, sha) if release in ("", item.get("id"))]
    bad = [(host, item) for host, item in records if item.get("state") == "bad"]
    if not bad or any(item.get("state") == "confirmed" for _, item in records):
        return []
    host, item = bad[0]
    why = str(item.get("reason") or "an earlier deploy of it was reverted")
    return [
        Problem(
            "stage" if release else "preflight",
            host,
            f"{sha[:12]} is marked bad{' with this configuration' if release else ''}",
            why,
            f"deploy another commit, or the same again: -e sha={sha[:12]} -e retry_bad=true",
        )
    ]


def judge_reverts(fleet: Fleet) -> list[Problem]:
    """Refuse a deploy after several that were reverted: what all releases depend on may be broken."""
    most, count = int(fleet.inputs.get("max_reverts") or 0), reverts(fleet)
    if not most or count < most or fleet.inputs.get("after_reverts"):
        return []
    what = f"the last {count} deploys were reverted" if count > 1 else "the last deploy was reverted"
    why = "a database or service that every release uses may be the reason (rollout_max_reverts)"
    todo = f"look at it, then the same again: -e sha={sha(fleet)[:12]} -e after_reverts=true"
    return [Problem("preflight", "", what, why, todo)]


def reverts(fleet: Fleet) -> int:
    """Releases that were reverted as bad since one was confirmed."""
    return max((int(fleet.status(host).get("reverts") or 0) for host in fleet.hosts), default=0)


def left_behind(fleet: Fleet, phase: str) -> list[Problem]:
    """Hosts that missed a round: the play lost them, and their last answer is an old one."""
    rounds = {host: len(found.get("rounds") or []) for host in fleet.hosts if (found := fleet.sums(phase, host))}
    most = max(rounds.values(), default=0)
    return [
        Problem(phase, host, "gave no answer", "it was lost from the play", "ansible-playbook status.yml")
        for host, count in rounds.items()
        if count < most
    ]


def judge_traffic(fleet: Fleet, phase: str) -> list[Problem]:
    """What visitors got: a release that fails goes back, and so does a canary of which too little is known."""
    verdict = fleet.canary if phase == "canary" else fleet.watch
    reasons = verdict.reasons or ("",)
    why = (
        " · ".join(reasons[1:]) or f"judged by {judging.counted(judging.requests(verdict.new), 'request')} of visitors"
    )
    if verdict.verdict == judging.FAIL:
        return [Problem(phase, "", reasons[0], why, code=CHECK_FAILED)]
    if verdict.verdict == judging.INCONCLUSIVE and phase == "canary" and not goes_on(fleet):
        todo = "a longer canary or a larger share (-e canary=25 -e watch=300), or -e inconclusive=go_on"
        if reasons[0] in judge_kpis(fleet, phase)[1]:
            todo = "look at judge_kpis and its source, then the same again, or -e inconclusive=go_on"
        return [Problem(phase, "", f"inconclusive: {reasons[0]}", why, todo)]
    return []


def goes_on(fleet: Fleet) -> bool:
    """Whether a canary without a verdict is taken for a pass."""
    return judge_settings(fleet).get("inconclusive") == "go_on"


def judge_stage(fleet: Fleet) -> list[Problem]:
    """Whether one artifact and one configuration became one release everywhere, and it is not a bad one."""
    found = {
        host: release for host in fleet.hosts if (release := fleet.step("stage", host, "configure").get("release"))
    }
    if len(set(found.values())) > 1:
        why = ", ".join(f"{host} {release}" for host, release in found.items())
        return [
            Problem(
                "stage",
                "",
                "the hosts made different releases of one artifact",
                why,
                "make their settings equal (host_vars?), then ansible-playbook provision.yml",
            )
        ]
    return judge_bad(fleet, next(iter(found.values()))) if found else []


# what the fleet does


def fence(fleet: Fleet) -> int | None:
    """The generation of this run: higher than any host has seen. None before every host has said its own."""
    leases = [fleet.step("preflight", host, "lease") for host in fleet.hosts]
    seen = [lease.get("fence") for lease in leases]
    known = [value for value in seen if isinstance(value, int)]
    if not known or len(known) != len(fleet.hosts):
        return None
    granted = [value for lease in leases if isinstance(value := lease.get("generation"), int)]
    return max([max(known) + 1, *granted])


def release(fleet: Fleet) -> str | None:
    """The release this run is about, once it is known."""
    if fleet.rollback:
        try:
            return str(fleet.target["release"])
        except Refused:
            return None
    found = [fleet.step("stage", host, "configure").get("release") for host in fleet.hosts]
    return next((str(value) for value in found if value), None) or (known_release(fleet) if fleet.check else None)


def known_release(fleet: Fleet) -> str | None:
    """A release of this artifact that the migration host has from before; its migrations are the same."""
    stem = (fleet.inputs.get("artifact") or {}).get("stem")
    rows = fleet.status(fleet.migration_host).get("releases") or []
    return next((str(row["id"]) for row in rows if row.get("artifact") == stem and row.get("complete")), None)


def judged_release(fleet: Fleet) -> str | None:
    """The release whose migrations are looked at: in check mode one that is there, if this one is not."""
    made = fleet.step("stage", fleet.migration_host, "configure")
    missing = fleet.check and not fleet.rollback and made.get("changed")
    return known_release(fleet) if missing else release(fleet)


def sha(fleet: Fleet) -> str:
    """The commit this run is about; empty while unknown."""
    if not fleet.rollback:
        return str(fleet.inputs.get("sha") or "")
    try:
        return str(fleet.target["sha"])
    except Refused:
        return ""


def warm(fleet: Fleet, host: str) -> bool:
    """Whether the release of this run still runs on the host, on either colour."""
    status, wanted = fleet.status(host), release(fleet)
    live, idle = status.get("live") or {}, status.get("idle") or {}
    return wanted is not None and (
        live.get("release") == wanted or (idle.get("release") == wanted and bool(idle.get("running")))
    )


def nothing_to_do(fleet: Fleet) -> bool:
    """Whether every host serves exactly this release already."""
    wanted = release(fleet)
    if (
        fleet.rollback
        or fleet.restoring
        or wanted is None
        or not all(fleet.passed("stage", host) for host in fleet.hosts)
    ):
        return False
    return all((fleet.status(host).get("live") or {}).get("release") == wanted for host in fleet.hosts)


def verdicts(fleet: Fleet) -> list[Mapping[str, Any]] | None:
    """The pending migrations with their verdicts, one object each; None before they were looked at."""
    if not fleet.of("plan_migrations", fleet.migration_host):
        return None
    found = fleet.step("plan_migrations", fleet.migration_host, "migrate")
    if found.get("migrations"):
        return list(found["migrations"])
    names = [str(name).partition(".") for name in found.get("pending") or []]
    return [{"app": app, "name": name, "verdict": "unjudged"} for app, _, name in names]


def pending_migrations(fleet: Fleet) -> list[str]:
    """The migrations that the plan found."""
    return list(fleet.step("plan_migrations", fleet.migration_host, "migrate").get("pending") or [])


def late_migrations(fleet: Fleet) -> list[str]:
    """Those of the pending ones that were named to run once the release is confirmed."""
    return list(fleet.step("plan_migrations", fleet.migration_host, "migrate").get("late") or [])


def confirmed_on(fleet: Fleet, host: str) -> bool:
    """Whether a host has made the switch final, whatever came after that in the same call."""
    decided = fleet.step("revert", host, "revert").get("decided")
    return bool(fleet.step("confirm", host, "confirm")) or decided == "COMMIT"


def committed(fleet: Fleet) -> bool:
    """Whether the switch is final: no host confirms before all have passed, and one that has cannot go back."""
    return any(confirmed_on(fleet, host) for host in fleet.hosts)


def moved(fleet: Fleet) -> list[str]:
    """Hosts whose visitors this run has moved, or of which that is not known: a refusal alone moves nobody."""
    found = []
    for host in fleet.hosts:
        for phase in ("canary", "switch"):
            answers = fleet.of(phase, host)
            refused = any((answer.get("error") or {}).get("code") in REFUSALS for answer in answers)
            routed = fleet.step(phase, host, "route") or fleet.sums(phase, host)
            if answers and (routed or not refused) and host not in found:
                found.append(host)
    return found


def unfinished(fleet: Fleet) -> list[str]:
    """Hosts that have not said that they confirmed a switch that is final."""
    return [host for host in fleet.hosts if not confirmed_on(fleet, host)] if committed(fleet) else []


def runs(fleet: Fleet, phase: str, host: str, part: str = "") -> bool:
    """Whether a phase (or its part: first, rest) runs on a host, given everything so far."""
    first = host == fleet.migration_host
    if phase == "manage":
        return first
    if phase not in PHASES:
        raise ValueError(f"{phase} is not a phase")
    if part == "first" and not first:
        return False
    if phase == "preflight":
        return True
    if phase == "settle":
        # a confirmation that went well has settled in the same call
        begun = bool(fleet.step("preflight", host, "lease").get("lease"))
        goes_on = undoes(fleet, "after") or bool(late_migrations(fleet))
        return begun and not fleet.check and (goes_on or not fleet.passed("confirm", host))
    if phase in ("revert", *WINDOW_ENDS):
        reverts_now = phase == "revert" and bool(moved(fleet)) and bool(problems(fleet, "revert"))
        return reverts_now or (phase != "revert" and ends_window(fleet, phase, host))
    if fleet.check and phase not in DRY and phase != "restore":  # which says what is lost
        return False
    if phase in SINGLE and not first:
        return False
    blocked = problems(fleet, phase)
    if part == "rest":
        blocked += host_problems(fleet, phase, fleet.migration_host)
    if phase in WATCHED and fleet.ran(phase):  # another round, as long as nobody has failed in one
        blocked += [problem for each in fleet.hosts for problem in host_problems(fleet, phase, each)]
        blocked += judge_traffic(fleet, phase) + left_behind(fleet, phase)
    if phase == "canary" and host not in canary_hosts(fleet):
        return False
    return not blocked and wanted(fleet, phase)


def phase_hosts(fleet: Fleet, phase: str, part: str = "") -> list[str]:
    """The hosts on which a phase runs."""
    return [host for host in fleet.hosts if runs(fleet, phase, host, part)]


def wanted(fleet: Fleet, phase: str) -> bool:
    """Whether a phase has anything to do in this run, if nothing went wrong."""
    if phase == "restore" or fleet.restoring:
        return phase == "restore" and fleet.restoring
    if phase in UNDOING:
        return wants_undo(fleet, phase)
    if phase in LATE:
        return wants_late(fleet, phase)
    if fleet.rollback:
        if not wanted_back(fleet, phase):
            return False
    elif phase != "stage" and nothing_to_do(fleet):
        # the release is live: what was named to run late, and has not, is looked at again
        return phase == "plan_migrations" and bool((fleet.inputs.get("migrations") or {}).get("late"))
    if phase == "plan_migrations" and judged_release(fleet) is None:
        return False
    if phase in ("maintenance", "migrate"):
        return bool(pending_migrations(fleet)) if phase == "migrate" else opens_window(fleet)
    if phase == "canary":
        return bool(canary_hosts(fleet)) and canary_position(fleet)[0] < len(canary_steps(fleet))
    if phase == "watch":
        return min(fleet.watched(host) for host in fleet.hosts) < watch_seconds(fleet) - 0.5
    return True


def wanted_back(fleet: Fleet, phase: str) -> bool:
    """Whether a rollback needs a phase at all."""
    if phase != "preflight" and (phase in ROLLBACK_SKIPS or staying(fleet) or in_window(fleet)):
        return False
    # who asks for a watch wants the background processes of the target to answer in it
    warm_everywhere = not watch_seconds(fleet) and all(warm(fleet, host) for host in fleet.hosts)
    return phase not in ("start", "smoke") or not warm_everywhere


def undoes(fleet: Fleet, moment: str) -> bool:
    """Whether this rollback undoes migrations `after` the switch, or `before` it."""
    planned = fleet.step("plan_undo", fleet.migration_host, "undo")
    return bool(planned.get("undoes")) and planned.get("when") == moment


def staying(fleet: Fleet) -> bool:
    """Whether the target of a rollback is live already everywhere: only its schema follows."""
    return bool(fleet.inputs.get("schema")) and all(
        (fleet.status(host).get("live") or {}).get("release") == release(fleet) for host in fleet.hosts
    )


def wants_undo(fleet: Fleet, phase: str) -> bool:
    """Whether a phase that undoes migrations has anything to do: after the switch only where nobody needs them."""
    if not fleet.rollback or not fleet.inputs.get("schema"):
        return False
    if phase == "plan_undo":
        return True
    if phase == "undo_first":
        return undoes(fleet, "before")
    return undoes(fleet, "after") and (staying(fleet) or all(fleet.passed("confirm", host) for host in fleet.hosts))


def wants_late(fleet: Fleet, phase: str) -> bool:
    """Whether late migrations are to run: once every host has confirmed, and has let go of older releases."""
    if not late_migrations(fleet):
        return False
    there = nothing_to_do(fleet) or all(fleet.passed("confirm", host) for host in fleet.hosts)
    return there and (
        phase == "migrate_late_ready" or all(fleet.passed("migrate_late_ready", host) for host in fleet.hosts)
    )


def late_left(fleet: Fleet) -> bool:
    """Whether the release is live, and its late migrations did not all run."""
    served = committed(fleet) or nothing_to_do(fleet)
    named = served and not fleet.check and not fleet.rollback and bool(late_migrations(fleet))
    return named and not fleet.passed("migrate_late", fleet.migration_host)


def half_done(fleet: Fleet) -> bool:
    """Whether visitors are on the target, and its schema did not follow."""
    if late_left(fleet):
        return True
    served = committed(fleet) or staying(fleet)
    return served and undoes(fleet, "after") and not fleet.check and not fleet.passed("undo", fleet.migration_host)


def holds(fleet: Fleet, condition: str, host: str) -> bool:
    """Whether the condition of a single step (`only`) holds on a host."""
    if condition == "not_first":
        return host != fleet.migration_host
    if condition == "for_real":
        return not fleet.check
    if condition in ("deploy", "rollback"):
        return fleet.rollback == (condition == "rollback")
    if condition in ("undoes", "ends"):
        goes_on = undoes(fleet, "after") or (condition == "ends" and bool(late_migrations(fleet)))
        return goes_on == (condition == "undoes")
    if condition == "serving":
        return confirmed_on(fleet, host) or nothing_to_do(fleet)
    if condition == "failed":
        return bool(fleet.of("start", host)) and not committed(fleet)
    if condition == "drift":
        return bool(fleet.status(host).get("drift"))
    if condition in ("canary", "judged"):
        return judged(fleet) if condition == "judged" else bool(canary_steps(fleet))
    if condition in ("new_share", "same_share"):
        return canary_position(fleet)[1] == (condition == "new_share")
    if condition == "lease_named":
        return bool(fleet.inputs.get("lease"))
    if condition == "had_live":
        serves = not fleet.status(host).get("outdated") and not in_maintenance(fleet, host)
        return bool(fleet.status(host).get("live")) and serves
    raise ValueError(f"{condition} is not a condition")


# canary and watch


def judge_settings(fleet: Fleet) -> Mapping[str, Any]:
    """The settings judge_* of this run, without their prefix."""
    found = fleet.inputs.get("judge")
    return found if isinstance(found, Mapping) else {}


def judged(fleet: Fleet) -> bool:
    """Whether what visitors get is judged: not in a rollback, where the window before is a bad release's."""
    return (
        bool(judge_settings(fleet)) and not fleet.rollback and (watch_seconds(fleet) > 0 or bool(canary_steps(fleet)))
    )


def canary_steps(fleet: Fleet) -> list[int]:
    """The shares of the canary, in percent and rising; none without one, and in a rollback."""
    return [] if fleet.rollback or opens_window(fleet) else [int(share) for share in fleet.inputs.get("canary") or []]


def canary_seconds(fleet: Fleet) -> float:
    """How long each step of the canary is judged."""
    return float(fleet.inputs.get("canary_watch") or 0)


def canary_hosts(fleet: Fleet) -> list[str]:
    """The hosts that share their visitors: those with a live release that is not this one already."""
    if not canary_steps(fleet):
        return []
    wanted = release(fleet)
    return [
        host
        for host in fleet.hosts
        if holds(fleet, "had_live", host) and fleet.status(host)["live"].get("release") != wanted
    ]


def canary_position(fleet: Fleet) -> tuple[int, bool]:
    """The step of the next round, counted from 0, and whether it begins with it."""
    sums = [fleet.sums("canary", host) for host in canary_hosts(fleet)]
    if not sums or not all(sums):
        return 0, True
    step = min(int(found["step"]) for found in sums)
    return (step + 1, True) if canary_spent(fleet) >= canary_seconds(fleet) - 0.5 else (step, False)


def canary_spent(fleet: Fleet) -> float:
    """Seconds that the step has lasted on every host. While a round runs some may have begun the next step already."""
    sums = [found for host in canary_hosts(fleet) if (found := fleet.sums("canary", host))]
    step = min((int(found["step"]) for found in sums), default=0)
    return min((float(found["spent"]) for found in sums if int(found["step"]) == step), default=0.0)


def rounds_of(seconds: float, parts: Sequence[Mapping[str, Any]]) -> int:
    """How many rounds a step or watch has, about; more where a short time-to-live makes them shorter."""
    done = max((int(part.get("looks") or 0) for part in parts), default=0)
    return max(1, done, -int(-seconds // max(ROUND, seconds / ROUNDS)))


def judge_step(fleet: Fleet) -> judging.Verdict:
    """The verdict on the canary's step so far, from all hosts' rounds."""
    seconds, spent = canary_seconds(fleet), canary_spent(fleet)
    steps, done = len(canary_steps(fleet)), spent >= seconds - 0.5
    parts = [fleet.sums("canary", host) for host in canary_hosts(fleet)]
    plan = judging.Plan(seconds, spent, rounds_of(seconds, parts), max(1, steps), done)
    said = judging.judge_canary(parts, judging.limits(judge_settings(fleet)), plan)
    return judging.with_kpis(said, *judge_kpis(fleet, "canary"), done)


def judge_watch(fleet: Fleet) -> judging.Verdict:
    """The verdict on the watch so far, against the window before the switch."""
    if not judged(fleet):
        return judging.Verdict(judging.PASS)
    seconds, spent = watch_seconds(fleet), min(fleet.watched(host) for host in fleet.hosts)
    parts = [fleet.sums("watch", host) for host in fleet.hosts]
    plan = judging.Plan(seconds, spent, rounds_of(seconds, parts), 1, spent >= seconds - 0.5)
    said = judging.judge_watch(parts, window_before(fleet), judging.limits(judge_settings(fleet)), plan)
    return judging.with_kpis(said, *judge_kpis(fleet, "watch"), plan.done)


def window_before(fleet: Fleet) -> list[Mapping[str, Any]]:
    """What visitors got from each host's live release before the switch, by group of paths."""
    found = []
    for host in fleet.hosts:
        colours = fleet.step("switch", host, "before").get("colours") or {}
        found.append(colours.get(judging.other(new_colour(fleet, host))) or {})
    return found


def new_colour(fleet: Fleet, host: str) -> str:
    """The colour of the new release on a host; empty before it was routed."""
    for phase in ("switch", "canary"):
        found = fleet.step(phase, host, "route").get("colour") or fleet.sums(phase, host).get("colour")
        if found:
            return str(found)
    return ""


def carry(fleet: Fleet, phase: str, host: str, answer: Result) -> dict[str, Any]:
    """What a round adds to what its host has measured: {watched, judged}. `fleet`: before this round."""
    results, took = answer.get("results") or {}, max(0.5, float(answer.get("seconds") or 0))
    found: dict[str, Any] = {"watched": fleet.watched(host) + took} if phase == "watch" else {}
    earlier, measured = fleet.sums(phase, host), results.get("measure")
    if not isinstance(measured, Mapping):
        return found | ({"judged": json.dumps(earlier)} if earlier else {})
    step, begins = canary_position(fleet) if phase == "canary" else (0, not earlier)
    share = canary_steps(fleet)[step] if phase == "canary" else 100
    colour = str((results.get("route") or {}).get("colour") or new_colour(fleet, host))
    before: Mapping[str, Any] = {} if begins else earlier
    factor = judging.limits(judge_settings(fleet)).latency_factor
    sums = judging.add_round(before, measured.get("colours") or {}, colour, factor)
    spent = float(before.get("spent") or 0) + took
    roles = {"new": colour, "live": judging.other(colour)}
    one: dict[str, Any] = {
        role: judging.merge((measured.get("colours") or {}).get(name, {}).values()) for role, name in roles.items()
    }
    one |= {"share": share, "spent": round(spent, 1), "at": measured.get("until")}
    kept = {
        **sums,
        "step": step,
        "share": share,
        "spent": spent,
        "colour": colour,
        "cursor": measured.get("cursor") or earlier.get("cursor"),
        "unreadable": measured.get("unreadable") or before.get("unreadable") or "",
        "rounds": [*with_verdict(fleet, phase, earlier.get("rounds") or []), one],
    }
    return found | {"judged": json.dumps(kept)}


def with_verdict(fleet: Fleet, phase: str, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A host's rounds, the last of them with the verdict after it; as they are where others are a round ahead."""
    known = {len(found["rounds"]) for host in fleet.hosts if (found := fleet.sums(phase, host)).get("rounds")}
    return [*rows[:-1], {**rows[-1], **judgement(fleet, phase)}] if rows and known == {len(rows)} else list(rows)


def judgement(fleet: Fleet, phase: str) -> dict[str, Any]:
    """The verdict so far in a canary or watch: {verdict, reasons}; before the end, what it still lacks for a pass."""
    said = fleet.canary if phase == "canary" else fleet.watch
    return {"verdict": said.verdict, "reasons": list(said.reasons or said.doubts)}


def round_line(fleet: Fleet, phase: str) -> str:
    """The line that a person sees after a round; empty if a host has failed in it, or nothing is judged."""
    if not judged(fleet) or not fleet.ran(phase) or any(host_problems(fleet, phase, host) for host in fleet.hosts):
        return ""
    one = figures.at_round(fleet.asked.get(phase, ()), rounds_done(fleet, phase))
    # those that end a run without having been asked once more are silent: its line says why it ends
    told = [figures.words(kpi, one) for kpi in kpis(fleet, phase)] if one else []
    if phase == "watch":
        spent = min(fleet.watched(host) for host in fleet.hosts)
        return judging.round_line("watch", spent, fleet.watch, "before", told)
    shares = [int(fleet.sums("canary", host).get("share") or 0) for host in canary_hosts(fleet)]
    return judging.round_line(f"canary {min(shares, default=0)} %", canary_spent(fleet), fleet.canary, told=told)


# KPIs


def kpis(fleet: Fleet, phase: str) -> list[figures.Kpi]:
    """The KPIs that are judged in a canary or watch; none in a rollback."""
    return figures.concerned(judge_settings(fleet).get("kpis") or [], phase) if judged(fleet) else []


def rounds_done(fleet: Fleet, phase: str) -> int:
    """The rounds of a canary or watch so far."""
    return max((len(fleet.sums(phase, host).get("rounds") or []) for host in fleet.hosts), default=0)


def judge_kpis(fleet: Fleet, phase: str) -> tuple[list[str], list[str]]:
    """Why the KPIs fail, and why they prove nothing."""
    return figures.judge(kpis(fleet, phase), fleet.asked.get(phase, ()), rounds_done(fleet, phase))


def asks(fleet: Fleet, phase: str, host: str, hosts: Sequence[str]) -> bool:
    """Whether it is on this host's turn that the controller asks for KPIs: once a round, on the first of `hosts`."""
    return bool(kpis(fleet, phase)) and host == next((one for one in fleet.hosts if one in hosts), None)


def worth_asking(fleet: Fleet, phase: str) -> bool:
    """Whether anything depends on the KPIs: where the fleet goes back anyway, nothing may hold that up."""
    lost = any(host_problems(fleet, phase, host) for host in fleet.hosts)
    if lost or left_behind(fleet, phase) or not rounds_done(fleet, phase):
        return False
    return (fleet.canary if phase == "canary" else fleet.watch).verdict != judging.FAIL


def kpi_values(fleet: Fleet, phase: str) -> dict[str, str]:
    """What stands for the placeholders of a query; empty where it is not known, or not the same on all hosts."""
    colours = {colour for host in fleet.hosts if (colour := new_colour(fleet, host))}
    new = colours.pop() if len(colours) == 1 else ""
    spent = canary_spent(fleet) if phase == "canary" else min(fleet.watched(host) for host in fleet.hosts)
    return {
        "app": str(fleet.inputs.get("app") or ""),
        "sha": sha(fleet),
        "release": release(fleet) or "",
        "colour_new": new,
        "colour_live": judging.other(new) if new else "",
        "window": f"{max(1, round(spent))}s",
    }


def kpi_questions(fleet: Fleet, phase: str) -> list[tuple[str, str, list[str]]]:
    """What to ask in this round: name, query, and the placeholders that are not known."""
    values = kpi_values(fleet, phase)
    return [(kpi["name"], *figures.fill(kpi["query"], values)) for kpi in kpis(fleet, phase)]


def carry_kpis(fleet: Fleet, phase: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the answers of a round add to those before: {asked}. None, where it was not worth asking."""
    one = [{"round": rounds_done(fleet, phase), "kpis": list(samples)}] if samples else []
    return {"asked": json.dumps({"rounds": [*fleet.asked.get(phase, ()), *one]})}


# where a rollback goes


def live_releases(statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """What is live on each host that has a live release."""
    return {host: status["live"] for host, status in statuses.items() if status.get("live")}


def order_of(statuses: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Each release's place in the order of confirmations: the highest that any host knows."""
    order: dict[str, int] = {}
    for status in statuses.values():
        for item in status.get("releases") or []:
            order[item["id"]] = max(order.get(item["id"], 0), int(item.get("confirmed_fence") or 0))
    return order


def states_of(statuses: Mapping[str, Mapping[str, Any]], identity: str) -> dict[str, str]:
    """A release's state on each host; `missing` where it is not complete."""
    found = {}
    for host, status in statuses.items():
        item = next((item for item in status.get("releases") or [] if item["id"] == identity), None)
        found[host] = str(item.get("state")) if item and item.get("complete") else "missing"
    return found


def candidates(statuses: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where a rollback may go: confirmed and complete on every host, older than the live release, newest first."""
    order = order_of(statuses)
    live = live_releases(statuses)
    if not live:
        return []
    newest = max((order.get(item["release"], int(item.get("fence") or 0)), item["release"]) for item in live.values())
    good = [identity for identity in order if set(states_of(statuses, identity).values()) == {"confirmed"}]
    older = [identity for identity in good if order[identity] < newest[0] and identity != newest[1]]
    return sorted(older, key=lambda identity: (order[identity], identity), reverse=True)


def choose_target(statuses: Mapping[str, Mapping[str, Any]], to: str | None, stay: bool = False) -> dict[str, str]:
    """The release that all hosts roll back to: {release, sha}. Raises Refused, naming the candidates.

    stay: the live one may be named, because its schema is to follow it.

    Without `to`: the newest confirmed release older than the live one that every host has. If hosts differ in what is
    live, the newest of those counts as live. Never a release that is bad or rolled back on any host.
    """
    shas = {item["id"]: str(item.get("sha")) for status in statuses.values() for item in status.get("releases") or []}
    live = live_releases(statuses)
    if not live:
        raise Refused(
            "there is nothing to roll back from", "no release is live", "ansible-playbook deploy.yml -e sha=…"
        )
    possible = candidates(statuses)
    names = ", ".join(dict.fromkeys(shas[identity][:12] for identity in possible)) or "none"
    if to is None:
        if not possible:
            raise Refused(
                "there is nothing to roll back to",
                "no older confirmed release is on every host",
                "deploy a good commit: ansible-playbook deploy.yml -e sha=…",
            )
        return {"release": possible[0], "sha": shas[possible[0]]}
    matching = [identity for identity, commit in shas.items() if identity == to or commit.startswith(to)]
    serving = {item["release"] for item in live.values()}
    if len(live) == len(statuses) and len(serving) == 1 and (serving & set(matching)):
        if stay:
            return {"release": (here := serving.pop()), "sha": shas[here]}
        raise Refused(
            f"{to} is already live on every host",
            "a rollback to it would change nothing",
            f"leave -e to= out to go one back; candidates: {names}",
        )
    if len({shas[identity] for identity in matching}) > 1:
        raise Refused(
            f"{to} is ambiguous",
            " and ".join(sorted({shas[identity] for identity in matching})),
            "give more characters",
        )
    order = order_of(statuses)
    for identity in sorted(matching, key=lambda identity: (order[identity], identity), reverse=True):
        if set(states_of(statuses, identity).values()) == {"confirmed"}:
            return {"release": identity, "sha": shas[identity]}
    raise Refused(
        f"a rollback to {to} is not possible",
        why_not(statuses, matching),
        f"candidates: {names}; or deploy it: -e sha={to[:40]}",
    )


def why_not(statuses: Mapping[str, Mapping[str, Any]], matching: Sequence[str]) -> str:
    """Why none of the releases can be a target."""
    for identity in matching:
        for host, state in states_of(statuses, identity).items():
            if state == "missing":
                return f"{host} does not have it"
            if state != "confirmed":
                words = {
                    "bad": "it is marked bad",
                    "rolled_back": "it was rolled back",
                    "staged": "it was never confirmed",
                }
                return f"{words.get(state, state)} ({host})"
    return "no host has it"


# the steps of a phase, completed


def prepare(
    steps: Sequence[Mapping[str, Any]], fleet: Fleet, host: str, given: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The steps as the host tool takes them: conditions resolved, and what every call needs filled in.

    `given` holds what must not stand in a task's arguments: {artifact, config, session}.
    """
    chosen = [dict(step) for step in steps if not step.get("only") or holds(fleet, step["only"], host)]
    configured = next((str(call.get("id", "configure")) for call in chosen if call["verb"] == "configure"), None)
    ttl = next((float(call["ttl"]) for call in chosen if call["verb"] in ("extend", "route")), 0.0)
    for call in chosen:
        call.pop("only", None)
        verb = call["verb"]
        if verb in NEEDS_RELEASE:
            fill_release(call, fleet, configured)
        if verb == "smoke":
            fill_smoke(call, fleet, host, given.get("session"), ttl)
        if verb == "route" and call.get("share") == "canary":
            call["share"] = canary_steps(fleet)[canary_position(fleet)[0]]
        if verb == "measure":
            fill_measure(call, fleet, host)
        call |= filled(call, fleet, given)
    return chosen


def fill_release(call: dict[str, Any], fleet: Fleet, configured: str | None) -> None:
    """Name the release: the one an earlier step of the same call makes, or the one the fleet agreed on."""
    if call.get("release") or (call["verb"] == "smoke" and call.get("target") == "live"):
        return
    known = judged_release(fleet) if call["verb"] == "migrate" else release(fleet)
    call["release"] = {"from": configured, "key": "release"} if configured else known


def fill_smoke(call: dict[str, Any], fleet: Fleet, host: str, session: Mapping[str, str] | None, ttl: float) -> None:
    """One host signs in, the others use its session; `during: watch` lasts one round of the watch."""
    call.setdefault("role", "first" if host == fleet.migration_host else "other")
    if call.get("session") == "shared":
        call["session"] = session if call["role"] == "other" else None
    if call.get("during") == "watch":
        call["during"] = round_seconds(watch_seconds(fleet), fleet.watched(host), ttl)
    elif call.get("during") == "canary":
        spent = 0.0 if canary_position(fleet)[1] else float(fleet.sums("canary", host).get("spent") or 0)
        call["during"] = max(0.5, round_seconds(canary_seconds(fleet), spent, ttl))
    elif fleet.rollback and call.get("target") == "front":
        # it passed its checks when it was confirmed, and its workers are just starting: who answers is enough
        call["checks"] = []


def fill_measure(call: dict[str, Any], fleet: Fleet, host: str) -> None:
    """Read on where the last round ended; `window: watch` reads back as far as the watch will last."""
    call["groups"] = list(judge_settings(fleet).get("groups") or [])
    phase = call.pop("of", None)
    if phase in WATCHED:
        earlier = fleet.sums(phase, host)
        call["cursor"] = earlier.get("cursor")
        call["known"] = sorted(set(earlier.get("new") or {}) | set(earlier.get("live") or {}))
    if call.get("window") == "watch":
        call["window"] = min(WINDOW, max(ROUND, watch_seconds(fleet)))


def watch_seconds(fleet: Fleet) -> float:
    """How long the new release is watched before it is confirmed."""
    return float(fleet.inputs.get("watch") or 0)


def round_seconds(watch: float, watched: float, ttl: float) -> float:
    """How long the next round of the watch lasts: well below the time-to-live, which each round renews."""
    return min(watch - watched, max(ROUND, watch / ROUNDS), max(1.0, ttl / 2))


NEEDS_RELEASE = ("check", "migrate", "start", "route", "extend", "confirm", "smoke")


def filled(call: Mapping[str, Any], fleet: Fleet, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the plugin adds to a step of each verb."""
    match call["verb"]:
        case "stage":
            return dict(given["artifact"])
        case "configure":
            return {"artifact": fleet.inputs["artifact"]["stem"], "config": given["config"]}
        case "route":
            kind = "rollback" if fleet.rollback else "deploy"
            return {"kind": kind, "fresh": fleet.rollback, "ttl": float(call["ttl"])}
        case "extend":
            return {"ttl": float(call["ttl"])}
        case "decide":
            return {"release": release(fleet), "without": list(fleet.inputs.get("without") or [])}
        case "lease":
            return filled_lease(str(call.get("action")), fleet)
        case "revert":
            return revert_words(fleet)
        case "note":
            return {"event": str(fleet.inputs.get("verb")), "details": history(fleet)}
        case "processes":
            # a deploy waits until the old background processes have finished; a rollback lets them finish alone
            return {"wait": call.get("wait", not fleet.rollback or undoes(fleet, "after"))}
        case "maintenance" | "manage" as verb:
            about = {"why": f"deploy of {sha(fleet)[:12]}"} if call.get("action") == "begin" else {"checked": True}
            return {"command": fleet.inputs["command"]} if verb == "manage" else about
        case "migrate" | "undo" | "restore" as verb:
            return filled_data(verb, fleet)
    return {}


def filled_lease(action: str, fleet: Fleet) -> dict[str, Any]:
    """What the plugin adds to a step that is about the lease."""
    if action == "take":
        # a rollback does not need to look at background processes
        about = {"run_url": fleet.inputs.get("run_url") or "", "process": str(fleet.inputs.get("process") or "")}
        return {"what": str(fleet.inputs.get("what")), "brief": fleet.rollback, **about}
    return {"lease": str(fleet.inputs.get("lease"))} if action == "break" else {}


def filled_data(verb: str, fleet: Fleet) -> dict[str, Any]:
    """What the plugin adds to a step that is about the databases."""
    options = dict(fleet.inputs.get("migrations") or {})
    if verb == "restore":
        databases = options.get("databases") or {}
        return {"snapshot": fleet.inputs["snapshot"], "accept": fleet.inputs["accept"], "databases": databases}
    return {"to": release(fleet), **options} if verb == "undo" else options


def revert_words(fleet: Fleet) -> dict[str, Any]:
    """Why hosts go back, and whether the release is to blame: an unreachable host proves nothing about it."""
    found = problems(fleet, "revert")
    to_blame = [problem for problem in found if problem.phase in REVERTIBLE and problem.code == CHECK_FAILED]
    why = " · ".join(f"{problem.host or 'fleet'}: {problem.what}" for problem in found[:3])
    return {"why": why or "the controller asked for it", "bad": bool(to_blame) and not fleet.rollback}


def history(fleet: Fleet) -> dict[str, Any]:
    """The line for the hosts' history."""
    found = problems(fleet, "settle")
    details: dict[str, Any] = {
        "outcome": ending(fleet),
        "sha": sha(fleet),
        "release": release(fleet),
        "by": fleet.inputs.get("holder"),
    }
    if unjudged(fleet):
        details["judged"] = f"unjudged: {unjudged(fleet)}"
    if found:
        details["problem"] = f"{found[0].host or 'fleet'}: {found[0].what}"
    return {key: value for key, value in details.items() if value}


def unjudged(fleet: Fleet) -> str:
    """Why a release was confirmed though its visitors' requests say nothing about it; empty if they do."""
    if not judged(fleet) or not watch_seconds(fleet) or not fleet.ran("watch"):
        return ""
    return " · ".join(fleet.watch.reasons) if fleet.watch.verdict == judging.INCONCLUSIVE else ""


# how it ended


def ending(fleet: Fleet) -> str:
    """One word for the end.

    live, rolled back, reopened, undone, migrated, restored, nothing to do, planned; half done (the schema did not
    follow); or refused (nothing was changed), failed (before the switch), reverted.
    Asked during the confirmation, which writes it into the history, it says how the run ends if that goes well.
    """
    found = problems(fleet, "settle")
    if fleet.restoring:
        return restored(fleet, found)
    if half_done(fleet):
        return "half done"
    if fleet.rollback and in_window(fleet) and not found:
        return "reopened" if not page_stays(fleet) else "failed"
    if found and moved(fleet):
        return "reverted"
    if found:
        early = not any(fleet.ran(phase) for phase in ("start", "migrate"))
        return "refused" if early and all(problem.phase == "preflight" for problem in found) else "failed"
    if fleet.check:
        return "planned"
    if nothing_to_do(fleet):
        return "migrated" if fleet.passed("migrate_late", fleet.migration_host) else "nothing to do"
    if fleet.rollback and staying(fleet):
        return "undone" if undoes(fleet, "after") else "nothing to do"
    if committed(fleet) or (fleet.ran("switch") and not fleet.ran("confirm")):
        return "rolled back" if fleet.rollback else "live"
    return "failed"


def restored(fleet: Fleet, found: Sequence[Problem]) -> str:
    """How a restore ended."""
    if found:
        return (
            "refused"
            if all(problem.code in REFUSALS or problem.phase == "preflight" for problem in found)
            else "failed"
        )
    return "planned" if fleet.check else "restored"


def before(fleet: Fleet) -> str:
    """What the fleet served when this run began: a sha, `nothing`, or several."""
    shas = sorted(
        {
            str((fleet.status(host).get("live") or {}).get("sha") or "nothing")[:12]
            for host in fleet.hosts
            if fleet.status(host)
        }
    )
    return " and ".join(shas) or "nothing"


def still_there(fleet: Fleet) -> list[str]:
    """Hosts of which it is not known that they went back."""
    return [host for host in moved(fleet) if not fleet.passed("revert", host)]
