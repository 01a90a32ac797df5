"""What the operator reads."""

from __future__ import annotations

import pytest

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_text as text
from tests.unit.plugins import test_fleet as made

SWITCH_FAILED = made.UP_TO_SMOKE | {"switch": {"web1": made.answer(), "web2": made.failed(), "web3": made.answer()}}


@pytest.mark.parametrize(("value", "words"), [(0.04, "0.0 s"), (2.14, "2.1 s"), (75, "75 s"), (200, "3 min 20 s")])
def test_durations(value: float, words: str) -> None:
    assert text.seconds(value) == words


def test_a_phase_is_one_line() -> None:
    line = text.phase_line("Stage", 3, 2.13, "image 25 MB sent to web1, web2")
    assert line == "  Stage           3 hosts       2.1 s   image 25 MB sent to web1, web2"


def test_a_failure_is_three_lines_whatever_the_host_said() -> None:
    lines = text.failure_lines("it\nbroke", "\x1b[31mred", "")
    assert [line.split()[0] for line in lines] == ["FAILED", "why", "next"]
    assert not any("\n" in line or "\x1b" in line for line in lines)


def test_names_beyond_a_few_are_a_number() -> None:
    assert text.listed(["a", "b", "c"], 2) == "a, b and 1 more"


@pytest.mark.parametrize(
    ("phase", "answers", "words"),
    [
        (
            "stage",
            {"web2": [made.answer(sent=25_000_000)], "web1": [made.answer(sent=25_000_000)]},
            "image 25 MB sent to web1, web2",
        ),
        ("stage", {"web1": [made.answer("stage", {"have": True}, fetched=25_000_000)]}, "image 25 MB fetched by web1"),
        ("stage", {"web1": [made.answer("stage", {"have": True})]}, "image already there"),
        ("stage", {"web1": [made.answer("stage", {"have": False})]}, "the image goes to web1"),
        ("preflight", {"web1": [made.taken(made.LIVE_A)]}, "live aaaaaaaaaaaa"),
        ("preflight", {"web1": [made.taken(made.status(None))]}, "nothing is live yet"),
        (
            "plan_migrations",
            {"web1": [made.answer("migrate", {"pending": ["s.0002", "s.0003"]})]},
            "2 migrations: s.0002, s.0003",
        ),
        ("plan_migrations", {"web1": [made.answer("migrate", {"pending": []})]}, "no migrations"),
        ("start", {"web1": [made.answer("start", {"colour": "green", "already_running": True})]}, "green, was running"),
        (
            "start",
            {
                name: [made.answer("start", {"colour": "green", "cut": {"requests": 0, "websockets": 2}})]
                for name in ("web1", "web2")
            },
            "green, 4 websockets closed",
        ),
        ("switch", {"web1": [made.answer("route", {"colour": "green"})]}, "100 % to green"),
        ("revert", {"web1": [made.answer("revert", {"live": {"sha": "a" * 40}})]}, "back on aaaaaaaaaaaa"),
        (
            "smoke",
            {"web1": [made.answer("live", {"proven": False})]},
            "all checks passed; live release: not proven (no signed-in check)",
        ),
        (
            "watch",
            {"web1": [made.answer("smoke", {"rounds": 5}), made.answer("smoke", {"rounds": 2})]},
            "7 rounds of checks passed",
        ),
        ("switch", {"web1": [made.answer()], "web2": [made.failed()]}, "failed on web2"),
    ],
)  # fmt: skip
def test_what_a_phase_did(phase: str, answers: dict[str, list[dict[str, object]]], words: str) -> None:
    assert text.phase_detail(phase, answers) == words


def late(ran: dict[str, object] | None = None, fits: dict[str, object] | None = None) -> fleets.Fleet:
    """A deploy whose one migration was to run late: with what came of it, or without."""
    done = made.answer("migrate", ran) if ran is not None else made.failed("shop.0002_drop failed")
    done["results"] |= {"fits": {"fits": fits or {}}}
    ready = {"plan_migrations": made.LATE_PLAN, "migrate_late_ready": made.answer("drain")}
    return made.fleet(made.CONFIRMED | ready | {"migrate_late": {"web1": done}}, made.RUNS_LATE)


