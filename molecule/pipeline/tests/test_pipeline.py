"""The workflows deploy to a booted host over SSH: whatever becomes of a job, the host is left as the job says.

Staging and production are the same VM here. The tests are one story.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from artifacts import OF_VM
from promises import EVIDENCE, REPO, STATE, Deployment, Ran, known_releases, until

from tests.act import PATIENCE, Workflows, input_words

OLD, NEW = "n1", "n2"
STORE = REPO / ".cache" / "test" / "artifacts"
TOOLKIT = ("ansible.cfg", "bluegreen", "deploy.yml", "group_vars", "playbooks", "plugins", "roles", "rollback.yml")
TOOLKIT += ("scripts", "status.yml")
ENVIRONMENTS = ("production", "staging")
ARTIFACT = "artifact-of-this-run"
IN_TIME = 10.0  # seconds after the first signal GitHub kills a cancelled job
SHARED_HERE = ("web_server_patience",)  # variables of the test hosts that are no way to reach them


# what an application's repository and its settings hold


@pytest.fixture(scope="module")
def jobs(vm: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Workflows:
    """The toolkit with two environments, the example's callers, and the secrets of both environments."""
    place = tmp_path_factory.mktemp("pipeline")
    path, signing = place / "toolkit", place / "signing"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in TOOLKIT:
        source = REPO / name
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, path / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy2(source, path / name)
    (path / ".venv").symlink_to(REPO / ".venv")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", signing], check=True)
    for name in ENVIRONMENTS:
        write_inventory(vm, path / "inventories" / name, signing.with_suffix(".pub").read_text())
    made = Workflows(path, place / "aside", {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}, ENVIRONMENTS)
    write_caller(made)
    put_artifact(made, signing)
    made.secrets = {
        "BLUEGREEN_SSH_KEY": (STATE / "id_ed25519").read_text(),
        "BLUEGREEN_SECRETS": json.dumps(values(vm)),
    }
    made.variables = {"BLUEGREEN_KNOWN_HOSTS": (STATE / "known_hosts").read_text()}
    return made


def values(vm: Deployment) -> dict[str, str]:
    """The application's secrets by the names that CI gives them: vault_notes_secret is NOTES_SECRET."""
    named = {name: str(value) for name, value in vm.settings.items() if name.startswith("vault_")}
    return {name.removeprefix("vault_").upper(): value for name, value in named.items()}


def write_inventory(vm: Deployment, path: Path, signer: str) -> None:
    """The VM, reached with nothing but the job's key and host keys; settings without secrets and without a store."""
    shared = yaml.safe_load((vm.inventory / "hosts.yml").read_text())["all"]["children"]["test_hosts"]["vars"]
    hosts = {name: {"ansible_host": address} for name, address in vm.app_servers.items()}
    group = {"vars": {name: shared[name] for name in SHARED_HERE}, "hosts": hosts}
    settings = {name: value for name, value in vm.settings.items() if not name.startswith(("vault_", "artifact_"))}
    settings |= {
        "app_python": OF_VM,
        "artifact_signers": "{{ inventory_dir }}/signers.txt",
        "artifact_require_signature": True,
    }
    (path / "group_vars" / "app_servers").mkdir(parents=True)
    (path / "hosts.yml").write_text(yaml.safe_dump({"app_servers": group}))
    (path / "group_vars" / "app_servers" / "app.yml").write_text(yaml.safe_dump(settings))
    (path / "signers.txt").write_text(f'ci@example.org namespaces="bluegreen-artifact" {signer}')


def write_caller(jobs: Workflows) -> None:
    """deploy.yml: the last job of the example's pipeline with a button; those before it have brought the artifact."""
    pipeline = yaml.load((jobs.folder / "example-pipeline.yml").read_text(), Loader=yaml.BaseLoader)
    job = pipeline["jobs"]["deploy"]
    del job["needs"]
    job["with"] |= {"sha": "${{ inputs.sha }}", "artifact": ARTIFACT, "load": "", "canary": ""}
    button = {"workflow_dispatch": {"inputs": {"sha": {"type": "string", "required": True}}}}
    caller = {"name": "Deploy", "on": button, "permissions": {}, "jobs": {"deploy": job}}
    (jobs.folder / "deploy.yml").write_text(json.dumps(caller))


