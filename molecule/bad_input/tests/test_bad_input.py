"""Whatever is typed or found wrong: it is told in three lines that name it, and nothing has changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from artifacts import OF_VM, PYTHON
from promises import REPO, Deployment, Ran, known_releases, until

STORE = REPO / ".cache" / "test" / "artifacts"


@pytest.fixture(scope="module")
def before(vm: Deployment) -> dict[str, str]:
    """The host as it is before any bad input."""
    if not any(vm.live().values()):
        vm.given("n1")
    vm.expect_calm()
    return vm.snapshot()


@pytest.fixture(autouse=True)
def _nothing_changes(vm: Deployment, before: dict[str, str]) -> Iterator[None]:
    """After each test the host is what it was."""
    yield
    assert vm.snapshot() == before


def refused(ran: Ran, *named: str) -> None:
    """The three lines name what is wrong."""
    told = "\n".join(ran.lines[-3:])
    for word in named:
        assert word in told, f"the three lines should name {word!r}\n{ran.tail()}"
    assert all(len(line) < 400 for line in ran.lines[-3:]), ran.tail()


# The unit tests of the inputs know many more; these show that they come through Ansible as they were typed.
SHAS = {
    "left out": None,
    "shorter than six": "abc12",
    "not hexadecimal": "nothexx",
    "with a blank": " abc123f",
    "with a newline": "abc123\n",
    "with shell characters": "abc123;$(touch CANARY)",
    "with a template": "{{ lookup('pipe', 'touch CANARY') }}",
    "with a template's statement": "{% for a in [1] %}abc123{% endfor %}",
    "unknown": "0123456789ab",
}


@pytest.mark.parametrize("kind", SHAS)
def test_a_sha_that_names_no_release_is_refused(vm: Deployment, kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    sha = SHAS[kind]
    given = {} if sha is None else {"sha": sha.replace("CANARY", str(canary))}
    # As JSON: exactly this text arrives, blanks and newlines too.
    words = ["-e", json.dumps(given)] if given else []
    refused(vm.refuse("deploy.yml", *words), "sha" if kind != "unknown" else "0123456789ab")
    assert not canary.exists(), "the input was run"


def test_a_sha_with_a_blank_is_refused_as_typed_in_a_shell(vm: Deployment) -> None:
    refused(vm.refuse("deploy.yml", "-e", "sha=abc123 def456"), "def456")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of one's own with the artifact of n2."""
    found = tmp_path / "store"
    found.mkdir()
    for path in STORE.glob(f"{known_releases()['n2']['stem']}*"):
        shutil.copy(path, found)
    return found


def manifest_in(store: Path) -> Path:
    """The manifest of the artifact in a store."""
    return next(path for path in store.glob("*.json") if not path.name.endswith(".cdx.json"))


def change(store: Path, **values: Any) -> None:
    """Change the manifest of the artifact in a store."""
    manifest = manifest_in(store)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | values))


def rename(store: Path, old: str, new: str) -> None:
    """Give the artifact another name, and say so in its manifest."""
    for path in sorted(store.iterdir()):
        text = path.read_text() if path.suffix == ".json" else None
        path = path.rename(store / path.name.replace(old, new))
        if text is not None:
            path.write_text(text.replace(old, new))


def truncate(store: Path) -> None:
    image = next(store.glob("*.squashfs"))
    os.truncate(image, image.stat().st_size // 2)


def flip_a_bit(store: Path) -> None:
    with next(store.glob("*.squashfs")).open("r+b") as image:
        image.seek(100_000)
        byte = image.read(1)[0]
        image.seek(100_000)
        image.write(bytes([byte ^ 1]))


def same_beginning(store: Path) -> None:
    """A second commit whose sha begins alike."""
    sha = known_releases()["n2"]["sha"]
    other = sha[:12] + ("0" * 28 if sha[12:] != "0" * 28 else "1" * 28)
    for path in sorted(store.iterdir()):
        copy = store / path.name.replace(sha, other)
        shutil.copy(path, copy)
        if copy.suffix == ".json":
            copy.write_text(copy.read_text().replace(sha, other))


OTHER_PYTHON = next(version for version in PYTHON.values() if version != OF_VM)
ARTIFACTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "truncated": (truncate, ("damaged",)),
    "bit-flipped": (flip_a_bit, ("damaged",)),
    "without its image": (lambda store: next(store.glob("*.squashfs")).unlink(), ()),
    "of another application": (lambda store: change(store, app="orders"), ("orders",)),
    "for another Python": (lambda store: change(store, python=OTHER_PYTHON), (OTHER_PYTHON,)),
    "for another architecture": (lambda store: change(store, arch="aarch64"), ("aarch64",)),
    "ambiguous": (same_beginning, ()),
    "with a broken manifest": (lambda store: change(store, image="none"), ()),
}


