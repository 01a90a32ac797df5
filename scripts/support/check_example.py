"""The pipeline of the orders example, run here: the commands of .github/workflows/app-ci.yml, on services of its own.

They are read from the workflow, so that what passes here passes there.

Repository and virtualenv are kept in .cache/test/example/ while what they are made from is unchanged.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from support import example_repo
from support.common import CACHE, REPO, VENV, Failure, locked, program, run

APP = "orders"
WORKFLOW = REPO / ".github" / "workflows" / "app-ci.yml"
WORK = CACHE / "test" / "example"
PATIENCE = 300.0  # seconds for one command; the slowest, mypy without its cache, takes a tenth of it
CALLER = REPO / "examples" / APP / ".github" / "workflows" / "pipeline.yml"  # the example's own
NEEDS_BROWSER = "REQUIRE_BROWSER"
JOBS = ("style", "tests", "migrations")
# Made by `Install`, which is done once here, and kept.
LEFT_OUT = ("Install",)
AUDIT = "Vulnerabilities of the lock file"
# pip-audit could not ask about a package: nothing is known, neither good nor bad.
NOT_ASKED = re.compile(
    r"could not be audited|ConnectionError|ServiceError|Max retries exceeded|Failed to (?:connect|query)"
)
FOUND = re.compile(r"Found \d+ known vulnerabilit")


@dataclass(frozen=True)
class Command:
    """One step of a workflow: its name, the script, its own environment, and the directory in the repository.

    toolkit: it stands in this repository instead, and is told by `APP` where the application is.
    """

    name: str
    script: str
    directory: str
    env: Mapping[str, str] = field(default_factory=dict)
    toolkit: bool = False


def evaluate(text: str, inputs: Mapping[str, Any]) -> str:
    """A text of the workflow with its `${{ … }}` filled in: an input, or a format of one that is not empty.

    Raises Failure for an expression of another shape.
    """

    def value(match: re.Match[str]) -> str:
        said = match[1]
        if plain := re.fullmatch(r"inputs\.([\w-]+)", said):
            return str(inputs[plain[1]])
        if shaped := re.fullmatch(r"inputs\.([\w-]+) != '' && format\('([^']*)', inputs\.\1\) \|\| ''", said):
            given = str(inputs[shaped[1]])
            return shaped[2].replace("{0}", given) if given else ""
        if said in ("matrix.django", "secrets.TOOLKIT_TOKEN"):
            return ""
        raise Failure(f"{WORKFLOW.name} says {said}: support/check_example.py does not know how to read that")

    return re.sub(r"\$\{\{ *(.*?) *\}\}", value, text)


def commands(workflow: Mapping[Any, Any], job: str, given: Mapping[str, str]) -> list[Command]:
    """The steps of a job that run something, as its caller with these inputs would have them."""
    declared = workflow.get("on", workflow.get(True))["workflow_call"]["inputs"]  # YAML 1.1 reads `on` as true
    inputs = {name: one.get("default", "") for name, one in declared.items()} | dict(given)
    found = []
    for step in workflow["jobs"][job]["steps"]:
        condition = re.fullmatch(r"inputs\.([\w-]+) != ''", str(step.get("if", "")))
        if "run" not in step or step["name"] in LEFT_OUT or (condition and not inputs[condition[1]]):
            continue
        top, _, directory = evaluate(step["working-directory"], inputs).partition("/")
        env = {name: evaluate(str(value), inputs) for name, value in step.get("env", {}).items()}
        found.append(Command(step["name"], step["run"], directory.strip("/."), env, toolkit=top == "bluegreen"))
    return found


def said_by(caller: Mapping[str, Any]) -> dict[str, str]:
    """What a caller says to the workflow, beside its defaults. Raises Failure if it does not call it."""
    for job in caller["jobs"].values():
        if f"/{WORKFLOW.name}@" in job.get("uses", ""):
            return {name: str(value) for name, value in job["with"].items()}
    raise Failure(f"{CALLER} does not call {WORKFLOW.name}")


def inputs() -> dict[str, str]:
    """What the example's own caller says. Raises Failure."""
    return said_by(yaml.safe_load(CALLER.read_text(encoding="utf-8")))


def digest(*paths: Path) -> str:
    """Digest of files and of all that is below directories."""
    found = hashlib.sha256()
    for top in paths:
        for path in [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file()):
            if "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(REPO)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def repository() -> Path:
    """The example's repository, with its newest release checked out."""
    target, stamp = WORK / APP, WORK / f"{APP}.stamp"
    wanted = digest(REPO / "examples" / APP, Path(example_repo.__file__))
    WORK.mkdir(parents=True, exist_ok=True)
    with locked(WORK / "lock"):
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(target, ignore_errors=True)
            try:
                example_repo.prepare(APP, target)
            except example_repo.ExampleError as problem:
                raise Failure(str(problem)) from None
            stamp.write_text(wanted)
    return target