def put_artifact(jobs: Workflows, key: Path) -> None:
    """What app-build keeps for the jobs after it: the artifact, signed."""
    place = jobs.aside / "artifact"
    stem = known_releases()[NEW]["stem"]
    for source in STORE.glob(f"{stem}.*"):
        shutil.copy2(source, place)
    sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "bluegreen-artifact", "-f", key]
    text = (place / f"{stem}.json").read_bytes()
    (place / f"{stem}.json.sig").write_bytes(subprocess.run(sign, input=text, capture_output=True, check=True).stdout)


@contextlib.contextmanager
def setting(jobs: Workflows, environment: str, **settings: object) -> Iterator[None]:
    """Other settings in one environment while the block runs."""
    path = jobs.path / "inventories" / environment / "group_vars" / "app_servers" / "zz-test.yml"
    path.write_text(yaml.safe_dump(settings))
    try:
        yield
    finally:
        path.unlink()


# what is done


def ran(vm: Deployment, jobs: Workflows, what: str, run: Callable[[], tuple[int, str]]) -> Ran:
    """A workflow, run to its end: no secret is in its log, whatever the end is."""
    shutil.rmtree(jobs.aside / "kept")
    (jobs.aside / "kept").mkdir()
    EVIDENCE.deployments.setdefault(vm.app, vm)
    began = time.monotonic()
    status, log = run()
    found = Ran(what, status, log, time.monotonic() - began)
    EVIDENCE.ran.append(found)
    assert [secret for secret in hidden(vm, jobs) if secret in log] == []
    return found


def hidden(vm: Deployment, jobs: Workflows) -> list[str]:
    """What no log may hold: the application's secrets, and the lines of the key."""
    key = [line for line in jobs.secrets["BLUEGREEN_SSH_KEY"].splitlines() if not line.startswith("-----")]
    return [*values(vm).values(), *key]


def deploy(vm: Deployment, jobs: Workflows) -> Ran:
    """Push the button of the pipeline's last job: staging, then production."""
    return ran(vm, jobs, "deploy.yml", lambda: jobs.dispatch("deploy.yml", sha=vm.sha(NEW)))


def comment(vm: Deployment, jobs: Workflows, text: str, login: str = "alice") -> Ran:
    return ran(vm, jobs, text, lambda: jobs.comment(text, login))


def cancelled(vm: Deployment, jobs: Workflows, moment: Callable[[dict[str, Any]], object]) -> Ran:
    """Deploy to staging, signalled as GitHub signals a cancelled job, at the moment when a status is like that.

    In time no switch is pending, the lease has ended, and visitors are where they were.
    """

    def host() -> dict[str, Any]:
        return next(iter(vm.status().values()))

    def settled() -> bool:
        status = host()
        return status["pending"] is None and status["lease"] is None

    def run() -> tuple[int, str]:
        job = jobs.start("workflow_dispatch", "deploy.yml", *input_words({"sha": vm.sha(NEW)}))
        try:
            until(lambda: job.process.poll() is not None or moment(host()), "the moment", PATIENCE)
            assert job.process.poll() is None, f"it ended before that moment\n{job.log.read_text()[-4000:]}"
            os.kill(until(jobs.deploying, "scripts/deploy runs", 1), signal.SIGTERM)
            until(settled, "the host is as it was", IN_TIME)
        finally:
            status, log = job.end(60)
        return status, log

    with vm.under_load(rate=15):
        found = ran(vm, jobs, "deploy.yml, cancelled", run)
        assert [name for name in vm.serving().values() if not name.startswith(vm.sha(OLD)[:12])] == []
    return found


# what is promised


def test_one_artifact_goes_to_staging_and_then_to_production(vm: Deployment, jobs: Workflows) -> None:
    vm.given(OLD)
    with vm.under_load(rate=15):
        done = deploy(vm, jobs)
    assert done.status == 0, done.tail()
    vm.expect_live(NEW)
    first, then = (jobs.result("deploy", environment) for environment in ("staging", "production"))
    assert (first["outcome"], first["sha"]) == ("live", vm.sha(NEW))
    assert (then["outcome"], then["sha"]) == ("nothing to do", vm.sha(NEW)), "production is the same VM here"
    # act says of each mask only that it was set; there were two jobs
    assert len(re.findall(r"⚙ +\*\*\*$", done.output, re.MULTILINE)) >= 2 * len(hidden(vm, jobs)), done.tail()