@pytest.mark.parametrize("kind", ARTIFACTS)
def test_an_artifact_that_cannot_be_used_is_refused(vm: Deployment, kind: str, store: Path, tmp_path: Path) -> None:
    spoil, named = ARTIFACTS[kind]
    spoil(store)
    refused(vm.refuse("deploy.yml", sha=vm.sha("n2")[:12], artifact_store=store), *named)


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


def sign(store: Path, key: Path) -> None:
    """Sign the manifest in a store."""
    manifest = manifest_in(store)
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", "bluegreen-artifact", "-f", key]
    made = subprocess.run(command, input=manifest.read_bytes(), stdout=subprocess.PIPE, check=True).stdout
    manifest.with_suffix(".json.sig").write_bytes(made)


ORIGINS = {"unsigned": "artifact_require_signature", "of a stranger": "stranger", "forged": "changed after"}


@pytest.mark.parametrize("kind", ORIGINS)
def test_an_artifact_that_nobody_trusted_has_signed_is_refused(
    vm: Deployment, kind: str, store: Path, tmp_path: Path
) -> None:
    ours, other = make_key(tmp_path / "ours"), make_key(tmp_path / "other")
    sign(store, other if kind == "of a stranger" else ours)
    signers = tmp_path / "signers.txt"
    signers.write_text(f"ci@example.org {ours.with_suffix('.pub').read_text()}")
    if kind == "unsigned":
        next(store.glob("*.json.sig")).unlink()
    if kind == "forged":
        change(store, built_at="2001-01-01T00:00:00Z")
    where = {"artifact_store": store, "artifact_signers": signers, "artifact_require_signature": True}
    refused(vm.refuse("deploy.yml", sha=vm.sha("n2")[:12], **where), ORIGINS[kind])


@pytest.mark.parametrize("name", ["app_name", "app_domain", "app_settings_module"])
@pytest.mark.parametrize("playbook", ["deploy.yml", "provision.yml"])
def test_a_missing_setting_is_named_with_its_file(vm: Deployment, playbook: str, name: str, tmp_path: Path) -> None:
    broken = vm.variant(tmp_path, drop=[name])
    refused(broken.refuse(playbook, **({"sha": vm.sha("n2")} if playbook == "deploy.yml" else {})), name, "group_vars")


WRONG_TYPES: dict[str, object] = {
    "app_workers": "many",
    "app_processes": {"worker": "celery"},
    "app_name": "Notes!",
}


@pytest.mark.parametrize("name", WRONG_TYPES)
def test_a_setting_of_the_wrong_type_is_named(vm: Deployment, name: str, tmp_path: Path) -> None:
    broken = vm.variant(tmp_path, **{name: WRONG_TYPES[name]})
    refused(broken.refuse("deploy.yml", sha=vm.sha("n2")), name)


@pytest.mark.parametrize("playbook", ["deploy.yml", "rollback.yml", "provision.yml", "status.yml"])
def test_an_inventory_without_app_servers_is_refused(vm: Deployment, playbook: str, tmp_path: Path) -> None:
    empty = vm.variant(tmp_path, hosts={"databases": {"hosts": {"bare12": {"ansible_host": vm.address("bare12")}}}})
    refused(empty.refuse(playbook, **({"sha": vm.sha("n2")} if playbook == "deploy.yml" else {})), "app_servers")


def with_host(vm: Deployment, directory: Path, name: str, address: str) -> Deployment:
    """The inventory with one more app server, so that it needs a register too."""
    hosts = {"vm1": {"ansible_host": vm.address("vm1")}, name: {"ansible_host": address}}
    register = "postgresql://register:secret@192.0.2.1/register"
    return vm.variant(directory, hosts={"app_servers": {"hosts": hosts}}, bluegreen_database_url=register)