def test_that_the_way_back_ends_is_said_before_and_after() -> None:
    told = text.phase_detail("plan_migrations", {"web1": [made.LATE_PLAN["web1"]]})
    assert "shop.0002_drop after the switch: the way back to aaaaaaaaaaaa ends there" in told
    found = text.outcome(late({"applied": ["shop.0002_drop"], "snapshot": "s1"}, {made.A: ["it is gone"], made.B: []}))
    assert "shop.0002_drop ran after the switch" in found["line"]
    assert "rollback.yml" not in found["line"]
    assert "there is no way back to aaaaaaaaaaaa any more: it is gone" in found["notes"]
    assert "the data before shop.0002_drop is snapshot s1" in found["notes"]


def test_a_late_migration_that_fails_says_what_serves_and_what_to_type() -> None:
    failure = text.outcome(late())["failure"]
    assert failure["what"] == (
        "Late migrations: web1: shop.0002_drop failed · bbbbbbbbbbbb serves, and goes on without them"
    )
    assert failure["next"] == (
        """ansible-playbook deploy.yml -e sha=bbbbbbbbbbbb -e '{"migrations_late": ["shop.0002_drop"]}'"""
    )


def test_who_meets_the_page_is_said_and_what_ends_it() -> None:
    failed = {"migrate": {"web1": made.failed("shop.0002_type failed")}}
    failed["migrate"]["web1"]["results"] = {"migrate": {"snapshot": "s1"}}
    stays = made.STOPPED | failed | {"maintenance_end_fits": {"web1": made.GONE}}
    failure = text.outcome(made.fleet(stays, made.STOPS))["failure"]
    assert failure["what"] == "Migrate: web1: shop.0002_type failed · visitors meet the maintenance page"
    assert "restore.yml -e snapshot=s1, then rollback.yml goes back" in failure["next"]
    assert "-e migrations_maintenance_window=true" in failure["next"]
    ended = made.answer("maintenance", {"ended": True})
    back = made.STOPPED | failed | {"maintenance_end_fits": {"web1": made.FITS}, "maintenance_end": ended}
    failure = text.outcome(made.fleet(back, made.STOPS))["failure"]
    assert failure["what"] == "Migrate: web1: shop.0002_type failed · aaaaaaaaaaaa serves again"


def test_how_long_the_page_was_shown_is_said() -> None:
    seen = {"maintenance": made.PAGE | {"began": 100.0}, "plan_migrations": made.STOP_PLAN}
    moved = {"switch": made.answer("route", {"colour": "green"}) | {"ended": 142.0}, "migrate": {"web1": made.answer()}}
    found = text.outcome(made.fleet(made.CONFIRMED | seen | moved, made.STOPS))
    assert "visitors met the maintenance page for about 42 s" in found["notes"]
    unneeded = text.outcome(made.fleet(made.CONFIRMED, made.STOPS))
    assert "no migration needed the maintenance window: the application was not stopped" in unneeded["notes"]


def test_a_good_deploy_ends_in_one_line() -> None:
    found = text.outcome(made.fleet(made.CONFIRMED))
    assert found["ok"]
    assert found["line"].startswith("shop: bbbbbbbbbbbb is live on 3 hosts ({time}; previous aaaaaaaaaaaa is kept")


def test_what_was_not_proven_is_said() -> None:
    found = text.outcome(made.fleet(made.CONFIRMED, made.inputs(proven=False)))
    assert found["notes"][0].startswith("not proven")


def test_a_failed_switch_says_what_serves_now() -> None:
    back = made.answer("revert", {"reverted": True})
    found = text.outcome(made.fleet(SWITCH_FAILED | {"revert": back}))
    assert not found["ok"]
    assert found["failure"]["what"] == "Switch: web2: it broke · every host went back to aaaaaaaaaaaa"
    assert found["failure"]["why"] == "a reason"


def test_a_host_that_could_not_be_sent_back_is_named() -> None:
    back = {"web1": made.answer(), "web2": {"unreachable": True}, "web3": made.answer()}
    found = text.outcome(made.fleet(SWITCH_FAILED | {"revert": back}))
    assert "web2 did not answer: it goes back by itself, unless it was confirmed" in found["failure"]["what"]


def test_a_refusal_changes_nothing() -> None:
    found = text.outcome(made.rollback(made.status(made.A, made.record(made.A, 5))))
    assert found["ending"] == "refused"
    assert "nothing was changed" in found["failure"]["what"]


