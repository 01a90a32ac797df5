"""The action plugins, with a connection and variables that are not real."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

from plugins.action import bluegreen as action
from plugins.action import bluegreen_outcome
from tests.unit.plugins import test_fleet as made

SECRET = "marker-of-a-secret"


class HostVars(dict[str, dict[str, Any]]):
    def raw_get(self, host: str) -> dict[str, Any]:
        return self[host]


class Connection:
    """Answers from a list; keeps what it was sent."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[dict[str, Any]] = []
        self.files: list[tuple[str, str]] = []
        self._play_context = SimpleNamespace(no_log=False)

    def put_file(self, source: str, target: str) -> None:
        self.files.append((source, target))


class Templar:
    def template(self, value: Any) -> Any:
        return value


def perform(
    connection: Connection, phase: str, steps: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, **more: Any
) -> dict[str, Any]:
    """Run the action `bluegreen` on web1. `more`: always, and variables of web1 as `variables`."""
    plugin = action.ActionModule.__new__(action.ActionModule)
    variables = more.pop("variables", {})
    inputs = more.pop("inputs", made.inputs())
    plugin._task = SimpleNamespace(args={"phase": phase, "app": "shop", "steps": steps} | more, check_mode=False)
    plugin._connection = connection
    plugin._play_context = SimpleNamespace(no_log=False, remote_user="deploy")
    plugin._templar = Templar()

    def execute(command: str, in_data: bytes, sudoable: bool) -> dict[str, Any]:
        assert command == "sudo -n /usr/local/bin/bluegreen batch --app shop"
        connection.calls.append(json.loads(in_data))
        answer = connection.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, out = (answer, "") if isinstance(answer, int) else (0, json.dumps(answer))
        return {"rc": status, "stdout": out, "stderr": ""}

    plugin._low_level_execute_command = execute
    monkeypatch.setattr(action.ActionBase, "run", lambda *_: {})
    hosts = {host: {"__preflight_result": made.taken(made.LIVE_A)} for host in made.HOSTS}
    hosts["web1"] |= variables
    hostvars = HostVars(hosts | ({"localhost": {"__inputs_result": inputs}} if inputs else {}))
    task_vars = {
        "inventory_hostname": "web1",
        "hostvars": hostvars,
        "ansible_play_hosts_all": list(made.HOSTS),
    } | variables
    found: dict[str, Any] = plugin.run(None, task_vars)
    return found


def ok(**results: Any) -> dict[str, Any]:
    return {"ok": True, "results": results, "error": None}


def refused(code: int, what: str = "no") -> dict[str, Any]:
    return {"ok": False, "results": {}, "error": {"what": what, "why": "", "next": "", "code": code}}


def test_a_failed_verb_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = perform(Connection(refused(4, "it broke")), "start", [{"verb": "start", "release": made.B}], monkeypatch)
    assert (found["verdict"], found["error"]["what"]) == ("fail", "it broke")
    assert "failed" not in found


def test_every_call_carries_the_name_and_generation_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(ok())
    perform(connection, "confirm", [{"verb": "confirm", "release": made.B}], monkeypatch)
    assert connection.calls[0]["deploy_id"] == "20260101T000000-abcdef"
    assert connection.calls[0]["fence"] == 8
    assert connection._play_context.no_log  # ssh would print the answer at -vvv


def test_an_unreachable_host_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(AnsibleConnectionFailure("Failed to connect to the host via ssh: no route"))
    found = perform(connection, "start", [{"verb": "start", "release": made.B}], monkeypatch)
    assert (found["verdict"], found["unreachable"], found["error"]["what"]) == ("fail", True, "unreachable")


