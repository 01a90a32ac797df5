"""A copy of the repository with two hosts that are not there: see fake_host.py."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[3]
PARTS = ("ansible.cfg", "bluegreen", "deploy.yml", "rollback.yml", "status.yml")
PARTS += ("group_vars", "playbooks", "plugins", "roles")
HOSTS = """\
app_servers:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  hosts: {web1: , web2: }
"""
APP = "app_name: shop\nmigration_host: web1\n"
PATIENCE = 60.0  # seconds, on a busy machine


@dataclasses.dataclass
class Site:
    """The copy: its directory, the directory of the fake host, and what a job has in its environment."""

    path: Path
    host: Path
    environment: dict[str, str]

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start scripts/deploy."""
        return subprocess.Popen(
            [sys.executable, str(self.path / "scripts" / "deploy"), *words],
            env=self.environment | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.path.parent,
            start_new_session=True,
        )

    def run(self, *words: str, **more: str) -> tuple[int, str]:
        """Run scripts/deploy to its end: the exit status and what it printed."""
        started = self.start(*words, **more)
        output, _ = started.communicate(timeout=PATIENCE)
        return started.returncode, output

    def calls(self) -> list[dict[str, Any]]:
        """What the hosts were asked, in order."""
        path = self.host / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def verbs(self) -> set[str]:
        return {call["verb"] for call in self.calls()}

    def encrypt(self, path: Path, password: Path) -> None:
        """Encrypt a file as ansible-vault does."""
        from ansible.parsing.vault import VaultLib, VaultSecret

        vault = VaultLib([("default", VaultSecret(password.read_bytes()))])
        path.write_bytes(vault.encrypt(path.read_bytes()))

    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path.parent / "result.json").read_text())
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    path, host = tmp_path / "repo", tmp_path / "bin"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in PARTS:
        source = REPO / name
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(source, path / name, **({"symlinks": True, "ignore": ignore} if source.is_dir() else {}))
    shutil.copytree(REPO / "scripts" / "support" / "ci", path / "scripts" / "support" / "ci", ignore=ignore)
    for name in ("deploy", "support/__init__.py", "support/common.py"):
        shutil.copy2(REPO / "scripts" / name, path / "scripts" / name)
    (path / ".venv").symlink_to(Path(sys.prefix))
    inventory = path / "inventories" / "test"
    (inventory / "group_vars" / "app_servers").mkdir(parents=True)
    (inventory / "hosts.yml").write_text(HOSTS)
    (inventory / "group_vars" / "app_servers" / "app.yml").write_text(APP)
    host.mkdir()
    shutil.copy2(Path(__file__).parent / "fake_host.py", host / "sudo")
    (host / "sudo").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    return Site(path, host, {"PATH": f"{host}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"})


@pytest.fixture(scope="session")
def private_key(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key as a secret of GitHub holds it: without the line break at its end."""
    path = tmp_path_factory.mktemp("key") / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.read_text().strip()
