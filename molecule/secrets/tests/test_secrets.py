"""Secrets reach the application unharmed and nobody else; a rollback returns those of its time. One story.

Every secret holds a mark of this run. What playbooks print, what they leave on both sides, the journal, the process
lists and the history are searched for it at the end.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from artifacts import DIARY_STORE
from marks import expect_silence, found_in, found_on
from promises import LOGS, REPO, Deployment, Ran, approvals, until

from bluegreen.secrets import environment_line
from support.ci import cancel
from support.ci.record import Record

LOUD = ("-vvv", "--diff")
ODD = "MARK 1\nMARK \"2\" 'x' $HOME `id` $(id) \\ \\n %s {{ x }} ü € MARK\n\n"
WATCH = "/run/secrets-watch"
WATCHER = f"""
import os, signal, time
seen, ended = set(), []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
while not ended:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            seen.add(open("/proc/" + pid + "/cmdline", "rb").read())
        except OSError:
            pass
    time.sleep(0.02)
open({WATCH!r}, "wb").write(b"\\n".join(seen))
"""


class Marked:
    """The notes with marked secrets in a vault, and everything that was printed about them."""

    def __init__(self, vm: Deployment, directory: Path, mark: str = "", **settings: Any) -> None:
        self.mark = mark or f"mark{secrets.token_hex(12)}"
        self.password = directory / "vault-password"
        self.password.write_text(secrets.token_hex(16))
        self.reports = directory / "reports"
        self.reports.mkdir()
        self.began = f"@{time.time() - 1:.0f}"
        self.commands: Callable[[], str] = str  # what was in the process lists of this machine
        marked = {
            "name": "marked",
            "path": "/",
            "headers": {"X-Marked": "{{ vault_marked_header }}"},
            "contains": "far",
        }
        usual: dict[str, Any] = {
            "app_secrets": {
                "NOTES_SECRET": {"value": "{{ vault_marked_file }}", "as": "file"},
                "NOTES_SMOKE_PASSWORD": "{{ vault_notes_smoke_password }}",
                "ODD": "{{ vault_marked_odd }}",
                "ADDRESS": "postgres://notes:{{ vault_marked_password }}@192.0.2.31/notes",
            },
            "app_smoke": [marked],
            "app_writable_dirs": ["media", "marked"],  # no release of another scenario has the same settings
            "database_password": "{{ vault_marked_password }}",
            "cache_password": "{{ vault_marked_password }}",
            "artifact_token": "{{ vault_marked_token }}",
            "judge_prometheus_token": "{{ vault_marked_token }}",
        }
        self.deployment = vm.variant(directory, **(usual | settings))
        self.values = {
            "file": f"-----BEGIN {self.mark}-----\n{ODD}-----END-----",
            "odd": ODD,
            **{name: f"MARK-{name}" for name in ("header", "password", "token")},
        }
        self.keep()

    def keep(self, **changed: str) -> None:
        """Write the values, encrypted; some of them changed."""
        self.values |= changed
        texts = {name: json.dumps(self.real(name), ensure_ascii=False) for name in self.values}
        lines = [f"vault_marked_{name}: !unsafe {text}\n" for name, text in texts.items()]
        command = [REPO / ".venv/bin/ansible-vault", "encrypt", "--vault-password-file", self.password, "--output", "-"]
        done = subprocess.run(command, input="".join(lines), capture_output=True, text=True, check=True)
        place = self.deployment.inventory / "group_vars" / "app_servers" / "vault.yml"
        place.write_text(done.stdout)
        assert self.mark not in place.read_text()

    def real(self, name: str) -> str:
        """A value as the application is to get it."""
        return self.values[name].replace("MARK", self.mark)

    def run(self, playbook: str, *words: str, good: bool = True, **extra: object) -> Ran:
        """A playbook with all that it can say."""
        if playbook in ("deploy.yml", "rollback.yml") and "--check" not in words:
            extra["report"] = self.reports
        ran = self.deployment.playbook(playbook, *LOUD, "--vault-password-file", str(self.password), *words, **extra)
        assert (ran.status == 0) is good, ran.tail()
        self.expect_silence(ran.output)
        return ran

    def fails(self, phase: str, sha: str, extra: dict[str, Any], **more: Any) -> Ran:
        """A deploy with all that it can say, that has to fail in this phase."""
        (self.reports / "report.json").unlink(missing_ok=True)
        ran = self.run("deploy.yml", "-e", json.dumps(extra), good=False, sha=sha, retry_bad=True, **more)
        report = json.loads((self.reports / "report.json").read_text())
        failed = [one["name"] for one in report["phases"] if "fail" in one["hosts"].values()]
        failed += [one["phase"] for one in report["problems"]]
        assert phase in failed, f"{failed}\n{ran.tail()}"
        return ran

    @contextlib.contextmanager
    def switched(self, vm: Deployment, sha: str, **extra: Any) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
        """A deploy with all that it can say, in its watch: its process, and what the host has pending."""
        words = (*LOUD, "--vault-password-file", str(self.password))
        more = {"watch": 300, "retry_bad": True, **extra}
        process = self.deployment.start("deploy.yml", *words, sha=sha, **more)
        try:
            yield process, until(lambda: vm.status()["vm1"]["pending"], "the switch", 120)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def expect_silence(self, text: str) -> None:
        """No form of the mark stands in a text."""
        expect_silence(text, self.mark)


@pytest.fixture(scope="module")
def marked(vm: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marked]:
    """Marked secrets, and process lists watched on both sides from here on."""
    made = Marked(vm, tmp_path_factory.mktemp("marked"))
    vm.on("vm1", f"systemd-run -q --collect --unit=secrets-watch /usr/bin/python3 -c {shlex.quote(WATCHER)}")
    ended, seen = threading.Event(), set[bytes]()

    def watch() -> None:
        while not ended.wait(0.05):
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(place.read_bytes())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    made.commands = lambda: b"\n".join(seen).decode(errors="replace")
    yield made
    ended.set()
    thread.join()
    vm.on("vm1", f"systemctl stop secrets-watch; rm -f {WATCH}", check=False)
    vm.deploy("n1", watch=0, retry_bad=True)  # with the settings of the other scenarios


def environment(vm: Deployment) -> dict[str, str]:
    """The environment of the process that serves."""
    colour = vm.status()["vm1"]["live"]["colour"]
    pid = vm.on("vm1", f"systemctl show -P MainPID notes@{colour}").strip()
    raw = base64.b64decode(vm.on("vm1", f"base64 -w0 /proc/{pid}/environ"))
    return dict(part.decode().split("=", 1) for part in raw.split(b"\0") if part)


def live(vm: Deployment) -> str:
    """The id of the live release."""
    return str(vm.status()["vm1"]["live"]["release"])


def config(vm: Deployment, release: str) -> dict[str, Any]:
    """What a release says of itself."""
    found: dict[str, Any] = json.loads(vm.on("vm1", f"cat /srv/notes/releases/{release}/config.json"))
    return found


def test_provisioning_and_a_first_deploy_say_nothing(vm: Deployment, marked: Marked) -> None:
    marked.run("provision.yml", timeout=900)
    vm.given("n1")
    marked.run("deploy.yml", "--check", sha=vm.sha("n1"))
    marked.run("deploy.yml", sha=vm.sha("n1"), watch=1)
    vm.expect_live("n1")


def test_what_provisioning_would_do_to_databases_and_caches_says_nothing(vm: Deployment, tmp_path: Path) -> None:
    host = {"hosts": {"bare13": {"ansible_host": vm.address("bare13")}}}
    groups = dict.fromkeys(("app_servers", "databases", "caches", "monitoring"), host)
    register = "postgresql://register:{{ vault_marked_password | urlencode }}@192.0.2.1/register"
    bare = Marked(vm, tmp_path, hosts=groups, app_python="3.13", bluegreen_database_url=register)
    words = (*LOUD, "--check", "--vault-password-file", str(bare.password))
    ran = bare.deployment.playbook("provision.yml", *words)  # how far it comes on a bare host does not matter here
    assert "database" in ran.output, ran.tail()
    bare.expect_silence(ran.output)


def test_every_value_arrives_as_it_is_as_environment_and_as_a_file(vm: Deployment, marked: Marked) -> None:
    found = environment(vm)
    assert found["ODD"] == marked.real("odd")
    assert found["ADDRESS"] == f"postgres://notes:{marked.real('password')}@192.0.2.31/notes"
    place = shlex.quote(found["NOTES_SECRET_FILE"])
    assert base64.b64decode(vm.on("vm1", f"base64 -w0 {place}")).decode() == marked.real("file")
    assert "NOTES_SECRET" not in found


def test_background_processes_and_commands_get_them_too(vm: Deployment, marked: Marked) -> None:
    pid = vm.on("vm1", "pgrep -f 'manage.py process_notes'").split()[0]
    raw = base64.b64decode(vm.on("vm1", f"base64 -w0 /proc/{pid}/environ")).decode()
    assert f"ODD={marked.real('odd')}\0" in raw
    code = "import os, django.conf; print(len(os.environ['ODD']), len(django.conf.settings.SECRET_KEY))"
    ran = marked.run("manage.yml", "-e", json.dumps({"command": f"shell -v 0 -c {shlex.quote(code)}"}))
    assert f"{len(marked.real('odd'))} {len(marked.real('file').strip())}" in ran.output, ran.tail()


def test_they_are_sealed_and_only_root_can_read_what_is_stored(vm: Deployment, marked: Marked) -> None:
    release = live(vm)
    assert config(vm, release)["secrets_kept"] == "sealed", "this host can encrypt, and its units get what is encrypted"
    stored = vm.on("vm1", f"find /srv/notes/releases/{release}/secrets -type f").split()
    assert len(stored) == 4
    for path in [*stored, f"/srv/notes/releases/{release}/env", f"/srv/notes/releases/{release}/secrets.json"]:
        assert vm.on("vm1", f"stat -c %U:%a {path}").strip() == "root:600"
        assert vm.host("vm1").run(f"runuser -u notes -- cat {path}").rc != 0, path


def test_what_a_host_without_credentials_keeps_is_read_by_systemd_as_it_is(vm: Deployment) -> None:
    """The hosts of this story hand on credentials: their systemd is asked about the other way."""
    values = {"ODD": ODD + '\r\n\x81\t"\\\\n"$x${y}😀 # ;\\', "PLAIN": "x", "BLANK": "  \n", "END": "\\"}
    coded = base64.b64encode("".join(environment_line(*item) for item in values.items()).encode()).decode()
    place = "/run/environment-of-the-tests"
    vm.on("vm1", f"umask 077; echo {coded} | base64 -d > {place}")
    ask = f"systemd-run -q --wait --pipe --collect -p EnvironmentFile={place} /usr/bin/env -0"
    raw = base64.b64decode(vm.on("vm1", f"{ask} < /dev/null | base64 -w0; rm {place}")).decode()
    found = dict(part.split("=", 1) for part in raw.split("\0") if part)
    assert {name: found.get(name) for name in values} == values


def test_a_command_that_prints_its_settings_prints_no_secret(marked: Marked) -> None:
    ran = marked.run("manage.yml", "-e", json.dumps({"command": "diffsettings"}))
    assert "ALLOWED_HOSTS" in ran.output, ran.tail()


def test_reading_playbooks_say_nothing(vm: Deployment, marked: Marked) -> None:
    marked.run("status.yml", format="json", out=marked.reports / "status.json")
    marked.run("unlock.yml")


LEAKY = """
from website.config.production import *
import os
raise RuntimeError(os.environ["ODD"] + os.environ["ADDRESS"])
"""
WRONG = {"name": "marked", "path": "/nowhere", "headers": {"X-Marked": "{{ vault_marked_header }}"}}
NOWHERE = {"NOTES_DATABASE": "/nowhere/notes.sqlite3", "NOTES_HOSTS": "notes.example.org"}
# Of Django at the socket, where it passes; nginx serves it to visitors.
FRONT_ONLY = WRONG | {"path": "/assets/journal/notes.css", "expect": 404}
FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "preflight": ("n2", {"rollout_min_free_mb": 90_000_000}),
    "stage": ("n2", {"app_settings_module": "leaky", "app_files": {"leaky.py": LEAKY}}),  # it prints its secrets
    "plan_migrations": ("n2", {"app_env": NOWHERE}),
    "start": ("n3", {"rollout_start_timeout": 20}),
    "smoke": ("n2", {"app_smoke": [WRONG], "rollout_smoke_timeout": 5}),
    "switch": ("n2", {"app_smoke": [FRONT_ONLY], "rollout_smoke_timeout": 5}),
}


def test_settings_that_are_wrong_say_nothing(vm: Deployment, marked: Marked) -> None:
    before = vm.snapshot()
    marked.run("deploy.yml", "-e", json.dumps({"app_workers": "many"}), good=False, sha=vm.sha("n2"))
    assert vm.snapshot() == before


@pytest.mark.parametrize("phase", FAILURES)
def test_a_failure_says_nothing(vm: Deployment, marked: Marked, phase: str) -> None:
    before = live(vm)
    release, extra = FAILURES[phase]
    marked.fails(phase, vm.sha(release), extra, watch=1)
    assert live(vm) == before


class Echo(BaseHTTPRequestHandler):
    """A Prometheus that is down and says so with the token that it was given."""

    def do_POST(self) -> None:
        body = json.dumps({"status": "error", "error": f"not with {self.headers['Authorization']}"}).encode()
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_a_canary_that_is_refused_says_nothing_also_if_its_source_repeats_the_token(
    vm: Deployment, marked: Marked
) -> None:
    before = live(vm)
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as source:
        threading.Thread(target=source.serve_forever, daemon=True).start()
        kpi = {"name": "orders", "query": "orders", "min": 1}
        extra = {"judge_kpis": [kpi], "judge_prometheus_url": f"http://127.0.0.1:{source.server_port}"}
        ran = marked.fails("canary", vm.sha("n2"), extra, canary=5, watch=5)
        source.shutdown()
    assert "HTTP status 503: not with Bearer ***" in ran.output, ran.tail()
    assert live(vm) == before


@contextlib.contextmanager
def held(vm: Deployment, name: str) -> Iterator[None]:
    """A file of the host's state that nobody can replace while the block runs: something is mounted on it."""
    place = f"/var/lib/bluegreen/notes/{name}"
    vm.on("vm1", f"mount --bind {place} {place}")
    try:
        yield
    finally:
        vm.on("vm1", f"umount {place}")