def test_a_session_is_kept_out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = ok(smoke={"verdict": "pass", "session": {"sessionid": SECRET}})
    steps = [{"verb": "smoke", "target": "idle", "release": made.B}]
    found = perform(Connection(answer), "smoke", steps, monkeypatch)
    assert found["_ansible_no_log"]
    assert found.pop("session") == {"sessionid": SECRET}
    assert SECRET not in json.dumps(found)
    # after the migrations nobody needs it: the answer stays readable
    other = perform(Connection(answer), "migrate", steps, monkeypatch)
    assert "_ansible_no_log" not in other
    assert SECRET not in json.dumps(other)


def test_the_image_is_sent_only_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "m.json"
    manifest.write_text('{"artifact": "x"}')
    inputs = made.inputs()
    inputs["artifact"] |= {"manifest": str(manifest), "image": "/store/x.squashfs"}
    connection = Connection(
        {**ok(stage={"have": False}), "stopped": "stage"}, ok(stage={"have": True}, configure={"release": made.B})
    )
    steps: list[dict[str, Any]] = [{"verb": "stage"}, {"verb": "configure"}]
    variables = {"app_wsgi": "shop.wsgi:app", "app_secrets": {"KEY": SECRET}}
    found = perform(connection, "stage", steps, monkeypatch, inputs=inputs, variables=variables)
    name = f"{inputs['artifact']['stem']}.squashfs.{inputs['deploy_id']}"
    assert connection.files == [("/store/x.squashfs", f"/srv/shop/inbox/{name}")]
    assert "image" not in connection.calls[0]["steps"][0]
    assert connection.calls[1]["steps"][0]["image"] == name
    assert connection.calls[1]["steps"][1]["config"]["secrets"] == {"KEY": SECRET}
    assert found["sent"] == 5 << 20
    assert SECRET not in json.dumps(found)


def test_a_host_that_fetches_for_itself_is_given_the_token_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.json").write_text('{"artifact": "x"}')
    (tmp_path / "m.json.sig").write_text("signed")
    inputs = made.inputs()
    source = {"url": "https://store.example.org/x", "accept": "", "seconds": 60}
    inputs["artifact"] |= {"manifest": str(tmp_path / "m.json"), "image": "", "source": source}
    inputs["artifact"] |= {"signature": str(tmp_path / "m.json.sig")}
    connection = Connection({**ok(stage={"have": False}), "stopped": "stage"}, ok(stage={"have": True}))
    steps: list[dict[str, Any]] = [{"verb": "stage"}]
    found = perform(connection, "stage", steps, monkeypatch, inputs=inputs, variables={"artifact_token": SECRET})
    first, second = (call["steps"][0] for call in connection.calls)
    assert (first["signature"], first["sha"], first["manifest"]) == ("signed", inputs["sha"], {"artifact": "x"})
    assert "source" not in first
    assert second["source"] == source | {"token": SECRET}
    assert connection.files == []
    assert (found["fetched"], "sent" in found) == (5 << 20, False)
    assert SECRET not in json.dumps(found)


def test_what_must_happen_follows_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection(refused(1), ok())
    steps, always = [{"verb": "reconcile"}], [{"verb": "lease", "action": "release"}]
    found = perform(connection, "settle", steps, monkeypatch, always=always)
    assert found["verdict"] == "fail"
    assert [[step["verb"] for step in call["steps"]] for call in connection.calls] == [
        ["reconcile", "lease"],
        ["lease"],
    ]


def test_with_wait_a_run_says_whom_it_waits_for_and_goes_on_when_the_lease_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(action, "PAUSE", 0.0)
    said: list[str] = []
    monkeypatch.setattr(action.ActionModule, "_display", SimpleNamespace(display=said.append), raising=False)
    held = refused(5, "ann is at work")
    steps = [{"verb": "lease", "action": "take"}]
    waiting = made.inputs(wait=5.0)
    connection = Connection(held, held, ok(lease={"lease": {}}))
    assert perform(connection, "preflight", steps, monkeypatch, inputs=waiting)["verdict"] == "pass"
    assert said == ["  waiting: ann is at work"]
    assert perform(Connection(held), "preflight", steps, monkeypatch)["verdict"] == "fail"


