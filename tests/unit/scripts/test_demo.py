"""The demo's own part: its inventory, its record, and what it does when something goes wrong. The hosts are fakes."""

from __future__ import annotations

import io
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import demo as tool
from support import example_fleet
from support.common import Failure
from support.example_fleet import Fleet, Ran, Runner

SHAS = {name: (name[1] * 40) for name in ("r1", "r2", "r3")}


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The demo sets handlers for the rest of its process; here others follow."""
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(name) for name in names]
    yield
    for name, handler in zip(names, before, strict=True):
        signal.signal(name, handler)


class FakeFleet(Fleet):
    """Deploys succeed at once; `broken` ones are refused."""

    def make_repository(self) -> None:
        self.shas = dict(SHAS)

    def probe_token(self) -> str:
        return "token"

    def playbook(self, name: str, **variables: object) -> list[str]:
        return [name, str(variables.get("sha", ""))]


class FakeRunner(Runner):
    """Remembers the commands; keeps which release is live; `fail` names a command that fails."""

    def __init__(self, logs: Path, fleet: FakeFleet, fail: str = "", interrupt: str = "") -> None:
        super().__init__(logs, lambda line: None)
        self.fleet = fleet
        self.fail = fail
        self.interrupt = interrupt
        self.commands: list[str] = []
        self.live = ""

    def __call__(self, command: Sequence[str], log: Path, *, timeout: float, own_session: bool = True) -> Ran:
        text = " ".join(Path(word).name for word in command[:2])
        self.commands.append(text)
        if self.interrupt and text.startswith(self.interrupt):
            self.interrupt = ""
            raise KeyboardInterrupt
        status = 1 if self.fail and text.startswith(self.fail) else 0
        if text.startswith("deploy.yml") and not status:
            if command[1] == SHAS["r3"]:
                status = 2
            else:
                self.live = command[1]
        if text == "rollback.yml " and not status:
            self.live = SHAS["r1"]
        return Ran(status, time.monotonic(), 0.1, "the last line")


class FakeLoad:
    """Answers everything at once."""

    failures = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.tally = self
        self.requests, self.failed, self.timeout = 9000, FakeLoad.failures, 1


class FakeThread:
    def __init__(self, load: FakeLoad) -> None:
        self.load = load

    def start(self) -> None:
        self.started = time.monotonic()

    def stop(self) -> dict[str, Any]:
        moment = {"monotonic": time.monotonic() + 2, "wall": 0.0, "at": ""}
        failure = {"method": "GET", "target": "http://10.213.60.11", "path": "/", "detail": "status 502"}
        return {
            "requests": self.load.requests,
            "failed": self.load.failed,
            "failures": [failure] * min(1, self.load.failed),
            "releases": {f"{'2' * 12}-abcdabcd": {"last_quick": moment, "last": moment}},
            "targets": {"http://10.213.60.11": {"longest_gap_seconds": 0.2}},
        }


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(tool, "Load", FakeLoad)
    monkeypatch.setattr(tool, "LoadThread", FakeThread)
    monkeypatch.setattr(tool.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(FakeLoad, "failures", 0)
    monkeypatch.setattr(
        Fleet, "serving", lambda self: dict.fromkeys(self.urls, f"{self.runner.live[:12]}-abcdabcd"), raising=True
    )
    return tmp_path


def played(place: Path, *arguments: str, **faults: str) -> tuple[int, tool.Demo, FakeRunner, str]:
    options = tool.checked([*arguments, "--inventory", str(place / "inventory"), "--report", str(place / "r.json")])
    fleet = FakeFleet(options.inventory, place, options.hosts, options.subnet)
    runner = FakeRunner(place, fleet, **faults)
    fleet.runner = runner  # type: ignore[attr-defined]
    out = io.StringIO()
    screen = tool.Screen(out)
    demo = tool.Demo(options, screen, fleet, runner)
    try:
        status = tool.perform(demo)
    finally:
        screen.close()
    return status, demo, runner, out.getvalue()


def test_the_story(ready: Path) -> None:
    status, _demo, runner, out = played(ready, "--hosts", "3")
    assert status == 0, out
    assert runner.commands == [
        "setup",
        "build-artifact -i",
        "build-artifact -i",
        "build-artifact -i",
        "hosts down",
        "hosts up",
        "provision.yml ",
        f"deploy.yml {SHAS['r1']}",
        f"deploy.yml {SHAS['r2']}",
        f"deploy.yml {SHAS['r3']}",
        "rollback.yml ",
        "hosts down",
    ]
    report = json.loads((ready / "r.json").read_text())
    assert (report["ok"], report["requests"], report["failed"]) == (True, 9000, 0)
    assert report["rollback_seconds"] == pytest.approx(2, abs=0.5)
    assert [host["name"] for host in report["hosts"]] == ["web1", "web2", "web3", "lb1", "db1", "cache1"]
    assert report["urls"][0] == "http://10.213.60.21"
    refused = [step for step in report["steps"] if step["outcome"] == "refused"]
    assert [step["sha"] for step in refused] == [SHAS["r3"]]
    assert not (ready / "inventory").exists()


def test_keep_says_how_to_reach_and_how_to_remove(ready: Path) -> None:
    status, _, runner, out = played(ready, "--keep")
    assert status == 0
    assert runner.commands.count("hosts down") == 1, "only what an earlier run left"
    assert "curl -H 'Host: orders.example.org' http://10.213.60.11/" in out
    assert "scripts/hosts down" in out
    assert (ready / "inventory" / "hosts.yml").exists()


@pytest.mark.parametrize(
    "command", ["setup", "build-artifact", "hosts up", "provision.yml", "deploy.yml", "rollback.yml"]
)
def test_a_failed_step_ends_it_and_the_hosts_go(ready: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, demo, runner, _ = played(ready, fail=command)
    assert status == 1
    assert runner.commands[-1] == ("hosts down" if demo.hosts_made else runner.commands[-1])
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "the last line" in error
    assert ".log" in error
    report = json.loads((ready / "r.json").read_text())
    assert report["steps"][-1 if not demo.hosts_made else -2]["outcome"] == "failed"
    assert not report["ok"]


def test_a_failed_request_fails_the_demo(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(FakeLoad, "failures", 3)
    assert played(ready)[0] == 1
    assert "3 of 9000 requests failed, the first: GET http://10.213.60.11/: status 502" in capsys.readouterr().err


def test_a_broken_release_that_deploys_fails_the_demo(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAS, "r3", "4" * 40)
    original = FakeRunner.__call__

    def lenient(self: FakeRunner, command: Sequence[str], log: Path, **options: Any) -> Ran:
        ran = original(self, command, log, **options)
        return Ran(0, ran.started, ran.seconds, ran.reason)

    monkeypatch.setattr(FakeRunner, "__call__", lenient)
    assert played(ready)[0] == 1
    assert "cannot work" in capsys.readouterr().err


def test_ctrl_c_removes_the_hosts(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, runner, _ = played(ready, interrupt="provision.yml")
    assert status == 130
    assert runner.commands[-1] == "hosts down"
    assert "interrupted" in capsys.readouterr().err


def test_the_wrong_release_answering_fails_the_step(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Fleet, "serving", lambda self: {"http://10.213.60.11": f"{'9' * 12}-abcdabcd"})
    assert played(ready)[0] == 1
    assert "r1 should answer everywhere, but http://10.213.60.11: 999999999999-abcdabcd" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--hosts", "0"], "1 to 9"),
        (["--hosts", "12"], "1 to 9"),
        (["--subnet", "8.8.8.0/24"], "not a private /24"),
        (["--subnet", "10.0.0.0/16"], "not a private /24"),
        (["--subnet", "nonsense"], "not a network"),
        (["--rate", "0"], "--rate 0"),
        (["--rate", "nan"], "--rate nan"),
        (["--requests", "1000000"], "--requests"),
        (["--watch", "-1"], "--watch"),
        (["--report", "/nonexistent/r.json"], "--report"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    def start() -> Fleet:
        options = tool.checked(arguments)
        return Fleet(options.inventory, tmp_path, options.hosts, options.subnet)

    with pytest.raises(Failure, match=says) as refused:
        start()
    assert refused.value.code == 2
    assert "\n" not in str(refused.value)


# --- the fleet ----------------------------------------------------------------------------------------------------


def test_the_inventory(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "inventory", tmp_path, 2, "10.1.2.0/24")
    fleet.write_inventory({"app_env": {"A": "1"}})
    hosts = yaml.safe_load((tmp_path / "inventory" / "hosts.yml").read_text())["all"]
    assert sorted(hosts["children"]) == ["app_servers", "caches", "databases", "load_balancers"]
    assert hosts["children"]["app_servers"]["hosts"]["web2"]["ansible_host"] == "10.1.2.12"
    assert "StrictHostKeyChecking=yes" in hosts["vars"]["ansible_ssh_common_args"]
    values = tmp_path / "inventory" / "group_vars" / "app_servers"
    assert yaml.safe_load((values / "app.yml").read_text())["app_name"] == "orders"
    last = max(path.name for path in values.iterdir())
    assert yaml.safe_load((values / last).read_text()) == {
        "app_source": str(tmp_path / "orders"),
        "artifact_store": str(tmp_path / "artifacts"),
        "artifact_signers": str(tmp_path / "inventory/allowed_signers.txt"),
        "artifact_require_signature": True,
        "app_env": {"A": "1"},
    }
    signers = (tmp_path / "inventory/allowed_signers.txt").read_text()
    assert (tmp_path / "signing_key.pub").read_text().split()[1] in signers
    fleet.write_inventory()
    assert (tmp_path / "inventory/allowed_signers.txt").read_text() == signers, "what was signed stays good"


def test_secrets_are_new_each_time_and_readable_by_the_owner_alone(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "inventory", tmp_path, 1, "10.1.2.0/24")
    path = tmp_path / "inventory" / "group_vars" / "app_servers" / "secrets.yml"
    seen = []
    for _ in range(2):
        fleet.write_inventory()
        seen.append(yaml.safe_load(path.read_text()))
        assert path.stat().st_mode & 0o077 == 0
    template = yaml.safe_load((example_fleet.SETTINGS / "secrets.yml").read_text())
    assert set(seen[0]) == set(seen[1]) == set(template)
    values = [value for one in seen for value in one.values()]
    assert len(set(values)) == len(values)
    assert not set(values) & set(template.values())


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "inventory"
    theirs.mkdir()
    (theirs / "hosts.yml").write_text("---\nall: {}\n")
    with pytest.raises(Failure, match="holds something else"):
        Fleet(theirs, tmp_path, 1, "10.1.2.0/24").write_inventory()
    assert (theirs / "hosts.yml").read_text() == "---\nall: {}\n"


def test_one_host_has_no_balancer_and_is_the_entrance(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, tmp_path, 1, "10.1.2.0/24")
    assert [node.name for node in fleet.nodes] == ["web1", "db1", "cache1"]
    assert fleet.urls == ["http://10.1.2.11"]


# --- running commands and showing them ------------------------------------------------------------------------------


def test_the_runner_shows_logs_and_reports(tmp_path: Path) -> None:
    lines: list[str] = []
    run = Runner(tmp_path, lines.append)
    log = run.log_path("Deploy r1, now")
    ran = run([sys.executable, "-c", "print('one'); print(); print('two'); raise SystemExit(3)"], log, timeout=30)
    assert (ran.status, ran.reason, lines) == (3, "two", ["one", "two"])
    assert log.name == "01-deploy-r1-now.log"
    assert "one\n\ntwo\n" in log.read_text()


def test_the_reason_is_the_playbooks_own() -> None:
    lines = ["  Start  2 hosts  1.0 s", "FAILED web1: start", "  why   ModuleNotFoundError: x", "  next  correct it"]
    assert example_fleet.reason(lines) == "FAILED web1: start: ModuleNotFoundError: x"
    assert example_fleet.reason(["hosts: cannot start web1: no space"]) == "hosts: cannot start web1: no space"
    assert example_fleet.reason([]) == ""


def test_the_runner_ends_a_command_that_takes_too_long(tmp_path: Path) -> None:
    run = Runner(tmp_path, lambda line: None)
    started = time.monotonic()
    with pytest.raises(Failure, match=r"no end after 0\.3 s"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], run.log_path("x"), timeout=0.3)
    assert time.monotonic() - started < 15


def test_the_runner_ends_its_command_when_interrupted(tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    run = Runner(tmp_path, interrupt)
    before = threading.active_count()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run([sys.executable, "-uc", "import time; print(1); time.sleep(60)"], run.log_path("x"), timeout=50)
    assert time.monotonic() - started < 15
    time.sleep(0.1)
    assert threading.active_count() <= before


def test_without_a_terminal_a_silent_step_speaks_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "QUIET_SECONDS", 0.1)
    out = io.StringIO()
    screen = tool.Screen(out)
    screen.note = lambda: "12 requests, 0 failed"
    screen.step("deploy r2")
    time.sleep(0.7)
    screen.close()
    assert "deploy r2 … " in out.getvalue()
    assert "(12 requests, 0 failed)" in out.getvalue()
    assert "\r" not in out.getvalue()


def test_on_a_terminal_the_clock_runs_below_the_lines() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    screen = tool.Screen(out)
    screen.step("deploy r2")
    time.sleep(0.5)
    screen.line("    a line of the deploy")
    screen.close()
    assert "deploy r2 … 0 s" in out.getvalue()
    assert "\r\x1b[K    a line of the deploy\n" in out.getvalue()