def test_nothing_to_do_and_repaired_drift() -> None:
    same = {"stage": made.staged(made.A)}
    asked = made.inputs(sha=made.SHA[made.A])
    assert "nothing to do, aaaaaaaaaaaa is live" in text.outcome(made.fleet(same, asked))["line"]
    drifted = made.fleet(same, asked, made.LIVE_A | {"drift": ["the route is wrong"]})
    assert "drift repaired on web1, web2, web3" in text.outcome(drifted)["line"]


def test_the_plan() -> None:
    state = made.fleet({"stage": made.answer("stage", {"have": False})}, made.inputs(check=True))
    plan = text.plan(state)
    assert plan["hosts"]["web1"]["needs_image"]
    lines = text.plan_lines(plan)
    assert lines[0] == "Plan: deploy shop to bbbbbbbbbbbb on 3 hosts"
    assert "known once the release is on the host" in "\n".join(lines)
    assert fleets.ending(state) == "planned"


LEASE = {
    "deploy_id": "20261121T030000-abcdef", "holder": "ann@laptop", "process": "7", "run_url": "",
    "since": "2026-11-21T03:00:00Z", "what": "deploy bbb", "expires_in": 93,
}  # fmt: skip


def test_unlock_shows_the_lease_and_what_to_type() -> None:
    shown = {host: made.answer("lease", {"lease": LEASE}) for host in made.HOSTS}
    found = text.unlocked(shown, None)
    assert found["failure"] is None
    assert len(found["lines"]) == 2
    assert "-e lease=20261121T030000-abcdef" in found["lines"][1]
    free = {host: made.answer("lease", {"lease": None}) for host in made.HOSTS}
    assert text.unlocked(free, None)["line"].startswith("no lease is held")


def test_unlock_says_whether_the_lease_was_broken() -> None:
    done = {"verdict": "pass", "error": None, "results": {"broken": {"broken": LEASE}, "lease": {"lease": None}}}
    never_held = made.failed("no lease is held", 3)
    assert "is broken" in text.unlocked({"web1": done, "web2": never_held}, LEASE["deploy_id"])["line"]
    refused = text.unlocked({"web1": never_held}, "x")["failure"]
    assert (refused["what"], "unlock.yml" in refused["next"]) == ("no lease is held", True)


def test_unlock_names_the_hosts_that_are_silent() -> None:
    silent = {"web1": made.answer("lease", {"lease": None}), "web2": made.failed("unreachable", 0)}
    assert text.unlocked(silent, None)["failure"]["what"] == "web2: unreachable"
    assert text.unlocked({}, None)["failure"]["what"] == "no host gave an answer"


def test_a_run_says_what_it_finished_or_undid_of_an_earlier_one() -> None:
    undone = made.taken(made.LIVE_A)
    undone["results"]["resume"] = {"undone": made.C, "finished": None, "sha": made.SHA[made.C]}
    notes = text.outcome(made.fleet(made.CONFIRMED | {"preflight": undone}))["notes"]
    assert "an earlier run died: its switch to cccccccccccc was undone (web1, web2, web3)" in notes
    left = text.outcome(made.fleet(made.CONFIRMED, made.inputs(without=["web9"])))["notes"]
    assert any("left out as asked: web9" in note for note in left)


def test_the_status_table() -> None:
    good = made.answer("status", made.status(made.B, *made.HISTORY, idle=made.A) | {"share": {"blue": 100, "green": 0}})
    busy = made.answer("status", made.LIVE_A | {
        "lease": LEASE, "register": {"error": "no route"},
        "pending": {"sha": "b" * 40, "expires_in": 9.0}, "drift": ["the route is wrong"],
        "late": {"migrations": ["shop.0002_drop"], "next": "ansible-playbook deploy.yml -e sha=abc"}})  # fmt: skip
    rows = text.status_rows({"web1": good, "web2": busy, "web3": made.failed("unreachable", why="x")})
    table = text.status_table(rows)
    assert table[0].split() == list(text.COLUMNS)
    assert "aaaaaaaaaaaa warm" in table[1]
    below = "\n".join(table[4:])
    for words in (
        "ann@laptop (process 7) since 2026-11-21T03:00:00: deploy bbb; it ends in 93 s unless renewed",
        "the register cannot be asked: no route",
        "goes back in 9 s",
        "the route is wrong",
        "  web2: late migrations that have not run: shop.0002_drop; type ansible-playbook deploy.yml -e sha=abc\n",
        "web3: unreachable",
        "different releases",
    ):
        assert words in below
