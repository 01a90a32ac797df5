"""How runs with faults are judged, and where faults are put."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults import judge, rig
from benchmarks.faults.judge import Answer, Look, Run, Task

HERE = Path("/srv/inventory")
HOSTS = {"http://10.0.0.1": "web1", "http://10.0.0.2": "web2"}


def answer(host: str, at: float, release: str = "a", *, ok: bool = True, quick: bool = True) -> Answer:
    return Answer(host, at - 0.01, at, ok, release, quick)


# --- traffic


def test_an_answer_is_read_from_a_line_of_the_loads_log() -> None:
    line = {"target": "http://10.0.0.2", "kind": "slow", "method": "GET", "path": "/", "monotonic": 12.5, "ms": 500.0}
    read = judge.answer_of(line | {"release": "r", "ok": False, "detail": "status 502"}, HOSTS)
    assert read == Answer("web2", 12.0, 12.5, False, "r", False, "GET /: status 502")


def test_requests_of_hosts_that_were_hurt_do_not_count() -> None:
    answers = [answer("web1", 1), answer("web2", 1, ok=False), answer("web1", 2, ok=False), answer("web1", 9)]
    seen = judge.traffic(answers, 0, 5, ["web1"])
    assert (seen.requests, seen.failed) == (2, 1)
    assert len(seen.failures) == 1


def test_a_gap_counts_from_the_start_and_up_to_the_end() -> None:
    answers = [answer("web1", 3), answer("web1", 4)]
    assert judge.longest_gap(answers, "web1", 0, 5) == 3
    assert judge.longest_gap(answers, "web1", 3, 9) == 5
    assert judge.longest_gap([], "web1", 0, 9) == 9


def test_the_host_with_the_longest_gap_is_told() -> None:
    answers = [answer("web1", at / 10) for at in range(100)] + [answer("web2", 1), answer("web2", 7)]
    assert judge.traffic(answers, 0, 9, ["web1", "web2"]).gap == pytest.approx(6)


def test_hosts_that_answer_with_different_releases_are_mixed_until_the_last_has_followed() -> None:
    answers = [answer("web1", 1, "a"), answer("web2", 1, "a"), answer("web1", 2, "b"), answer("web1", 3, "b")]
    assert judge.mixed_window([*answers, answer("web2", 3.5, "b")]) == pytest.approx(1.5)
    assert judge.mixed_window(answers) == pytest.approx(1)
    assert judge.mixed_window(answers[:2]) == 0


def test_slow_answers_and_those_without_a_name_say_nothing_about_the_moment() -> None:
    answers = [answer("web1", 1, "a"), answer("web2", 1, "b", quick=False), answer("web2", 2, "")]
    assert judge.mixed_window(answers) == 0


# --- hosts


def looked(active: object, pending: object, timers: str = "", busy: str = "0") -> str:
    parts = [{"active": active}, {"pending": pending}, {"timers": timers}, {"busy": busy}]
    return "".join(json.dumps(part) + "\0" for part in parts)


def test_a_look_at_a_host_is_read() -> None:
    timers = "bluegreen-deadman:orders:1.timer other.timer"
    text = looked({"release": "a", "sha": "s"}, {"release": "b", "deadline_at": 9.5}, timers, "1")
    assert judge.look_of(text) == Look("a", "s", "b", ("bluegreen-deadman:orders:1.timer",), True, 9.5)


def test_the_last_arming_counts() -> None:
    looks = [Look("a", "s", "b", (), False, 105.0), Look("a", "s", "b", (), False, 106.0), Look("a", "s", None), None]
    assert judge.armed(looks, 3, 100) == 3
    assert judge.armed(looks[2:], 3, 100) is None


@pytest.mark.parametrize("text", ["", "{", '{"active": null}\0', looked(None, None)[:-8]])
def test_a_look_that_was_cut_short_is_none(text: str) -> None:
    assert judge.look_of(text) is None


def test_a_fleet_is_whole_with_one_release_and_nothing_pending() -> None:
    calm = Look("a", "s", None)
    assert judge.whole({"web1": calm, "web2": calm})
    for other in (
        None,
        Look("b", "s", None),
        Look("a", "s", "b"),
        Look(None, None, None),
    ):
        assert not judge.whole({"web1": calm, "web2": other})
    assert not judge.whole({})


def test_a_call_that_outlives_its_controller_is_waited_for_and_does_not_count_as_mixed() -> None:
    calm, starts = Look("a", "s", None), Look("a", "s", None, (), True)
    assert judge.whole({"web1": calm, "web2": starts})
    assert judge.at_work([calm, starts])
    assert judge.at_work([calm, None])
    assert not judge.at_work([calm, calm])


def test_leftovers_are_told_one_by_one() -> None:
    status = {
        "pending": {"release": "b"},
        "lease": {"deploy_id": "d"},
        "register": {"lease": {"deploy_id": "e"}, "latest": None},
        "drift": ["a link is wrong"],
    }
    found = judge.leftovers("unit bluegreen-deadman:orders:1.timer active\n\ntemporary /srv/orders/.tmp-x\n", status)
    assert found == [
        "unit bluegreen-deadman:orders:1.timer active",
        "temporary /srv/orders/.tmp-x",
        "pending b",
        "lease d",
        "register lease e",
        "drift: a link is wrong",
    ]


def test_a_clean_host_has_no_leftovers() -> None:
    assert judge.leftovers("\n", {"pending": None, "lease": None, "drift": [], "register": None}) == []
    assert judge.leftovers("", {"register": {"error": "no answer"}}) == ["register no answer"]


def test_a_file_left_behind_is_charged_to_one_run_and_a_state_to_every_one() -> None:
    assert judge.stays("web1: upload x.squashfs")
    assert not judge.stays("web1: drift: a link is wrong")
    assert not judge.stays("web1: lease d")


# --- points


TIMELINE = "\n".join(
    json.dumps(line)
    for line in (
        {"at": 1.0, "event": "task", "number": 1, "play": "Inputs", "task": "Check"},
        {"at": 1.5, "event": "task", "number": 2, "play": "Switch", "task": "Route"},
        {"at": 1.6, "event": "host", "number": 2, "play": "Switch", "host": "web1"},
        {"at": 1.7, "event": "hit", "number": 2, "play": "Switch"},
        {"at": 3.0, "event": "end", "number": 2, "play": "Switch"},
    )
)


def test_tasks_and_their_times_are_read_from_a_timeline() -> None:
    assert judge.tasks_of(TIMELINE) == [Task(1, "Inputs", "Check", 0.5), Task(2, "Switch", "Route", 1.5)]
    assert judge.moment_of(TIMELINE, "hit") == 1.7
    assert judge.moment_of(TIMELINE, "on") is None
    assert judge.moment_of("", "hit") is None


def timeline(*events: tuple[str, int, str]) -> str:
    return "\n".join(
        json.dumps({"at": 1.0, "event": event, "number": number, "play": play}) for event, number, play in events
    )


def test_where_a_fault_happened_is_read_from_the_timeline_and_not_from_the_plan() -> None:
    assert judge.place_of(TIMELINE) == ("during", 2, "Switch")
    assert judge.place_of(timeline(("task", 4, "Confirm"), ("hit", 4, "Confirm"))) == ("before", 4, "Confirm")
    slid = timeline(("task", 3, "Switch"), ("host", 3, "Switch"), ("task", 5, "Outcome"), ("host", 5, "Outcome"))
    assert judge.place_of(slid + "\n" + timeline(("hit", 5, "Outcome"))) == ("during", 5, "Outcome")
    assert judge.place_of(timeline(("task", 1, "Inputs"), ("end", 1, "Inputs"))) is None


@pytest.mark.parametrize(
    ("when", "play", "state"),
    [
        ("during", "Smoke", "before the switch"),
        ("before", "Switch", "before the switch"),
        ("during", "Switch", "switching"),
        ("before", "Watch", "the switch pending"),
        ("during", "Watch", "the switch pending"),
        ("before", "Confirm", "the switch pending"),
        ("during", "Confirm", "confirming"),
        ("before", "Outcome", "all done"),
    ],
)
def test_a_run_is_counted_for_what_its_fault_met(when: str, play: str, state: str) -> None:
    assert judge.state_at(when, play) == state


def test_there_is_a_point_before_every_task_and_one_during_those_that_take_their_time() -> None:
    tasks = [Task(1, "Inputs", "Check", 0.1), Task(2, "Switch", "Route", 1.5)]
    found = judge.points("deploy", tasks, 1, during=True)
    assert [(point.when, point.task.number) for point in found] == [("before", 1), ("before", 2), ("during", 2)]
    assert 0 <= found[2].delay <= 1.5
    assert len(judge.points("deploy", tasks, 1, during=False)) == 2


@given(st.integers(0, 1000))
def test_a_seed_chooses_the_same_points_again(seed: int) -> None:
    tasks = [Task(number, "Play", "task", 1.0) for number in range(10)]
    assert judge.points("deploy", tasks, seed, during=True) == judge.points("deploy", tasks, seed, during=True)
    chosen = judge.sample(tasks, 4, seed)
    assert chosen == judge.sample(tasks, 4, seed)
    assert chosen == sorted(chosen, key=lambda task: task.number)
    assert len(chosen) == 4


def test_a_sample_as_large_as_the_whole_is_the_whole() -> None:
    assert judge.sample([1, 2], None, 1) == judge.sample([1, 2], 5, 1) == [1, 2]


STRACE = """\
openat(AT_FDCWD</root>, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3</etc/ld.so.cache>
openat(AT_FDCWD</root>, "/srv/x", O_RDWR|O_CREAT|O_EXCL, 0600) = 3</srv/x>
write(3</srv/x>, "hello", 5) = 5
12 rename("/srv/x", "/srv/y") = 0
[pid    13] rename("/srv/y", "/srv/z") = 0
vfork() = 14
+++ exited with 0 +++
"""


def test_calls_that_change_something_are_counted_by_name_as_strace_counts_them() -> None:
    assert [(name, number) for name, number, _ in judge.calls_of(STRACE)] == [
        ("openat", 2),
        ("write", 1),
        ("rename", 1),
        ("rename", 2),
        ("vfork", 1),
    ]


def test_a_call_that_was_hurt_is_told_from_one_that_was_not_reached() -> None:
    assert judge.struck("rename(...) = ? <unavailable>\n+++ killed by SIGKILL +++\n")
    assert judge.struck("fsync(3) = -1 ENOSPC (No space left on device) (INJECTED)\n+++ exited with 1 +++\n")
    assert not judge.struck("rename(...) = 0\n+++ exited with 0 +++\n")


def test_of_many_calls_in_a_row_some_are_chosen() -> None:
    calls = [("mkdir", 1, ""), *(("symlink", number, "") for number in range(1, 82)), ("rename", 1, "")]
    chosen = judge.thin(calls, 1)
    assert [number for name, number, _ in chosen if name == "symlink"][:2] == [1, 2]
    assert chosen[0] == calls[0]
    assert chosen[-2:] == calls[-2:]
    assert len(chosen) == 6
    assert judge.thin(calls[:4], 1) == calls[:4]


# --- verdict


def good(**other: object) -> Run:
    run = Run("case", "fault", "point", 1, requests=100, whole=1.0, rerun=0)
    for name, value in other.items():
        setattr(run, name, value)
    return run


def test_a_good_run_has_no_problems() -> None:
    assert judge.judge(good(), 3) == []
    assert judge.judge(good(whole=4.0), 3) == []


@pytest.mark.parametrize(
    ("other", "word"),
    [
        ({"failed": 1}, "1 of 100 requests failed"),
        ({"requests": 0}, "no traffic"),
        ({"whole": None}, "never became whole"),
        ({"whole": 5.0}, "whole after 5.00 s"),
        ({"mixed": 4.5}, "mixed for 4.50 s"),
        ({"rerun": 2}, "status 2"),
        ({"leftovers": ["web1: lease x"]}, "left behind: web1: lease x"),
    ],
)
def test_a_broken_promise_is_told(other: dict[str, object], word: str) -> None:
    problems = judge.judge(good(**other), 3)
    assert len(problems) == 1
    assert word in problems[0]


def test_a_living_controller_may_take_longer_but_not_leave_the_fleet_mixed() -> None:
    assert judge.judge(good(whole=30.0), 3, bounded=False) == []
    assert judge.judge(good(whole=30.0, mixed=9.0), 3, bounded=False) != []
    assert judge.judge(good(whole=30.0, mixed=9.0), None) == []


def test_of_n_without_a_failure_the_bound_is_three_by_n() -> None:
    assert judge.upper_bound(0, 300) == 0.01
    assert judge.upper_bound(0, 2) == 1
    assert judge.upper_bound(0, 0) == 1


def test_with_failures_the_bound_is_the_exact_binomial_one() -> None:
    assert judge.upper_bound(1, 100) == pytest.approx(0.0466, abs=0.0005)
    assert judge.binomial_cdf(5, 50, judge.upper_bound(5, 50)) == pytest.approx(0.05, abs=0.0001)


@given(st.integers(1, 500), st.data())
def test_a_bound_lies_above_what_was_seen(runs: int, data: st.DataObject) -> None:
    bad = data.draw(st.integers(0, runs))
    assert bad / runs <= judge.upper_bound(bad, runs) <= 1


def test_a_table_has_a_line_for_each_fault() -> None:
    runs = [good(requests=10).as_json(), good(fault="other", failed=1, problems=["x"]).as_json()]
    cases = {"case": {"command": "benchmarks/faults.py case", "runs": runs}}
    lines = judge.table(cases).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| fault | 1 | 0 | 0 of 10 |")
    assert lines[3].startswith("| other | 1 | 1 | 1 of 100 |")
    assert judge.broken(cases) == ["other: point: x"]


def test_what_no_run_has_shown_is_said() -> None:
    runs = [good(case="controller-kill", fault="controller KILL, deploy, the switch pending, re-run at once").as_json()]
    text = judge.not_met({"command": {"runs": runs}}, ["controller-kill", "race"])
    assert "`race` was never run" in text
    assert "controller-kill`" not in text
    assert "no controller died in a deploy, the switch pending" in text
    runs.append(good(case="controller-kill", fault="controller KILL, deploy, the switch pending").as_json())
    assert "in a deploy, the switch pending" not in judge.not_met({"command": {"runs": runs}}, ["race"])


# --- hosts


def test_hosts_of_another_number_that_were_kept_are_refused_in_one_line() -> None:
    assert rig.other_hosts(["web1", "web2"], ["web2", "web1"], HERE) == ""
    assert rig.other_hosts(["web2", "web1"], ["web1", "web2", "web3"], HERE) == (
        "--hosts 3: web1, web2 were kept from the last time; give --hosts 2, or remove them: "
        "scripts/hosts down /srv/inventory"
    )


def test_the_example_runs_with_one_worker_a_host() -> None:
    found = rig.one_worker()
    assert set(found) == {"worker", "beat"}
    assert found["beat"]["singleton"] is True
    assert not any("count" in process for process in found.values())