def test_the_button_rolls_back(vm: Deployment, jobs: Workflows) -> None:
    with vm.under_load(rate=15):
        done = ran(vm, jobs, "rollback.yml", lambda: jobs.dispatch("example-rollback.yml", environment="production"))
    assert done.status == 0, done.tail()
    assert jobs.result("rollback", "production")["outcome"] == "rolled back"
    vm.expect_live(OLD)


def test_a_smoke_check_that_fails_ends_the_job_and_the_old_release_serves(vm: Deployment, jobs: Workflows) -> None:
    # what it misses is a secret: the failure must not quote it
    check = {"name": "no such page", "path": "/", "contains": "{{ vault_notes_smoke_password }}"}
    with setting(jobs, "staging", app_smoke=[check]), vm.under_load(rate=15):
        done = deploy(vm, jobs)
    assert done.status != 0, done.tail()
    assert "no such page" in done.output, done.tail()
    assert jobs.result("deploy", "staging")["exit"] == 5
    vm.expect_live(OLD)


def test_a_job_that_is_cancelled_after_the_switch_goes_back_in_time(vm: Deployment, jobs: Workflows) -> None:
    # the host's own timer would come later
    with setting(jobs, "staging", rollout_watch=120, rollout_ttl=60):
        done = cancelled(vm, jobs, lambda status: status["pending"])
    assert done.status != 0, done.tail()
    assert f"every host went back to {vm.sha(OLD)[:12]}" in done.output, done.tail()
    assert jobs.result("deploy", "staging")["exit"] == 7
    vm.expect_live(OLD)


def test_a_job_that_is_cancelled_before_the_switch_gives_the_lease_back_in_time(
    vm: Deployment, jobs: Workflows
) -> None:
    with setting(jobs, "staging", rollout_watch=120, rollout_ttl=60):
        done = cancelled(vm, jobs, lambda status: status["lease"])
    assert done.status != 0, done.tail()
    assert jobs.result("deploy", "staging")["exit"] == 7
    vm.expect_live(OLD)


def test_an_artifact_that_was_changed_on_its_way_is_refused_before_any_host_is_asked(
    vm: Deployment, jobs: Workflows
) -> None:
    before = vm.snapshot()
    manifest = jobs.aside / "artifact" / f"{known_releases()[NEW]['stem']}.json"
    good = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(good) | {"run": "https://ci.example.org/another"}))
    try:
        done = deploy(vm, jobs)
    finally:
        manifest.write_text(good)
    assert done.status != 0, done.tail()
    assert "changed after it was signed" in done.output, done.tail()
    result = jobs.result("deploy", "staging")
    assert (result["exit"], result["outcome"]) == (4, "refused")
    assert vm.snapshot() == before


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ('/deploy staging {sha}"; touch owned; "$(touch owned)`touch owned`', "alice"),
        ("/deploy staging {sha}\n${{{{ secrets.BLUEGREEN_SECRETS }}}}", "alice"),
        ("/rollback production", "mallory"),
    ],
    ids=["a shell's words", "an expression", "a stranger"],
)
def test_a_comment_that_is_not_to_be_trusted_reaches_no_host(
    vm: Deployment, jobs: Workflows, text: str, login: str
) -> None:
    before = vm.snapshot()
    done = comment(vm, jobs, text.format(sha=vm.sha(NEW)), login)
    assert done.status != 0, done.tail()
    assert list((jobs.aside / "kept").iterdir()) == [], "scripts/deploy was run"
    assert list(jobs.aside.parent.rglob("owned")) == []
    assert vm.snapshot() == before


def test_a_comment_of_a_permitted_person_deploys_from_the_store(vm: Deployment, jobs: Workflows) -> None:
    with setting(jobs, "staging", artifact_store=str(jobs.aside / "artifact")), vm.under_load(rate=15):
        done = comment(vm, jobs, f"/deploy staging {vm.sha(NEW)[:12]}")
    assert done.status == 0, done.tail()
    assert "deploy staging: done" in jobs.answers()
    vm.expect_live(NEW)