def test_several_app_servers_without_a_register_are_refused(vm: Deployment, tmp_path: Path) -> None:
    hosts = {"vm1": {"ansible_host": vm.address("vm1")}, "ghost": {"ansible_host": "192.0.2.7"}}
    alone = vm.variant(tmp_path, hosts={"app_servers": {"hosts": hosts}})
    refused(alone.refuse("deploy.yml", sha=vm.sha("n2")), "bluegreen_database_url", "group_vars")


@pytest.mark.parametrize("playbook", ["deploy.yml", "rollback.yml"])
def test_an_unreachable_host_stops_everything_before_anything_changes(
    vm: Deployment, playbook: str, tmp_path: Path
) -> None:
    larger = with_host(vm, tmp_path, "ghost", "10.213.71.99")
    refused(larger.refuse(playbook, **({"sha": vm.sha("n2")} if playbook == "deploy.yml" else {})), "ghost")


def test_a_host_that_was_never_provisioned_is_named_with_the_command_to_type(vm: Deployment, tmp_path: Path) -> None:
    larger = with_host(vm, tmp_path, "bare12", vm.address("bare12"))
    refused(larger.refuse("deploy.yml", sha=vm.sha("n2")), "bare12", "provision.yml")


def test_a_disk_that_is_nearly_full_is_refused_before_anything_is_sent(vm: Deployment) -> None:
    refused(vm.refuse("deploy.yml", sha=vm.sha("n2"), rollout_min_free_mb=90_000_000), "vm1", "MB")


@pytest.mark.parametrize("playbook", ["deploy.yml", "rollback.yml"])
def test_a_limit_is_refused(vm: Deployment, playbook: str) -> None:
    extra = {"sha": vm.sha("n2")} if playbook == "deploy.yml" else {}
    refused(vm.refuse(playbook, "--limit", "vm1", **extra), "--limit")


def test_a_limit_that_leaves_out_the_controller_is_refused_too(vm: Deployment) -> None:
    ran = vm.playbook("deploy.yml", "--limit", "app_servers", sha=vm.sha("n2"))
    assert ran.status != 0, ran.tail()


def test_a_rollback_to_the_live_release_is_refused(vm: Deployment) -> None:
    live = vm.live()["vm1"]
    refused(vm.refuse("rollback.yml", to=live), "live")


@pytest.mark.parametrize("to", ["{{ 1 }}", "0123456789ab"])
def test_a_rollback_to_what_is_not_there_is_refused(vm: Deployment, to: str) -> None:
    vm.refuse("rollback.yml", "-e", json.dumps({"to": to}))


@pytest.mark.parametrize(
    "extra",
    [{"watch": "long"}, {"retry_bad": "perhaps"}, {"wait": "-1"}, {"without": "web9"}, {"without": "vm1"}],
    ids=str,
)
def test_another_option_that_makes_no_sense_is_refused(vm: Deployment, extra: dict[str, Any]) -> None:
    refused(vm.refuse("deploy.yml", "-e", json.dumps(extra), sha=vm.sha("n2")), next(iter(extra)))


JUDGING: dict[str, tuple[dict[str, Any], str]] = {
    "a share that is not possible": ({"canary": "7"}, "canary=7 is not possible"),
    "the nearest share": ({"canary": "97.5"}, "the nearest is 95"),
    "steps that do not rise": ({"canary": "25,5"}, "does not rise"),
    "steps that do not rise in the settings": ({"rollout_canary_steps": [25, 5]}, "rollout_canary_steps"),
    "a step shorter than a round": ({"canary": 5, "watch": 4}, "watch=4 is too short for a canary"),
    "a watch in which nothing is seen": ({"watch": 0.5}, "watch=0.5 is too short"),
    "a threshold that is a word": ({"judge_max_error_share": "lots"}, "judge_max_error_share"),
    "a KPI whose threshold is a word": (
        {"judge_kpis": [{"name": "up", "query": "up", "min": "1"}], "judge_prometheus_url": "http://127.0.0.1:9"},
        "has a min that is not a number",
    ),
}


@pytest.mark.parametrize("kind", JUDGING)
def test_a_canary_or_a_watch_that_cannot_be_judged_is_refused(vm: Deployment, kind: str) -> None:
    extra, named = JUDGING[kind]
    refused(vm.refuse("deploy.yml", "-e", json.dumps(extra), sha=vm.sha("n2")), named)


# As a Prometheus answers; the real one is asked in the scenario canary.
UNPARSED = {"status": "error", "errorType": "bad_data", "error": "1:4: parse error: unclosed left parenthesis"}