def test_a_failure_in_the_watch_says_nothing(vm: Deployment, marked: Marked) -> None:
    before = live(vm)
    with marked.switched(vm, vm.sha("n2")) as (process, pending):
        vm.on("vm1", f"systemctl stop notes@{pending['colour']}")
        assert process.wait(120) != 0
    until(lambda: live(vm) == before and not vm.status()["vm1"]["pending"], "the release before serves", 90)


def test_a_switch_that_cannot_be_confirmed_says_nothing(vm: Deployment, marked: Marked) -> None:
    before = live(vm)
    with held(vm, "active.json"):
        marked.fails("confirm", vm.sha("n2"), {}, watch=0)
    assert (live(vm), vm.status()["vm1"]["pending"]) == (before, None)


def test_a_way_back_that_fails_says_nothing_and_the_hosts_own_timer_finishes_it(vm: Deployment, marked: Marked) -> None:
    before = live(vm)
    with marked.switched(vm, vm.sha("n2"), rollout_ttl=15, report=marked.reports) as (process, _):
        with held(vm, "pending.json"):
            assert process.wait(120) != 0
        report = json.loads((marked.reports / "report.json").read_text())
        assert "revert" in [one["name"] for one in report["phases"] if "fail" in one["hosts"].values()], report
    until(lambda: live(vm) == before and not vm.status()["vm1"]["pending"], "the release before serves", 90)


