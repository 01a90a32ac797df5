#!/usr/bin/env python3
"""What scripts/deploy adds to ansible-playbook: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from support.common import VENV, Failure, run_main, use_project_python  # noqa: E402

use_project_python()

RESULTS = REPO / "benchmarks" / "results" / "ci_entry.md"
LIMIT = 1.0  # seconds of wall clock that scripts/deploy may add
HOSTS = "app_servers: {vars: {ansible_connection: local}, hosts: {localhost: }}\n"
EMPTY = "- {name: Nothing, hosts: localhost, gather_facts: false, tasks: [{ansible.builtin.meta: noop}]}\n"
VAULT = "vault_database_password: not-a-real-one\n"


@dataclass(frozen=True)
class Took:
    """One command: seconds of wall clock, and of processor with all that it started."""

    wall: float
    cpu: float


def site(path: Path) -> None:
    """A copy of what scripts/deploy needs, whose status.yml is an empty playbook on this machine."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("plugins", "scripts/support/ci"):
        shutil.copytree(REPO / name, path / name, ignore=ignore)
    for name in ("ansible.cfg", "scripts/deploy", "scripts/support/__init__.py", "scripts/support/common.py"):
        shutil.copy2(REPO / name, path / name)
    (path / ".venv").symlink_to(VENV.resolve())
    (path / "group_vars").mkdir()
    (path / "status.yml").write_text(EMPTY)
    for environment in ("plain", "vault"):
        (path / "inventories" / environment / "group_vars" / "all").mkdir(parents=True)
        (path / "inventories" / environment / "hosts.yml").write_text(HOSTS)


def encrypt(path: Path, password: Path) -> None:
    """A file as ansible-vault leaves it."""
    path.write_text(VAULT)
    command = [VENV / "bin" / "ansible-vault", "encrypt", "--vault-password-file", password, path]
    subprocess.run(command, check=True, capture_output=True)


def took(command: Sequence[str | Path], cwd: Path, more: dict[str, str]) -> Took:
    """Run a command and say what it took. Raises Failure if it fails."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=cwd, env=os.environ | more, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise Failure(f"{command[0]}: exit status {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
    return Took(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def spread(values: Sequence[float]) -> str:
    """Median, and the smallest and largest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def row(name: str, pairs: Sequence[tuple[Took, Took]]) -> str:
    """One line of the table."""
    added = [entry.wall - plain.wall for plain, entry in pairs]
    cpu = [entry.cpu - plain.cpu for plain, entry in pairs]
    walls = [spread([pair[side].wall for pair in pairs]) for side in (0, 1)]
    return f"| {name} | {len(pairs)} | {walls[0]} | {walls[1]} | {spread(added)} | {spread(cpu)} |"


def measure(rounds: int) -> dict[str, list[tuple[Took, Took]]]:
    """Pairs of the two commands, one right after the other: the machine's own speed changes from minute to minute."""
    found: dict[str, list[tuple[Took, Took]]] = {"no secrets": [], "a key, a vault, a value": []}
    with tempfile.TemporaryDirectory() as name:
        path, password, key = Path(name, "repo"), Path(name, "password"), Path(name, "id")
        site(path)
        password.write_text("not-a-real-one")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
        encrypt(path / "inventories" / "vault" / "group_vars" / "all" / "vault.yml", password)
        secrets = {
            "BLUEGREEN_SSH_KEY_FILE": str(key),
            "BLUEGREEN_VAULT_PASSWORD_FILE": str(password),
            "BLUEGREEN_SECRET_API_KEY": "not-a-real-one",
        }
        for _ in range(rounds):
            for case, environment, given in zip(found, ("plain", "vault"), ({}, secrets), strict=True):
                inventory = f"inventories/{environment}"
                own = ["--vault-password-file", password] if given else []
                plain = took([VENV / "bin" / "ansible-playbook", "-i", inventory, *own, "status.yml"], path, {})
                entry = took([path / "scripts" / "deploy", "status", "--env", environment], path, given)
                found[case].append((plain, entry))
    return found


def said(*command: str | Path) -> str:
    """The first line that a command prints."""
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=True)
    return done.stdout.splitlines()[0]


def page(found: dict[str, list[tuple[Took, Took]]], rounds: int) -> str:
    """The results as Markdown."""
    machine = f"{os.cpu_count()} processors, load {os.getloadavg()[1]:.1f}, niceness {os.nice(0)}"
    versions = f"{said(VENV / 'bin' / 'ansible', '--version')}, {machine}"
    commit = said("git", "rev-parse", "--short", "HEAD")
    lines = [
        "# What scripts/deploy adds to ansible-playbook",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions}. bluegreen {commit}. How: [../README.md](../README.md).",
        "",
        "| given | pairs | ansible-playbook | scripts/deploy | added | added processor time |",
        "|---|---|---|---|---|---|",
        *(row(name, pairs) for name, pairs in found.items()),
        "",
        "Median (smallest–largest), in seconds, of an empty playbook here; *added*: the difference in a pair.",
        f"The aim is at most {LIMIT:g} s. Processor time hardly depends on what else the machine does.",
        "",
        f"Again: `benchmarks/ci_entry.py --rounds {rounds}`",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Measure, write the page, and fail if more than LIMIT is added."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    found = measure(options.rounds)
    text = page(found, options.rounds)
    options.out.write_text(text, encoding="utf-8")
    print(text, end="")
    added = {name: statistics.median(b.wall - a.wall for a, b in pairs) for name, pairs in found.items()}
    over = {name: seconds for name, seconds in added.items() if seconds > LIMIT}
    if over:
        raise Failure(
            "; ".join(f"{name}: {seconds:.2f} s more than ansible-playbook" for name, seconds in over.items())
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
