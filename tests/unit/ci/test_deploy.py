"""scripts/deploy as a CI job runs it: the real playbooks, two hosts that are not there. Each run costs seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MEMORY = Path("/dev/shm")


def started_by(place: Path) -> list[Path]:
    """The processes of a run, which have its directory in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [path] if str(place).encode() in path.read_bytes() else []
    return found


def leftovers() -> set[str]:
    return {path.name for path in MEMORY.glob("bluegreen-*")} if MEMORY.is_dir() else set()


def wait_until(condition: Any, patience: float = 60.0) -> None:
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    before = leftovers()
    yield
    wait_until(lambda: leftovers() <= before, 5)


def test_a_rollback_shows_what_ansible_shows_and_says_how_it_ended(site: Any) -> None:
    status, output = site.run("rollback", "--env", "test", "--result", "result.json", "--watch=")
    assert status == 0, output
    assert [line.split()[0] for line in output.splitlines()] == ["Preflight", "Switch", "Confirm", "shop:"]
    assert "back on aaaaaaaaaaaa on 2 hosts" in output
    result = site.result()
    assert (result["ok"], result["outcome"], result["exit"]) == (True, "rolled back", 0)
    assert [phase["name"] for phase in result["phases"]] == ["preflight", "switch", "confirm"]
    assert result["hosts"] == ["web1", "web2"]


def test_github_gets_groups_an_annotation_and_a_summary(site: Any, tmp_path: Path) -> None:
    (site.host / "fail-route").write_text("the front is closed ::set-output name=x::y")
    summary = tmp_path / "summary.md"
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary), "GITHUB_WORKSPACE": str(site.path)}
    status, output = site.run("rollback", "--env", "test", "--result", "result.json", **github)
    assert status == site.result()["exit"] == 6, output
    lines = output.splitlines()
    assert lines.index("::group::Switch") < lines.index("::endgroup::", lines.index("::group::Switch"))
    errors = [line for line in lines if line.startswith("::error ")]
    assert errors[0].startswith("::error file=roles/switch/tasks/main.yml,line=2,title=Switch%3A web")
    assert [line for line in lines if line.lstrip().startswith("::set-output")] == []
    assert site.result()["failure"]["what"].startswith("Switch: web1, web2: the front is closed")
    assert "| Switch | " in summary.read_text()
    assert "Next: <code>" in summary.read_text()


def test_cancelled_in_the_switch_all_hosts_go_back_within_10_s(site: Any) -> None:
    (site.host / "hang-route").touch()
    job = site.start("rollback", "--env", "test", "--result", "result.json")
    wait_until(lambda: sum(call["verb"] == "route" for call in site.calls()) == 2)
    (site.host / "hang-route").unlink()
    began = time.monotonic()
    job.send_signal(signal.SIGINT)
    job.send_signal(signal.SIGTERM)  # GitHub sends both
    output, _ = job.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert job.returncode == site.result()["exit"] == 7
    assert "every host went back to bbbbbbbbbbbb" in output
    back = [call for call in site.calls() if call["verb"] == "revert"]
    assert [(call["fence"], call["bad"]) for call in back] == [(8, False)] * 2
    assert {call["deploy_id"] for call in site.calls()} == {site.result()["deploy_id"]}
    assert [call["action"] for call in site.calls() if call["verb"] == "lease"][-2:] == ["release", "release"]


@pytest.mark.full
def test_cancelled_before_the_switch_only_the_lease_is_given_back(site: Any) -> None:
    (site.host / "hang-resume").touch()
    job = site.start("rollback", "--env", "test", "--result", "result.json")
    wait_until(lambda: sum(call["verb"] == "resume" for call in site.calls()) == 2)
    (site.host / "hang-resume").unlink()
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 7
    assert "revert" not in site.verbs()
    assert [call["action"] for call in site.calls() if call["verb"] == "lease"][-2:] == ["release", "release"]


@pytest.mark.full
def test_cancelled_after_the_decision_nothing_goes_back(site: Any) -> None:
    (site.host / "hang-confirm").touch()
    (site.host / "committed").touch()
    job = site.start("rollback", "--env", "test", "--result", "result.json")
    wait_until(lambda: sum(call["verb"] == "confirm" for call in site.calls()) == 2)
    (site.host / "hang-confirm").unlink()
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=30)
    assert job.returncode == site.result()["exit"] == 8
    assert "back on aaaaaaaaaaaa on 2 hosts" in output
    assert (site.result()["outcome"], site.result()["failure"]) == ("rolled back", None)


@pytest.mark.full
def test_a_host_that_does_not_answer_the_cancel_is_reported_within_10_s(site: Any) -> None:
    (site.host / "hang-route").touch()
    (site.host / "hang-revert").touch()
    job = site.start("rollback", "--env", "test", "--result", "result.json")
    wait_until(lambda: "route" in site.verbs())
    began = time.monotonic()
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert job.returncode == 9
    assert "not every host could be asked" in output


