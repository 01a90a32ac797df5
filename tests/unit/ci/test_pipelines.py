"""The workflows are run, for the hosts of fake_host.py: see tests/act.py. On booted hosts: molecule/pipeline."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from typing import Any

import pytest
import yaml

from tests.act import PATIENCE, REPO, Workflows, write_program

SECRETS = {
    "BLUEGREEN_SECRETS": json.dumps({"TOKEN": "marked-value-one", "KEY": "marked-value-two\nmarked-value-three\n"})
}
FULL = pytest.mark.full
pytestmark = pytest.mark.slow


@pytest.fixture
def workflows(site: Any, tmp_path: Any) -> Workflows:
    shutil.copy2(REPO / "scripts" / "chatops", site.path / "scripts" / "chatops")
    found = Workflows(site.path, tmp_path / "aside", site.environment, environments=("test",))
    found.secrets = SECRETS
    return found


def record_only(site: Any, name: str = "deploy", word: str = "", does: str = "true") -> None:
    """A script notes what it is told, with a word before it, and does that instead of its work."""
    write_program(site.path / "scripts" / name, f"printf '%s\\n' \"{word}$*\" >>{site.host}/said\n{does}\n")


def said(site: Any) -> list[str]:
    path = site.host / "said"
    return path.read_text().splitlines() if path.exists() else []


def test_the_rollback_button_rolls_back_and_no_secret_is_in_the_log(site: Any, workflows: Workflows) -> None:
    status, output = workflows.dispatch("example-rollback.yml", environment="test", to="aaaaaa")
    assert status == 0, output
    assert "back on aaaaaaaaaaaa on 2 hosts" in output
    assert {"route", "decide", "confirm"} <= site.verbs()
    assert "marked-value" not in output
    assert workflows.result("rollback", "test")["outcome"] == "rolled back"


@FULL
def test_a_cancelled_job_goes_back(site: Any, workflows: Workflows) -> None:
    (site.host / "hang-route").touch()
    job = workflows.start("workflow_dispatch", "example-rollback.yml", "--input", "environment=test")
    until = time.monotonic() + PATIENCE
    while sum(call["verb"] == "route" for call in site.calls()) < 2:
        assert job.process.poll() is None, job.log.read_text()
        assert time.monotonic() < until
        time.sleep(0.02)
    (site.host / "hang-route").unlink()
    deploying = workflows.deploying()
    assert deploying
    os.kill(deploying, signal.SIGINT)  # as GitHub does: it signals the process that the step became
    status, output = job.end()
    assert status != 0
    assert "every host went back to bbbbbbbbbbbb" in output
    assert "revert" in site.verbs()


@FULL
def test_what_is_built_and_scanned_goes_to_staging_and_under_load_and_then_to_production(
    site: Any, workflows: Workflows
) -> None:
    name = f"shop-{'a' * 40}-01234567"
    record_only(site, does=f'test -f artifacts/{name}.json && echo "artifact={name}" >>"$GITHUB_OUTPUT"')
    for script, does in (
        ("scan", "true"),
        ("build-artifact", f"mkdir store; touch store/{name}.json; echo {name}"),
        ("with-key", "true"),
        ("load", "true"),
    ):
        record_only(site, script, f"{script} ", does)
    jobs = yaml.load((workflows.folder / "example-pipeline.yml").read_text(), Loader=yaml.BaseLoader)["jobs"]
    del jobs["build"]["needs"], jobs["build"]["if"]  # the checks want services in containers
    caller = {"name": "Pipeline", "on": {"push": {}}, "permissions": {}}
    caller["jobs"] = {job: jobs[job] for job in ("build", "deploy")}
    (workflows.folder / "pipeline.yml").write_text(json.dumps(caller))
    status, output = workflows.run("push", "pipeline.yml")
    assert status == 0, output
    lock, build, bom, sign, *rest = said(site)
    assert (lock, bom) == ("scan ../app/requirements.txt", f"scan store/{name}.cdx.json")
    assert build.startswith("build-artifact --settings=group_vars/all/app.yml --source ../app --rev ")
    assert re.fullmatch(rf"with-key scripts/sign-artifact {name} store --sha [0-9a-f]{{40}} --sign @key", sign)
    assert [line.split()[0] for line in rest] == ["deploy", "load", "deploy"]
    assert [
        place in line
        for place, line in zip(("--env=staging ", "--duration 60", "--env=production "), rest, strict=True)
    ]
    assert all("--artifact-store=artifacts " in line for line in (rest[0], rest[2]))
    assert "--canary=5,25 " in rest[2]
    assert ["--artifact= " in rest[0], f"--artifact={name} " in rest[2]] == [True, True]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/rollback production abc123", [("rollback", "production", "--to=abc123")], marks=FULL),
        pytest.param("/status staging", [("status", "staging", "--to=")], marks=FULL),
        (
            "/deploy production abc123",
            [("deploy", place, "--sha=abc123") for place in ("staging", "production")],
        ),
        pytest.param("/canary staging abc123 5", [("deploy", "staging", "--canary=5")], marks=FULL),
    ],
)
def test_a_comment_does_what_it_says(
    site: Any, workflows: Workflows, text: str, expected: list[tuple[str, str, str]]
) -> None:
    record_only(site, does='echo "artifact=what-was-first" >>"$GITHUB_OUTPUT"')
    record_only(site, "load", "load ")
    status, output = workflows.comment(text)
    assert status == 0, output
    lines = [line for line in said(site) if not line.startswith("load ")]
    assert len(lines) == len(expected)
    assert len(said(site)) - len(lines) == len(expected) - 1  # what goes through staging is under load there
    assert all("--artifact=what-was-first " in line for line in lines[1:])
    for line, (verb, environment, option) in zip(lines, expected, strict=True):
        assert line.startswith(f"{verb} --env={environment} ")
        assert option in line.split()
    assert f"{expected[-1][0]} {expected[-1][1]}: done" in workflows.answers()


@FULL
def test_the_button_deploys_with_an_approval_where_it_was_asked_for(site: Any, workflows: Workflows) -> None:
    record_only(site)
    approval = f"shop.0007_x@sha256:{'a' * 64}"
    given = {"environment": "test", "sha": "abc123", "approve": approval, "approve-reason": "80 rows"}
    status, output = workflows.dispatch("example-deploy.yml", **given)
    assert status == 0, output
    (line,) = said(site)
    assert f"--wait=600 --artifact= --artifact-store= --migrations-approve={approval} " in line
    assert re.search(r" --migrations-approved-by=\S+ --migrations-approve-reason=80 rows ", line)


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("/deploy production $(touch owned)`touch owned`", "alice"),
        pytest.param('/deploy production abc123"; touch owned; "', "alice", marks=FULL),
        pytest.param("/deploy production abc123\n${{ secrets.BLUEGREEN_SECRETS }}", "alice", marks=FULL),
        pytest.param("/rollback production", "mallory", marks=FULL),
    ],
)
def test_an_injection_and_a_stranger_reach_nothing(site: Any, workflows: Workflows, text: str, login: str) -> None:
    record_only(site)
    status, output = workflows.comment(text, login)
    assert status != 0
    assert said(site) == []
    assert list(site.path.parent.rglob("owned")) == []
    assert "marked-value" not in output