def environment() -> Path:
    """The virtualenv of the newest release, with its tools; every package by its hash. Raises Failure.

    Its Python is the first that the example's caller names.
    """
    python_version = json.loads(inputs()["pythons"])[0]
    source, target = repository(), WORK / "venv"
    files = [source / "requirements.txt", source / "requirements-dev.txt"]
    wanted, stamp = f"{python_version} {digest(*files)}", WORK / "venv.stamp"
    with locked(WORK / "lock"):
        if not (stamp.exists() and stamp.read_text() == wanted):
            stamp.unlink(missing_ok=True)
            words = [word for path in files for word in ("-r", str(path))]
            uv, python = str(VENV / "bin" / "uv"), str(target / "bin" / "python")
            for command in (
                [uv, "venv", "--quiet", "--clear", "--python", python_version, str(target)],
                [uv, "pip", "install", "--quiet", "--python", python, "--require-hashes", "--compile-bytecode", *words],
            ):
                run(command, what="install the example's packages", timeout=600, env={"UV_SYSTEM_CERTS": "true"})
            stamp.write_text(wanted)
    return target


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A throwaway PostgreSQL: the URL of its database `postgres`. Raises Failure."""
    from bluegreen.errors import BluegreenError
    from bluegreen.schema import shadow

    if not (programs := shadow.find_binaries()):
        raise Failure("there are no server programs of PostgreSQL: install Debian's postgresql")
    try:
        with shadow.cluster(programs) as server:
            yield f"postgresql://{server.user}@localhost:{server.port}/postgres?host={server.host}"
    except BluegreenError as problem:
        raise Failure(str(problem)) from None


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """A throwaway Redis on a free port of 127.0.0.1: its URL. Raises Failure."""
    server = program("redis-server")
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="bg-redis-") as home:
        words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", home]
        process = subprocess.Popen([server, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while not answers(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failure("redis-server does not start")
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            process.wait(10)


def answers(port: int) -> bool:
    """Whether a Redis answers there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as talk:
        talk.sendall(b"PING\r\n")
        return talk.recv(16).startswith(b"+PONG")
    return False


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    name: str
    word: str
    seconds: float
    output: str

    @property
    def counts(self) -> tuple[int, int]:
        """Passed and failed: the tests that pytest ran, otherwise one."""
        found = re.findall(r"(?m)^=+ .*\bin [\d.]+s.*$", self.output)
        if not found:
            return (1, 0) if self.word == "ok" else (0, int(self.word == "FAIL"))
        numbers = {kind: int(number) for number, kind in re.findall(r"(\d+) (passed|failed|error)", found[-1])}
        good, bad = numbers.get("passed", 0), numbers.get("failed", 0) + numbers.get("error", 0)
        return good, bad if bad or self.word != "FAIL" else 1


def judged(name: str, status: int, output: str, strict: bool) -> str:
    """ok, FAIL, or skipped: pip-audit that could not ask is no finding, except where it must be able to."""
    if status == 0:
        return "skipped" if re.search(r"(?m)^=+ \d+ skipped\b.* in ", output) else "ok"
    if name == AUDIT and NOT_ASKED.search(output) and not FOUND.search(output) and not strict:
        return "skipped"
    return "FAIL"


def perform(command: Command, source: Path, env: Mapping[str, str], strict: bool) -> Result:
    """Run one command as GitHub's runner would: with bash, which stops at the first failure."""
    started = time.monotonic()
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", command.script]
    said = {**env, **command.env, **({"APP": str(source)} if command.toolkit else {})}
    with tempfile.TemporaryFile("w+", errors="replace") as log:  # a pipe could be held open by what it leaves behind
        try:
            status = subprocess.run(
                shell,
                cwd=(REPO if command.toolkit else source) / command.directory,
                env={name: value for name, value in said.items() if strict or name != NEEDS_BROWSER},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
            print(f"no end after {PATIENCE:g} s", file=log)
        log.seek(0)
        output = log.read()
    word = judged(command.name, status, output, strict)
    return Result(command.name, word, time.monotonic() - started, output)


def lane(todo: Sequence[Command], source: Path, env: Mapping[str, str], strict: bool) -> list[Result]:
    """Run commands one after the other; a line for each, and what it wrote where it failed or skipped."""
    results = []
    for command in todo:
        result = perform(command, source, env, strict)
        text = f"{result.word:<8}{result.name:<34}{result.seconds:6.1f} s"
        if result.word != "ok" or "passed" in result.output:
            shown = result.output.splitlines()[-60 if result.word == "FAIL" else -3 :]
            text += "".join(f"\n        | {line}" for line in shown)
        print(text, flush=True)
        results.append(result)
    return results


def parser() -> argparse.ArgumentParser:
    """The words of the command line."""
    top = argparse.ArgumentParser(
        prog="scripts/check-example",
        description="Check the newest release of the orders example as the CI of its users does: the commands of "
        ".github/workflows/app-ci.yml, on a PostgreSQL and a Redis of its own.",
    )
    top.add_argument("--full", action="store_true", help="nothing may be skipped: browser and pip-audit must work")
    return top


def main(arguments: list[str]) -> int:
    """scripts/check-example. Returns 0 if everything passed; raises Failure."""
    full = parser().parse_args(arguments).full or bool(os.environ.get("BLUEGREEN_TEST_FULL"))
    workflow = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
    given = inputs()
    lanes = [commands(workflow, job, given) for job in JOBS]
    source, venv = repository(), environment()
    with postgresql() as database, redis() as broker, ThreadPoolExecutor(len(lanes)) as pool:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "DJANGO", "PG"))}
        env = own | {
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(venv),
            "DATABASE_URL": database,
            "REDIS_URL": broker,
            "MYPY_CACHE_DIR": str(WORK / "mypy"),
        }
        strict = full or bool(os.environ.get("GITHUB_ACTIONS"))
        running = [pool.submit(lane, todo, source, env, strict) for todo in lanes]
        results = [result for future in running for result in future.result()]
    good, bad = (sum(column) for column in zip(*(result.counts for result in results), strict=True))
    print(f"{good} passed" if not bad else f"{bad} failed, {good} passed")
    return int(bad > 0)