DEPLOYABLE = """\
app_name: shop
migration_host: web1
app_domain: shop.example.org
app_settings_module: shop.settings
app_wsgi: shop.wsgi:application
rollout_watch: 1
bluegreen_database_url: postgresql://a:b@192.0.2.1:5432/c
"""


def deployable(site: Any) -> None:
    """Settings, and an artifact of which only the controller reads more than the name."""
    (site.path / "inventories" / "test" / "group_vars" / "app_servers" / "app.yml").write_text(DEPLOYABLE)
    name, sha, content = f"shop-{'c' * 40}-12345678", "c" * 40, b"an image"
    store = site.path / "artifacts"
    store.mkdir()
    (store / f"{name}.squashfs").write_bytes(content)
    image = {"file": f"{name}.squashfs", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    about = {"artifact": name, "app": "shop", "sha": sha, "ref": "main", "python": "3.13", "arch": "x86_64"}
    manifest = {"format": 1, **about, "recipe_digest": f"12345678{'0' * 56}", "image": image}
    (store / f"{name}.json").write_text(json.dumps(manifest))


@pytest.mark.full
def test_a_deploy_is_told_phase_by_phase_with_its_migrations(site: Any, tmp_path: Path) -> None:
    deployable(site)
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    github |= {"GITHUB_OUTPUT": str(tmp_path / "outputs")}
    status, output = site.run("deploy", "--env", "test", "--sha", "cccccc", "--result", "result.json", **github)
    assert status == 0, output
    result = site.result()
    assert [phase["name"] for phase in result["phases"]] == [
        "preflight", "stage", "plan_migrations", "migrate", "start", "smoke", "switch", "watch", "confirm",
    ]  # fmt: skip
    assert all(phase["seconds"] is not None for phase in result["phases"])
    assert (result["migrations"], result["previous"]) == (["shop.0002_note"], "b" * 12)
    assert result["artifact"] == f"shop-{'c' * 40}-12345678"
    assert (tmp_path / "outputs").read_text() == f"artifact={result['artifact']}\n"
    assert r"Migrations: shop.0002\_note" in (tmp_path / "summary.md").read_text()


@pytest.mark.full
def test_a_deploy_that_is_cancelled_in_the_watch_goes_back_and_clears_up(site: Any) -> None:
    deployable(site)
    (site.host / "hang-extend").touch()
    job = site.start("deploy", "--env", "test", "--sha", "cccccc", "--result", "result.json")
    wait_until(lambda: sum(call["verb"] == "extend" for call in site.calls()) == 2)
    (site.host / "hang-extend").unlink()
    before = len(site.calls())
    job.send_signal(signal.SIGINT)
    output, _ = job.communicate(timeout=30)
    assert job.returncode == 7, output
    after = [call["verb"] for call in site.calls()[before:]]
    assert [after.count(verb) for verb in ("revert", "abandon", "lease", "confirm")] == [2, 2, 2, 0]
    assert site.result()["failure"]["what"].endswith("every host went back to bbbbbbbbbbbb")


class Sampler(threading.Thread):
    """Reads every command line and environment below a process while it runs."""

    def __init__(self, texts: list[bytes]) -> None:
        super().__init__(daemon=True)
        self.texts, self.done, self.hits, self.seen = texts, threading.Event(), set(), 0

    def run(self) -> None:
        while not self.done.wait(0.1):
            for path in Path("/proc").glob("[0-9]*"):
                if int(path.name) == os.getpid():
                    continue
                for name in ("cmdline", "environ"):
                    with contextlib.suppress(OSError):
                        content = (path / name).read_bytes()
                        self.seen += 1
                        self.hits |= {(name, content) for text in self.texts if text in content}


def test_no_secret_shows_anywhere(site: Any, tmp_path: Path, private_key: str) -> None:
    """Marked values in every input, -vvv --diff and a failure that repeats them; then everything is searched."""
    secrets = {
        "BLUEGREEN_SSH_KEY": private_key,
        "BLUEGREEN_KNOWN_HOSTS": "192.0.2.1 ssh-ed25519 AAAA",
        "BLUEGREEN_VAULT_PASSWORD": "sentinel-vault-password",
        "BLUEGREEN_SECRET_TOKEN": "sentinel-tok'en{{ 7 * 7 }}\"$HOME\\end",
        "BLUEGREEN_SECRET_SIGNING_KEY": "-----BEGIN KEY-----\nsentinel-line-one\nsentinel-line-two\n",
        "AWS_SECRET_ACCESS_KEY": "sentinel-of-another-tool",
    }
    password = tmp_path / "password"
    password.write_text(secrets["BLUEGREEN_VAULT_PASSWORD"])
    inventory = site.path / "inventories" / "test" / "group_vars" / "app_servers"
    (inventory / "vault.yml").write_text("vault_database: sentinel-from-the-vault\n")
    site.encrypt(inventory / "vault.yml", password)
    password.unlink()
    play = site.path / "playbooks" / "rollback.yml"
    play.write_text(LEAK + play.read_text().removeprefix("---\n"))
    summary = tmp_path / "summary.md"
    github = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    marks = ["sentinel-", *(line for line in private_key.splitlines() if not line.startswith("-----"))]
    sampler = Sampler([mark.encode() for mark in marks])
    job = site.start("rollback", "--env", "test", "--result", "result.json", "-vvv", "--diff", **secrets, **github)
    wait_until(lambda: b"BLUEGREEN_HIDDEN_FD" in Path(f"/proc/{job.pid}/environ").read_bytes())
    sampler.start()
    output, _ = job.communicate(timeout=120)
    sampler.done.set()
    sampler.join()
    masks = [line for line in output.splitlines() if line.startswith("::add-mask::")]
    rest = "\n".join(line for line in output.splitlines() if not line.startswith("::add-mask::"))
    assert job.returncode != 0
    assert "reached the leak" in rest
    assert "***" in rest
    assert {"::add-mask::sentinel-line-one", "::add-mask::sentinel-from-the-vault"} <= set(masks)
    assert sampler.seen > 20
    assert sampler.hits == set()
    found = [mark.encode() for mark in marks]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    texts = {str(path): path.read_bytes() for path in written if ".venv" not in path.parts}
    texts |= {"output": rest.encode(), "result": json.dumps(site.result()).encode()}
    assert [
        (name, line) for name, text in texts.items() for line in text.splitlines() if any(m in line for m in found)
    ] == []


# a task that says its secrets, and a diff of them; `in` shows that they arrived as they were given
LEAK = """\
- name: Leak
  hosts: app_servers
  tasks:
    - name: Show
      ansible.builtin.debug:
        msg: "{{ [vault_token, vault_signing_key, vault_database] }} reached the leak"
    - name: Write
      ansible.builtin.copy:
        content: "{{ vault_token }}{{ vault_signing_key }}"
        dest: "{{ lookup('env', 'TMPDIR') }}/{{ inventory_hostname }}"
        mode: "0600"
    - name: Fail
      ansible.builtin.command: {cmd: "false", stdin: "{{ vault_token }}"}
      vars: {said: "{{ vault_database }}"}
"""


def test_killed_outright_it_leaves_no_secret_and_no_agent(site: Any, private_key: str) -> None:
    (site.host / "hang-route").touch()
    before = leftovers()
    job = site.start("rollback", "--env", "test", BLUEGREEN_SSH_KEY=private_key)
    wait_until(lambda: "route" in site.verbs())
    place = next(MEMORY / name for name in leftovers() - before)
    agent = place / "agent"
    assert agent.exists()
    assert started_by(place)
    job.kill()
    job.wait()
    wait_until(lambda: not place.exists())
    wait_until(lambda: not started_by(place))
    asked = subprocess.run(
        ["ssh-add", "-l"], env={"SSH_AUTH_SOCK": str(agent), "PATH": os.environ["PATH"]}, check=False
    )
    assert asked.returncode == 2  # no agent


BAD = {
    "an environment that is not there": ({}, 2, "--env 'prod' is not an environment: there are test"),
    "a key that is none": ({"BLUEGREEN_SSH_KEY": "sentinel, and no key"}, 3, "BLUEGREEN_SSH_KEY cannot be used"),
    "a key that cannot be read": ({"BLUEGREEN_SSH_KEY_FILE": "/nowhere"}, 3, "cannot be read: No such file"),
    "a secret that nobody gave": (
        {},
        3,
        "BLUEGREEN_SECRET_TOKEN: inventories/test/group_vars/app_servers/app.yml uses",
    ),
    "the wrong password": ({"BLUEGREEN_VAULT_PASSWORD": "sentinel"}, 3, "BLUEGREEN_VAULT_PASSWORD does not open"),
    "a secret that the vault lacks": (
        {"BLUEGREEN_VAULT_PASSWORD": "another one"},
        3,
        "BLUEGREEN_SECRET_OTHER: inventories/test/group_vars/app_servers/app.yml uses vault_other",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_costs_one_line_and_changes_nothing(site: Any, tmp_path: Path, kind: str) -> None:
    given, code, said = BAD[kind]
    settings = site.path / "inventories" / "test" / "group_vars" / "app_servers"
    if kind == "a secret that nobody gave":
        (settings / "app.yml").write_text("app_env: {TOKEN: '{{ vault_token }}'}\n")
    if kind == "a secret that the vault lacks":
        (settings / "app.yml").write_text("app_env: {TOKEN: '{{ vault_token }}', OTHER: '{{ vault_other }}'}\n")
    if kind in ("the wrong password", "a secret that the vault lacks"):
        (tmp_path / "password").write_text("another one")
        (settings / "vault.yml").write_text("vault_token: sentinel\n")
        site.encrypt(settings / "vault.yml", tmp_path / "password")
    environment = "prod" if kind == "an environment that is not there" else "test"
    status, output = site.run("rollback", "--env", environment, "--result", "result.json", **given)
    assert (status, output.count("\n")) == (code, 1), output
    assert said in output
    assert "sentinel" not in output
    assert site.calls() == []
    if code == 3:
        assert (site.result()["outcome"], site.result()["exit"]) == ("refused", 3)