def test_the_way_back_of_a_run_that_was_cancelled_says_nothing(vm: Deployment, marked: Marked, tmp_path: Path) -> None:
    """What scripts/deploy does once it has ended a run in its watch."""
    before, found = live(vm), vm.status()["vm1"]
    with marked.switched(vm, vm.sha("n2")) as (process, pending):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fence = int(vm.on("vm1", "cat /var/lib/bluegreen/notes/fence"))
        lease = {"lease": vm.status()["vm1"]["lease"], "fence": fence, "status": found}
        told = {"verb": "deploy", "app": "notes", "deploy_id": pending["deploy_id"], "sha": vm.sha("n2")}
        answers = {"preflight": {"results": {"lease": lease}}, "switch": {"results": {"route": {}}}}
        record = Record(
            inputs=told | {"hosts": ["vm1"], "migration_host": "vm1", "retry_bad": True},
            reached=["preflight", "switch", "watch"],
            answers={phase: {"vm1": [answer | {"verdict": "pass"}]} for phase, answer in answers.items()},
        )
        hosts = tmp_path / "cancel.json"
        hosts.write_text(json.dumps(cancel.inventory(record)))
        ran = marked.run("playbooks/cancel.yml", "-i", str(hosts), good=False)
    assert "cancelled" in "\n".join(ran.lines[-3:]), ran.tail()
    status = vm.status()["vm1"]
    assert (live(vm), status["pending"], status["lease"]) == (before, None, None)


