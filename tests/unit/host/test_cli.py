"""The command line and the batch: exit codes, one JSON object always, and dry runs that touch nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import subprocess
from typing import Any

import pytest

from bluegreen import cli, files, state, units, verbs
from bluegreen.config import parse_config
from bluegreen.errors import BluegreenError, Code
from bluegreen.verbs import VERBS


def run(host: Any, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any], str]:
    """The program as a person starts it: exit status, stdout as JSON, stderr."""
    capsys.readouterr()
    status = cli.main(words, host.root)
    shown = capsys.readouterr()
    answer = json.loads(shown.out)
    assert isinstance(answer, dict)
    return status, answer, shown.err


# one verb


def test_a_verb_answers_json_and_the_application_may_be_left_out(host: Any, capsys: Any) -> None:
    name = host.deploy(1, 1)
    status, answer, err = run(host, capsys, "status")
    assert (status, answer["live"]["release"], answer["drift"], err) == (0, name, [], "")
    wanted = {"app", "live", "idle", "share", "releases", "pending", "lease", "fence", "drift", "processes", "host"}
    assert wanted <= set(answer)
    assert {"id", "sha", "state", "deployed_at", "confirmed_fence", "complete", "artifact"} <= set(
        answer["releases"][0]
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["status", "--app", "Orders"], Code.BAD_INPUT, "'Orders' is not an application name"),
        (["status", "--app", "notes"], Code.NOT_PROVISIONED, "was not provisioned for notes"),
        (["rollback"], Code.REFUSED, "nothing to roll back from"),
        (["route", "--release", "x", "--share", "3"], Code.BAD_INPUT, "share 3 is not possible"),
        (["start", "--release", "x"], Code.REFUSED, "the release x is not on this host"),
        (["start"], Code.BAD_INPUT, "start needs release"),
        (["mark", "--release", "x"], Code.REFUSED, "x was never on this host"),
        (["prune", "--fence", "-1"], Code.STALE_FENCE, "generation -1 is older than 0"),
        (["manage", "--command", "'"], Code.REFUSED, "no release is live"),
    ],
)
def test_failures(host: Any, capsys: Any, words: list[str], code: Code, says: str) -> None:
    status, answer, err = run(host, capsys, *words)
    assert status == int(code) == answer["error"]["code"]
    assert set(answer["error"]) == {"verb", "what", "why", "next", "code"}
    assert says in err
    assert err.startswith("bluegreen: ")
    assert err.count("\n") == 1, "one line for a person"


def test_every_kind_of_failure_has_its_exit_status(host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [int(code) for code in Code] == [0, 1, 2, 3, 4, 5, 6, 7, 75]
    for code in list(Code)[1:]:

        def fail(context: Any, params: Any, code: Code = code) -> Any:
            raise BluegreenError(code, "what", "why", "next", {"kept": 1})

        monkeypatch.setitem(VERBS, "history", verbs.Verb(fail, "", {}, changes=False))
        status, answer, _ = run(host, capsys, "history")
        assert (status, answer["kept"]) == (int(code), 1)
        answer, status = host.batch({"verb": "history"})
        assert (status, answer["error"]["code"], answer["results"]) == (int(code), int(code), {"history": {"kept": 1}})


def test_a_bug_is_json_too(host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(context: Any, params: Any) -> Any:
        raise ZeroDivisionError("oh no")

    monkeypatch.setitem(VERBS, "history", verbs.Verb(fail, "", {}, changes=False))
    status, answer, err = run(host, capsys, "history")
    assert (status, answer["error"]["why"]) == (1, "ZeroDivisionError: oh no")
    assert "Traceback" in err
    answer, status = host.batch({"verb": "status"}, {"verb": "history"})
    assert (status, answer["ok"], answer["error"]["verb"]) == (1, False, "history")
    assert "status" in answer["results"]


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EROFS, "is read-only"),
        (errno.EIO, "the disk fails"),
        (errno.EBUSY, "in use by something else"),
    ],
)
def test_what_the_host_lacks_is_no_bug(
    host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    def fail(context: Any, params: Any) -> Any:
        raise OSError(number, os.strerror(number), "/srv/orders/releases")

    monkeypatch.setitem(VERBS, "history", verbs.Verb(fail, "", {}, changes=False))
    status, answer, err = run(host, capsys, "history")
    assert (status, says in answer["error"]["what"]) == (Code.REFUSED, True)
    assert len(err.splitlines()) == 1
    assert "/srv/orders/releases" in err
    answer, status = host.batch({"verb": "status"}, {"verb": "history"})
    assert (status, says in answer["error"]["what"]) == (Code.REFUSED, True)


def test_without_rights(host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(paths: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(paths.config))

    monkeypatch.setattr(cli, "load_config", denied)
    status, answer, err = run(host, capsys, "status")
    assert (status, answer["error"]["next"]) == (7, "run it with sudo")
    assert "sudo" in err


def test_which_application(host: Any, capsys: Any) -> None:
    (host.paths.config.parent / "notes.toml").write_text("")
    status, _, err = run(host, capsys, "status")
    assert status == 2
    assert "this host has notes, orders" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("app = ", "is not TOML"),
        ('app = "orders"', "lacks user, domain"),
        ('app = "orders"\nuser = "orders"\ndomain = "x"\nworker = 2', "has an unknown key worker"),
        ('app = "orders"\nuser = "orders"\ndomain = "x"\nworkers = "2"', "workers must be of type int: it is '2'"),
        ('app = "orders"\nuser = "orders"\ndomain = "x"\nworkers = true', "workers must be of type int"),
    ],
)
def test_a_damaged_host_configuration(text: str, says: str) -> None:
    with pytest.raises(BluegreenError) as caught:
        parse_config(text, "/etc/bluegreen/orders.toml")
    assert caught.value.code is Code.NOT_PROVISIONED
    assert says in str(caught.value)
    assert "provision.yml" in str(caught.value)


def test_tokens_need_the_key(host: Any, capsys: Any) -> None:
    _, answer, _ = run(host, capsys, "tokens")
    assert {name: len(value) for name, value in answer.items()} == {"probe": 64, "next": 64}
    for damaged in ("", "xyz", "5a" * 31):
        host.paths.key.write_text(damaged)
        status, _, err = run(host, capsys, "tokens")
        assert status == 7
        assert "does not hold 64 hex digits" in err
    host.paths.key.unlink()
    assert run(host, capsys, "tokens")[0] == 7


def test_data_comes_on_stdin(host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.StringIO('{"details": {"deploy_id": "x", "event": "y", "self": 1, "by": "me"}}')
    )
    assert run(host, capsys, "note", "--event", "looked", "--data", "-")[0] == 0
    entry = state.State(host.paths).history(1)[0]
    assert (entry["event"], entry["by"]) == ("looked", "me")
    for text, says in (("{", "does not hold JSON"), ("[]", "must hold a JSON object")):
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        status, answer, _ = run(host, capsys, "note", "--event", "x", "--data", "-")
        assert (status, says in answer["error"]["what"]) == (2, True)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        status, answer, _ = run(host, capsys, "batch", "--app", "orders")
        assert (status, answer["ok"], says in answer["error"]["what"]) == (2, False, True)


def test_reconcile_all_goes_on(host: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = host.deploy(1, 1)
    (host.paths.config.parent / "aaa.toml").write_text("damaged")
    (host.paths.config.parent / "bbb.toml").write_text('app = "bbb"\nuser = "x"\ndomain = "x"\n')
    host.system.reboot()
    status, answer, err = run(host, capsys, "reconcile", "--all")
    assert status == 4  # the boot unit shows as failed
    assert answer["aaa"]["error"]["code"] == 7
    assert "error" in answer["bbb"]
    assert "started orders@blue.service" in answer["orders"]["done"]
    assert host.routed() == {name: 100}
    assert "aaa" in err


# what a verb is given


@pytest.mark.parametrize(
    ("verb", "params", "says"),
    [
        ("deploy", {}, "'deploy' is not a verb"),
        ("start", {}, "start needs release"),
        ("start", {"release": None}, "start needs release"),
        ("start", {"release": 5}, "start: release must be of type str"),
        ("start", {"release": "x", "sha": "y"}, "start has no parameter 'sha'"),
        ("route", {"release": "x", "share": "5"}, "route: share must be of type int"),
        ("route", {"release": "x", "share": True}, "route: share must be of type int"),
        ("route", {"release": "x", "ttl": "60"}, "route: ttl must be of type float"),
        ("route", {"release": "x", "kind": "x"}, "route: kind is 'x': wanted: deploy, rollback"),
        ("status", {"app": "x"}, "status has no parameter 'app': known: none"),
        ("stage", {"manifest": "x"}, "stage: manifest must be of type dict"),
        ("drain", {"colour": "red"}, "wanted: blue, green"),
        ("lease", {"action": "steal"}, "wanted: take, release, show, break"),
    ],
)
def test_parameters_are_checked(host: Any, verb: str, params: dict[str, Any], says: str) -> None:
    with pytest.raises(BluegreenError) as caught:
        host.do(verb, **params)
    assert caught.value.code is Code.BAD_INPUT
    assert says in str(caught.value)


def test_whole_numbers_stand_for_seconds() -> None:
    assert verbs.validate("route", {"release": "x", "ttl": 5})["ttl"] == 5.0
    assert verbs.validate("route", {"release": "x"}) | {"share": 100, "ttl": 60.0} == verbs.validate(
        "route", {"release": "x"}
    )


def test_every_verb_has_help_and_options() -> None:
    text = cli.parser().format_help()
    for name, verb in VERBS.items():
        assert name in text
        assert verb.help
        cli.parser().parse_args([name, "--app", "orders", *(["--dry-run"])])


# several verbs


def test_a_whole_deploy_in_one_batch(host: Any, tools: Any) -> None:
    artifact = host.staged(1)
    released = {"from": "configure", "key": "release"}
    answer, status = host.batch(
        {"verb": "configure", "artifact": artifact, "config": tools.CONFIG},
        {"verb": "start", "release": released, "alive": 0},
        {"verb": "smoke", "id": "idle", "release": released},
        {"verb": "route", "release": released},
        {"verb": "smoke", "id": "front", "target": "front", "release": released},
        {"verb": "confirm", "release": released},
        fence=3,
        holder="me",
    )
    assert (status, answer["ok"], answer["error"], answer["stopped"], answer["host"]) == (0, True, None, None, "web1")
    assert list(answer["results"]) == ["configure", "start", "idle", "route", "front", "confirm"]
    assert host.routed() == {answer["results"]["configure"]["release"]: 100}
    assert state.State(host.paths).fence() == 3


def test_it_stops_at_the_first_failure(host: Any) -> None:
    answer, status = host.batch({"verb": "status"}, {"verb": "rollback"}, {"verb": "history"})
    assert (status, answer["ok"], list(answer["results"])) == (3, False, ["status"])
    assert answer["error"]["verb"] == "rollback"


def test_it_stops_where_an_upload_is_needed(host: Any) -> None:
    answer, status = host.batch({"verb": "stage", "manifest": host.artifact(1)}, {"verb": "status"})
    assert (status, answer["ok"], answer["stopped"], answer["results"]) == (
        0,
        True,
        "stage",
        {"stage": {"have": False}},
    )


def test_details_are_kept_under_the_name_of_the_step(host: Any) -> None:
    name = host.deploy(1, 1)
    steps = [{"verb": "smoke", "release": name}, {"verb": "smoke", "id": "live", "target": "live"}]
    host.pages["/gone"] = (500, [], b"")
    steps[1]["checks"] = [{"name": "gone", "path": "/gone"}]
    answer, status = host.batch(*steps)
    assert status == 4
    assert answer["results"]["smoke"]["verdict"] == "pass"
    assert answer["results"]["live"]["checks"][0]["problem"] == "status 500, expected 200"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"fence": "7", "steps": []}, "fence must be a whole number"),
        ({"fence": True, "steps": []}, "fence must be a whole number"),
        ({"steps": {}}, "steps must be a list"),
        ({"steps": ["status"]}, "steps must be a list of objects"),
        ({}, "steps must be a list"),
        ({"steps": [{}]}, "'' is not a verb"),
        ({"steps": [{"verb": "start", "release": {"from": "a", "key": "release"}}]}, "there is no release of a"),
        (
            {"steps": [{"verb": "status"}, {"verb": "start", "release": {"from": "status", "key": "x"}}]},
            "no x of status",
        ),
    ],
)
def test_a_wrong_batch_is_told_in_one_line(host: Any, capsys: Any, monkeypatch: Any, call: Any, says: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(call)))
    status, answer, err = run(host, capsys, "batch", "--app", "orders")
    assert (status, answer["ok"]) == (2, False)
    assert says in err
    assert err.count("\n") == 1


# dry runs

PENDING = json.dumps(
    {"pending": [{"database": "default", "app": "a", "name": "1"}], "plan": [], "problems": [], "unjudged": [],
     "empty": True, "footprint": None,
     # a schema that could go back
     "known": [], "apps": [], "databases": {"default": {"applied": [["a", "1"]]}}, "method": "cluster",
     "steps": [{"database": "default", "app": "a", "name": "1", "costs": [], "sql": [], "file_sha256": ""}],
     "older": {"start": [], "way": [], "end": []}, "newer": {"start": [], "way": [], "end": []},
     # and data
     "at": "2026-01-02T00:00:00Z", "rows": {"public.t": 1}, "database": "orders", "user": "orders", "may": True}
)  # fmt: skip
SHOT = {
    "id": "20260101T000000-aaaaaaaaaaaa-aaaaaaaa",
    "databases": {
        "default": {
            "at": "2026-01-01T00:00:00Z", "rows": {"public.t": 2}, "size": 4, "file": "shot.dump", "recipient": "",
            "sha256": hashlib.sha256(b"dump").hexdigest(),
        }
    },
}  # fmt: skip


def changing() -> dict[str, dict[str, Any]]:
    """Every changing verb with parameters for which it would act."""
    return {
        "lease": {"action": "take"},
        "stage": {},
        "configure": {},
        "check": {"release": "new"},
        "start": {"release": "new"},
        "abandon": {},
        "route": {"release": "new"},
        "extend": {},
        "resume": {},
        "decide": {"decision": "COMMIT", "release": "new"},
        "confirm": {"release": "new"},
        "revert": {},
        "rollback": {},
        "mark": {"release": "new"},
        "drain": {},
        "maintenance": {"action": "begin"},
        "processes": {"action": "settle"},
        "prune": {"keep": 2},
        "migrate": {"release": "new"},
        "undo": {"to": "new"},
        "restore": {"snapshot": SHOT["id"], "accept": SHOT["id"]},
        "reconcile": {},
        "note": {"event": "x"},
    }


def test_the_table_of_dry_runs_is_complete() -> None:
    assert set(changing()) == {name for name, verb in VERBS.items() if verb.changes}


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("verb", changing())
def test_a_dry_run_changes_no_file(host: Any, tools: Any, verb: str, pending: bool) -> None:
    for number in range(1, 4):
        host.deploy(number, number, processes={"worker": {"command": "x"}})
    new = host.release(4)
    if pending:
        host.do("start", release=new, alive=0)
        host.do("route", release=new)
    host.system.jobs.append(lambda words: (0, PENDING, ""))
    params = {name: new if value == "new" else value for name, value in changing()[verb].items()}
    if verb == "stage":
        params = {"manifest": host.artifact(9), "image": "x"}
    if verb == "configure":
        params = {"artifact": host.staged(4), "config": {**tools.CONFIG, "workers": 9}}
    if verb == "restore":
        kept = host.context().paths.state / "snapshots"
        kept.mkdir()
        (kept / "shot.dump").write_bytes(b"dump")
        (kept / "shot.json").write_text(json.dumps(SHOT))
    before, units_before = (
        tools.snapshot(host.root),
        {name: vars(unit).copy() for name, unit in host.system.units.items()},
    )
    timers = dict(host.system.timers)
    try:
        host.do(verb, "d1", 99, dry_run=True, **params)
    except BluegreenError as problem:
        if problem.code not in (Code.REFUSED, Code.BAD_INPUT):
            raise
    assert tools.snapshot(host.root) == before
    assert {name: vars(unit) for name, unit in host.system.units.items()} == units_before
    assert host.system.timers == timers


def test_reconcile_all_may_be_dry_too(host: Any, tools: Any, capsys: Any) -> None:
    host.deploy(1, 1)
    host.system.reboot()
    before = tools.snapshot(host.root)
    assert run(host, capsys, "reconcile", "--all", "--dry-run")[0] == 0
    assert tools.snapshot(host.root) == before


# what is below


def test_programs_that_fail_are_told_in_one_line(tmp_path: Any) -> None:
    with pytest.raises(BluegreenError, match=r"sh -c echo.*failed with status 3: two") as caught:
        units.run(("sh", "-c", "echo one; echo two >&2; exit 3"))
    assert caught.value.code is Code.CHECK_FAILED
    with pytest.raises(BluegreenError, match=r"no-such-program is not installed"):
        units.run(("no-such-program",))
    with pytest.raises(BluegreenError, match=r"sleep 5 did not end within 0.01 s"):
        units.run(("sleep", "5"), timeout=0.01)
    assert units.run(("printf", r"\377ok")).stdout.endswith("ok")
    assert units.run(("cat",), stdin="in").stdout == "in"


def test_time_and_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(state, "BOOT_MARK", tmp_path / "boot")
    first = state.boot_id()
    assert first == state.boot_id()
    assert re.fullmatch(r"[0-9a-f-]{36}/[0-9a-f]{32}", first)
    (tmp_path / "boot").unlink()  # a container restarts: the kernel stays, /run does not
    assert state.boot_id() != first
    assert state.Deadline(first, state.uptime() + 100).left() == 0.0
    assert 99 < state.Deadline.after(100).left() <= 100


def test_the_fence_file(host: Any) -> None:
    kept = state.State(host.paths)
    assert kept.fence() == 0
    kept.raise_fence(7)
    kept.raise_fence(8, keep=False)
    assert kept.fence() == 7
    for damaged in ("", "x", "-1"):
        files.write_file(host.paths.state / "fence", damaged)
        with pytest.raises(BluegreenError, match=r"fence is damaged"):
            host.do("prune", fence=9)


def test_checks_run_without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `privileges.call`, as whoever runs the tests."""
    import pwd

    from bluegreen import privileges

    me = pwd.getpwuid(os.getuid()).pw_name
    assert privileges.call(lambda: {"pid": 1}, user=me) == {"pid": 1}
    assert privileges.call(os.getpid, user=me) != os.getpid()

    def refuse() -> None:
        raise BluegreenError(Code.CHECK_FAILED, "what", "why", "next", {"kept": [1]})

    with pytest.raises(BluegreenError) as caught:
        privileges.call(refuse, user=me)
    assert (caught.value.code, caught.value.why, caught.value.details) == (Code.CHECK_FAILED, "why", {"kept": [1]})
    with pytest.raises(BluegreenError, match=r"ZeroDivisionError"):
        privileges.call(lambda: 1 // 0, user=me)
    with pytest.raises(BluegreenError, match=r"the check process ended with status"):
        privileges.call(lambda: os.kill(os.getpid(), 9), user=me)
    with pytest.raises(BluegreenError, match=r"there is no user bluegreen-no-such-user"):
        privileges.call(lambda: 1, user="bluegreen-no-such-user")


def test_a_program_that_hangs_up_in_the_middle(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemctl itself fails: one line, and what served goes on serving."""
    host.deploy(1, 1)
    second = host.deploy(2, 2)

    def fail(*_: Any, **__: Any) -> subprocess.CompletedProcess[str]:
        raise BluegreenError(Code.CHECK_FAILED, "systemctl stop failed with status 1", "Connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(units, "run", fail)
        for verb in ("rollback", "drain", "status"):
            with pytest.raises(BluegreenError, match=r"Connection refused"):
                host.do(verb)
    assert host.routed() == {second: 100}
    assert host.do("status")["drift"] == []