class Prometheus(BaseHTTPRequestHandler):
    """A source that says that the query does not parse."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(UNPARSED).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


def test_a_query_that_does_not_parse_is_refused(vm: Deployment) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Prometheus) as source:
        threading.Thread(target=source.serve_forever, daemon=True).start()
        kpis = [{"name": "orders", "query": "sum(", "min": 1}]
        extra = {"judge_kpis": kpis, "judge_prometheus_url": f"http://127.0.0.1:{source.server_port}"}
        ran = vm.refuse("deploy.yml", "-e", json.dumps(extra), sha=vm.sha("n2"))
        source.shutdown()
    refused(ran, "judge_kpis: orders", "parse error")


def test_a_log_that_cannot_be_read_is_refused_where_visitors_are_to_be_judged(vm: Deployment) -> None:
    log = f"/var/log/nginx/{vm.app}.json.log"
    vm.on("vm1", f"mv {log} {log}.away")  # nginx goes on writing to it
    try:
        refused(vm.refuse("deploy.yml", sha=vm.sha("n2"), watch=5), "vm1", "nginx's log cannot be read", log)
    finally:
        vm.on("vm1", f"mv {log}.away {log}")


def test_a_lease_that_nobody_holds_cannot_be_broken(vm: Deployment) -> None:
    refused(vm.refuse("unlock.yml", lease="20260101T000000-abcdef"), "lease")
    refused(vm.refuse("unlock.yml", "-e", json.dumps({"lease": "x; touch y"})), "lease")
    assert "no lease is held" in vm.must("unlock.yml").output


class TestWithOtherStates:
    """What needs a host in another state; each test leaves it as it found it, or says so."""

    @pytest.fixture(autouse=True)
    def _nothing_changes(self) -> None:
        """Here the tests look for themselves."""

    def test_a_rollback_with_nothing_to_go_back_to_is_refused(self, vm: Deployment) -> None:
        vm.given("n1")
        for _ in range(4):  # whatever scenarios before this one have confirmed
            ran = vm.playbook("rollback.yml")
            if ran.status:
                break
        before = vm.snapshot()
        refused(vm.refuse("rollback.yml"), "roll")
        assert vm.snapshot() == before

    def test_the_second_of_two_deploys_at_once_is_refused_and_names_the_first_or_waits_for_it(
        self, vm: Deployment
    ) -> None:
        vm.given("n1")
        with self.at_work(vm, watch=15) as first:
            refused(vm.refuse("deploy.yml", sha=vm.sha("n2")), vm.sha("n2")[:12])
            refused(vm.refuse("rollback.yml"), vm.sha("n2")[:12])
            ran = vm.must("deploy.yml", sha=vm.sha("n2"), wait=120)
            assert "waiting: " in ran.output
            assert "nothing to do" in ran.lines[-1], ran.tail()
            assert first.wait(5) == 0, "the first goes on undisturbed"
        vm.expect_live("n2")

    def test_a_run_whose_lease_was_broken_is_refused_when_it_comes_back(self, vm: Deployment) -> None:
        vm.given("n1")
        with self.at_work(vm, watch=20) as first:
            until(lambda: vm.status()["vm1"]["pending"], "the switch", 60)
            os.killpg(first.pid, signal.SIGSTOP)
            shown = vm.must("unlock.yml")
            lease = vm.status()["vm1"]["lease"]["deploy_id"]
            assert f"-e lease={lease}" in shown.lines[-1], shown.tail()
            refused(vm.refuse("unlock.yml", lease="20260101T000000-abcdef"), lease)
            vm.must("unlock.yml", lease=lease)
            ran = vm.must("deploy.yml", sha=vm.sha("n1"), watch=0)
            assert "was undone" in ran.output, ran.tail()
            os.killpg(first.pid, signal.SIGCONT)
            assert first.wait(60) != 0, "it must not go on"
        vm.expect_live("n1")

    @contextlib.contextmanager
    def at_work(self, vm: Deployment, watch: int) -> Iterator[subprocess.Popen[bytes]]:
        """A deploy of n2 that has its lease; killed at the end if it still runs."""
        first = vm.start("deploy.yml", sha=vm.sha("n2"), watch=watch, retry_bad=True)
        try:
            until(lambda: vm.status()["vm1"]["lease"], "the first has its lease", 60)
            yield first
        finally:
            if first.poll() is None:
                os.killpg(first.pid, signal.SIGKILL)