def test_a_failure_to_settle_says_nothing(vm: Deployment, marked: Marked) -> None:
    before = live(vm)
    one = {"command": "sleep infinity", "singleton": True}  # started once the release is live, and may not be
    names = " ".join(f"notes-{colour}@one-1.service" for colour in ("blue", "green"))
    vm.on("vm1", f"systemctl mask -q --runtime {names}")
    try:
        extra = json.dumps({"app_processes": {"one": one}})
        ran = marked.run("deploy.yml", "-e", extra, sha=vm.sha("n2"), watch=0, retry_bad=True)
    finally:
        vm.on("vm1", f"systemctl unmask -q --runtime {names}")
    assert "settling failed" in ran.output, ran.tail()
    assert live(vm) != before, "it serves all the same"
    marked.run("rollback.yml")
    assert live(vm) == before


def test_a_secret_that_nobody_gave_is_named(vm: Deployment, marked: Marked) -> None:
    named = {
        "vault_nobody_gave_it": "{{ vault_nobody_gave_it }}",
        "NOTES_SECRET": "{{ lookup('ansible.builtin.env', 'NOBODY_GAVE_IT', default='') }}",
    }
    for name, value in named.items():
        before = vm.snapshot()
        extra = json.dumps({"app_secrets": {"NOTES_SECRET": value}})
        ran = marked.run("deploy.yml", "-e", extra, good=False, sha=vm.sha("n1"))
        told = [line for line in ran.lines if line.lstrip().startswith(("FAILED", "why", "next"))][-3:]
        assert any("app_secrets" in line and name in line for line in told), ran.tail()
        assert vm.snapshot() == before