def test_after_a_resume_the_host_is_asked_once_more_what_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = {"status": {"pending": {"sha": "x"}}}, {"status": {"pending": None}}
    connection = Connection(ok(lease=before, resume={"undone": made.B}), ok(lease=after))
    steps = [{"verb": "lease", "action": "take"}, {"verb": "resume"}]
    found = perform(connection, "preflight", steps, monkeypatch)
    assert found["results"]["lease"] == after
    assert found["results"]["resume"] == {"undone": made.B}
    assert [step["verb"] for step in connection.calls[1]["steps"]] == ["lease"]


def test_the_watch_counts_its_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [{"verb": "extend", "ttl": 60}, {"verb": "smoke", "target": "front", "during": "watch"}]
    inputs = made.inputs(watch=12.0)
    connection = Connection(ok(smoke={}) | {"seconds": 5.1})
    found = perform(connection, "watch", steps, monkeypatch, inputs=inputs)
    assert (connection.calls[0]["steps"][1]["during"], found["watched"]) == (5.0, 5.1)
    more = {"__watch_result": made.answer("smoke") | {"watched": 10.2}}
    connection = Connection(ok(smoke={}) | {"seconds": 1.8})
    found = perform(connection, "watch", steps, monkeypatch, inputs=inputs, variables=more)
    assert (round(connection.calls[0]["steps"][1]["during"], 1), found["watched"]) == (1.8, 12.0)


def test_a_canary_adds_up_what_its_rounds_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[dict[str, Any]] = [
        {"verb": "route", "share": "canary", "ttl": 60, "only": "new_share"},
        {"verb": "extend", "ttl": 60, "only": "same_share"},
        {"verb": "measure", "of": "canary"},
    ]
    asked = made.inputs(canary=[5], canary_watch=20.0, judge={"groups": [{"name": "shop", "paths": ["/"]}]})
    found = {
        "colours": {"green": {"shop": {"ok": 7, "hist": {"3": 7}}}, "blue": {}},
        "cursor": {"inode": 4, "offset": 9},
    }
    connection = Connection(ok(route={"colour": "green"}, measure=found) | {"seconds": 5.0})
    first = perform(connection, "canary", steps, monkeypatch, inputs=asked)
    sent = connection.calls[0]["steps"]
    assert [step["verb"] for step in sent] == ["route", "measure"]
    assert (sent[0]["share"], sent[1]["groups"][0]["name"]) == (5, "shop")
    assert "measure" not in first["results"]
    assert first["changed"]
    # the next round reads on and adds to it, if all hosts have answered
    monkeypatch.setattr(made, "HOSTS", ("web1",))
    variables = {"__canary_result": first, "__stage_result": made.staged()}
    connection = Connection(ok(extend={}, measure=found) | {"seconds": 5.0})
    second = perform(connection, "canary", steps, monkeypatch, inputs=asked | {"hosts": ["web1"]}, variables=variables)
    sent = connection.calls[0]["steps"]
    assert [step["verb"] for step in sent] == ["extend", "measure"]
    assert sent[1]["cursor"] == {"inode": 4, "offset": 9}
    sums = json.loads(second["judged"])
    assert (sums["new"]["shop"]["ok"], sums["spent"], len(sums["rounds"])) == (14, 10.0, 2)
    assert second["first_began"] == first["began"]


def test_without_inputs_a_phase_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Connection()
    found = perform(connection, "preflight", [], monkeypatch, inputs={})
    assert found["failed"]
    assert "--limit" in found["error"]["what"]
    assert connection.calls == []


# outcome