def test_a_value_may_come_from_the_environment_of_the_controller(
    vm: Deployment, marked: Marked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTES_ODD", marked.real("odd"))
    settings = {**marked.deployment.settings["app_secrets"], "ODD": "{{ lookup('ansible.builtin.env', 'NOTES_ODD') }}"}
    ran = marked.run("deploy.yml", "-e", json.dumps({"app_secrets": settings}), sha=vm.sha("n1"))
    assert "nothing to do" in ran.output, f"the same values are the same release\n{ran.tail()}"


def test_a_stored_secret_that_is_gone_stops_the_start_and_is_named(vm: Deployment, marked: Marked) -> None:
    marked.run("deploy.yml", sha=vm.sha("n2"), watch=0, retry_bad=True)
    idle = vm.status()["vm1"]["idle"]
    unit, place = f"notes@{idle['colour']}", f"/srv/notes/releases/{idle['release']}/secrets/NOTES_SECRET"
    vm.on("vm1", f"mv {place} /root/NOTES_SECRET && systemctl restart --no-block {unit}")
    journal = f"journalctl -q --no-pager -o cat -n 20 -u {unit}"
    until(lambda: "the secret NOTES_SECRET did not arrive" in vm.on("vm1", journal), "it is named", 30)
    vm.on("vm1", f"systemctl stop {unit}; systemctl reset-failed {unit}; true")
    ran = marked.run("rollback.yml", good=False)
    assert "NOTES_SECRET" in ran.output, ran.tail()
    # stopped first: systemd may be about to try again by itself
    vm.on("vm1", f"systemctl stop {unit}; systemctl reset-failed {unit}; mv /root/NOTES_SECRET {place}")
    vm.on("vm1", f"systemctl start {unit}")
    vm.expect_live("n2")


def test_a_changed_value_is_a_new_release_of_the_same_commit_and_no_request_fails(
    vm: Deployment, marked: Marked
) -> None:
    before = live(vm)
    marked.keep(odd=f"{ODD}changed")
    with vm.under_load():
        marked.run("deploy.yml", sha=vm.sha("n2"), watch=1)
    vm.expect_live("n2")
    assert live(vm) != before
    assert environment(vm)["ODD"] == marked.real("odd")


def test_a_rollback_returns_the_values_of_its_time(vm: Deployment, marked: Marked) -> None:
    newer = marked.real("odd")
    with vm.under_load():
        marked.run("rollback.yml")
    assert environment(vm)["ODD"] == newer.removesuffix("changed")


def test_but_not_of_a_secret_that_was_revoked(vm: Deployment, marked: Marked) -> None:
    password = marked.real("password")
    marked.keep(odd=f"{ODD}again", password="MARK-new-password")
    own = marked.deployment.inventory / "group_vars" / "app_servers" / "zz-variant.yml"
    own.write_text(f"{own.read_text()}app_secrets_revoked: [ADDRESS]\n")
    with vm.under_load():
        marked.run("deploy.yml", sha=vm.sha("n2"), watch=1)
        history = json.loads(vm.on("vm1", "bluegreen history --app notes --limit 5"))["entries"]
        revoked = next(entry for entry in history if entry["event"] == "revoke")
        assert ["ADDRESS"] in revoked["replaced"].values()
        until(lambda: vm.status()["vm1"]["idle"]["running"], "the warm release runs again", 60)
        marked.run("rollback.yml")
    found = environment(vm)
    assert not found["ODD"].endswith("again"), "not revoked: that of its time"
    assert marked.real("password") in found["ADDRESS"]
    assert password != marked.real("password")


# on PostgreSQL, where the schema goes back and a snapshot is restored

ON_POSTGRESQL = """
from website.config.production import *
import os
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "diary", "USER": "diary",
                         "HOST": os.environ["DATABASE_HOST"], "PASSWORD": os.environ["DATABASE_PASSWORD"]}}
"""
# What an earlier run on these hosts has left.
FORGET = """\
systemctl stop 'diary@*' 'diary-*'
for image in /srv/diary/images/*/; do umount "$image"; done
rm -rf /srv/diary /var/lib/bluegreen/diary
for name in $(runuser -u postgres -- psql -XAtc "select datname from pg_database where datname ~ '^diary'"); do
  runuser -u postgres -- dropdb "$name"
done
"""
HAS_PINNED = (
    "select count(*) from information_schema.columns where table_name = 'journal_note' and column_name = 'pinned'"
)


@pytest.fixture(scope="module")
def diary(vm: Deployment, marked: Marked, tmp_path_factory: pytest.TempPathFactory) -> Marked:
    """The notes under another name, beside them on the same host, with a database there."""
    host = {"hosts": {"vm1": {"ansible_host": vm.address("vm1")}}}
    usual = {name: value for name, value in vm.settings["app_env"].items() if name != "NOTES_DATABASE"}
    given = marked.deployment.settings["app_secrets"] | {"DATABASE_PASSWORD": "{{ vault_marked_password }}"}
    vm.on("vm1", f"test ! -d /srv/diary || {{ {FORGET}}} 2>&1")
    return Marked(
        vm,
        tmp_path_factory.mktemp("diary"),
        marked.mark,
        hosts={"app_servers": host, "databases": host},
        app_name="diary",
        app_domain="diary.example.org",
        app_env=usual | {"NOTES_MEDIA": "/srv/diary/data/media", "DATABASE_HOST": vm.address("vm1")},
        app_secrets=given,
        app_settings_module="on_postgresql",
        app_files={"on_postgresql.py": ON_POSTGRESQL},
        app_processes={},
        artifact_store=str(DIARY_STORE),
    )


def diary_sql(vm: Deployment, text: str) -> str:
    """What the database of the diary answers."""
    return vm.on("vm1", f'runuser -u postgres -- psql -XtA diary -c "{text}"').strip()


def test_a_database_is_provisioned_and_deployed_to_and_that_says_nothing(vm: Deployment, diary: Marked) -> None:
    diary.run("provision.yml", timeout=900)
    diary.run("deploy.yml", sha=vm.sha("d1"), watch=0)
    diary.deployment.expect_live("d1")


def test_a_database_that_refuses_the_password_says_nothing(vm: Deployment, diary: Marked) -> None:
    wrong = diary.deployment.settings["app_secrets"] | {"DATABASE_PASSWORD": "{{ vault_marked_token }}"}
    ran = diary.fails("plan_migrations", vm.sha("d2"), {"app_secrets": wrong}, watch=0)
    assert "password authentication failed" in ran.output, ran.tail()


def test_a_migration_that_fails_on_real_rows_says_nothing(vm: Deployment, diary: Marked) -> None:
    """The shadow, which has no rows, let it through."""
    columns = "email, password, first_name, last_name, is_superuser, is_staff, is_active, date_joined"
    diary_sql(vm, f"insert into accounts_user ({columns}) values ('a@x.org', '!', '', '', false, false, true, now())")
    sha = vm.sha("migration_leaks")
    asked = diary.run("deploy.yml", good=False, sha=sha, watch=0)
    ran = diary.fails("migrate", sha, {}, watch=0, **approvals(asked))
    assert "RuntimeError: ***" in ran.output, f"the secrets were in what it said\n{ran.tail()}"
    diary.deployment.expect_live("d1")


def test_a_migration_and_its_way_back_say_nothing(vm: Deployment, diary: Marked) -> None:
    diary.run("deploy.yml", sha=vm.sha("d2"), watch=0)
    assert diary_sql(vm, HAS_PINNED) == "1"
    diary.run("rollback.yml", schema="reverse")
    assert diary_sql(vm, HAS_PINNED) == "0"
    diary.deployment.expect_live("d1")


def test_a_restore_says_nothing(vm: Deployment, diary: Marked) -> None:
    snapshot = json.loads(vm.on("vm1", "bluegreen snapshots --app diary"))["snapshots"][0]["id"]
    vm.on("vm1", 'runuser -u postgres -- psql -c "alter role diary createdb"')
    ran = diary.run("restore.yml", good=False, snapshot=snapshot)
    assert "accept_data_loss" in ran.tail(), ran.tail()
    diary.run("restore.yml", snapshot=snapshot, accept_data_loss=snapshot)
    assert diary_sql(vm, HAS_PINNED) == "1", "the snapshot was taken before the migration was undone"


# and nothing of it shows


def test_no_output_and_no_report_holds_a_mark(marked: Marked) -> None:
    assert list(LOGS.iterdir())
    assert found_in([str(LOGS), str(marked.reports)], marked.mark, marked.began) == []


def test_no_process_list_holds_a_mark(vm: Deployment, marked: Marked) -> None:
    vm.on("vm1", "systemctl stop secrets-watch")
    marked.expect_silence(until(lambda: vm.on("vm1", f"cat {WATCH}"), "the watched list", 10))
    commands = marked.commands()
    assert "ansible-playbook" in commands
    marked.expect_silence(commands)


def test_no_file_of_the_controller_holds_a_mark(marked: Marked) -> None:
    places = [Path(tempfile.gettempdir()), Path("~/.ansible").expanduser(), Path("/dev/shm"), REPO / ".cache"]
    assert found_in([str(place) for place in places if place.exists()], marked.mark, marked.began) == []


def test_no_file_of_the_host_holds_a_mark_but_what_only_root_can_read(vm: Deployment, marked: Marked) -> None:
    options = "--devices=skip --exclude-dir=images --exclude-dir=journal --exclude-dir=credentials"
    places = "/etc /home /root /run /srv /tmp /usr/local /var"
    found = found_on(vm, "vm1", f"grep -rlaFs -f - {options} {places}", marked.mark)
    # what a smoke check sends is kept for a rollback, in a directory of root's
    checks = tuple(f"/var/lib/bluegreen/{app}/checks" for app in ("notes", "diary"))
    assert [path for path in found if not path.startswith(tuple(f"{place}/" for place in checks))] == []
    assert vm.on("vm1", f"stat -c %U:%a {' '.join(checks)}").split() == ["root:700"] * 2


def test_no_journal_history_or_status_holds_a_mark(vm: Deployment, marked: Marked) -> None:
    assert found_on(vm, "vm1", "journalctl -q --no-pager -o export | grep -aFc -f -", marked.mark) == ["0"]
    for app in ("notes", "diary"):
        told = vm.on("vm1", f"bluegreen history --app {app} --limit 1000; bluegreen status --app {app}")
        marked.expect_silence(told)


def test_the_search_finds_what_is_there(vm: Deployment, marked: Marked, tmp_path: Path) -> None:
    """A search that cannot find anything would keep every promise above."""
    place = tmp_path / "found"
    place.write_text(f"x {base64.b64encode(marked.real('odd').encode()).decode()}")
    assert found_in([str(tmp_path)], marked.mark, marked.began) == [str(place)]
    place.unlink()
    colour = vm.status()["vm1"]["live"]["colour"]
    credentials = f"/run/credentials/notes@{colour}.service"
    assert found_on(vm, "vm1", f"grep -rlaFs -f - {credentials}", marked.mark), "they hold the marks"