def outcome(
    hosts: dict[str, dict[str, Any]], inputs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    plugin = bluegreen_outcome.ActionModule.__new__(bluegreen_outcome.ActionModule)
    plugin._task = SimpleNamespace(args={})
    monkeypatch.setattr(bluegreen_outcome.ActionBase, "run", lambda *_: {})
    hostvars = HostVars(hosts | {"localhost": {"__inputs_result": inputs}})
    found: dict[str, Any] = plugin.run(None, {"hostvars": hostvars})
    return found


def test_a_run_that_did_not_get_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {
        host: {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.failed()} for host in made.HOSTS
    }
    found = outcome(hosts, made.inputs(), monkeypatch)
    assert found["failed"]
    assert "Stage: web1, web2, web3: it broke" in found["msg"]


def test_a_plan_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {
        host: {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.answer()} for host in made.HOSTS
    }
    out = tmp_path / "plan.json"
    found = outcome(hosts, made.inputs(check=True, plan_out=str(out)), monkeypatch)
    assert not found["failed"]
    assert json.loads(out.read_text())["hosts"]["web1"]["live"] == made.SHA[made.A]


def test_a_report_is_written_where_there_was_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = {
        host: {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.failed()} for host in made.HOSTS
    }
    out = tmp_path / "new" / "place"
    found = outcome(hosts, made.inputs(report=str(out)), monkeypatch)
    assert found["failed"]
    written = json.loads((out / "report.json").read_text())
    assert (written["ok"], written["ending"]) == (False, "failed")
    assert written["problems"][0]["what"] == "it broke"
    assert "<b>Next</b> <code>correct it, build the next commit" in (out / "report.html").read_text()
    assert found["lines"] == []
    assert found["outcome"]["failure"]["next"].endswith(f" and deploy that (report: {out / 'report.html'})")
    assert "report.html" not in written["failure"]["next"]


def test_the_last_line_of_a_good_run_names_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.staged(made.A)}
    inputs = made.inputs(report=str(tmp_path), sha=made.SHA[made.A])
    found = outcome(dict.fromkeys(made.HOSTS, answers), inputs, monkeypatch)
    assert not found["failed"]
    assert found["outcome"]["line"].startswith("shop: nothing to do, aaaaaaaaaaaa is live on 3 hosts ({time})")
    assert found["outcome"]["line"].endswith(f"; report: {tmp_path / 'report.html'}")


@pytest.mark.parametrize("place", ["report.json", "report.html"])
def test_a_report_that_cannot_be_written_is_said_and_decides_nothing(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.staged(made.A)}
    inputs = made.inputs(report=str(tmp_path), sha=made.SHA[made.A])
    (tmp_path / place).mkdir()
    found = outcome(dict.fromkeys(made.HOSTS, answers), inputs, monkeypatch)
    assert not found["failed"]
    assert found["lines"] == [f"{tmp_path / place} could not be written: Is a directory"]
    assert "report" not in found["outcome"]["line"]


def test_a_mistake_in_the_report_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"__preflight_result": made.taken(made.LIVE_A), "__stage_result": made.staged(made.A) | {"began": "?"}}
    inputs = made.inputs(report=str(tmp_path), sha=made.SHA[made.A])
    found = outcome(dict.fromkeys(made.HOSTS, answers), inputs, monkeypatch)
    assert not found["failed"]
    assert found["lines"][0].startswith("the report could not be made: ")


def test_status_names_hosts_that_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s.json"
    inputs = made.inputs("status", format="json", out=str(out))
    hosts = {host: {"__status_result": made.answer("status", made.LIVE_A)} for host in made.HOSTS}
    assert not outcome(hosts, inputs, monkeypatch)["failed"]
    assert len(json.loads(out.read_text())["hosts"]) == 3
    hosts["web2"]["__status_result"] = made.failed("unreachable")
    found = outcome(hosts, inputs, monkeypatch)
    assert found["failed"]
    assert "web2" in found["msg"]


@pytest.mark.parametrize(("status", "fails"), [(0, False), (1, True)])
def test_the_exit_status_of_a_command_decides(status: int, fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = made.answer("manage", {"rc": status, "output": ["line"]})
    inputs = made.inputs("manage", what="manage check", command="check")
    found = outcome({"web1": {"__manage_result": answer}}, inputs, monkeypatch)
    assert (found["failed"], found["lines"]) == (fails, ["line"])
