"""Where build settings come from: an inventory, YAML files, the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped,unused-ignore]

from support.artifact.errors import InputError
from support.artifact.settings import NAMES

TEXT_SETTINGS = {"app_name", "app_source", "app_settings_module", "app_source_dir", "app_python", "app_requirements"}
STORE = "artifact_store"
SIGNERS = ("artifact_signers", "artifact_revoked")


class _Loader(yaml.SafeLoader):  # type: ignore[misc,unused-ignore]
    """YAML as Ansible writes it: vaulted values stand there unread."""


def _unread(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> None:
    """Values behind a tag such as !vault are never build settings."""


_Loader.add_multi_constructor("!", _unread)


def from_files(files: Sequence[Path]) -> dict[str, Any]:
    """Merged settings of YAML files; a later file wins."""
    merged: dict[str, Any] = {}
    for file in files:
        try:
            values = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a SafeLoader
        except OSError as error:
            raise InputError(f"settings file {file} cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"settings file {file} is not YAML: {error}") from error
        if values is not None and not isinstance(values, dict):
            raise InputError(f"settings file {file} must hold names with values")
        merged.update(values or {})
    return merged


def from_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Settings of ``--set key=value``: text as it stands, lists and dictionaries as YAML."""
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or (key not in NAMES and key != STORE):
            raise InputError(f"--set {assignment!r} is not key=value with a key of: {', '.join([*NAMES, STORE])}")
        if key in TEXT_SETTINGS or key == STORE:
            values[key] = text
            continue
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {key}: {text!r} is not YAML, for instance [one, two]") from error
    return values


def from_inventory(root: Path, inventory: Path | None) -> dict[str, Any]:
    """The first app server's variables, with the project's group_vars; Ansible's default inventory if none is given."""
    beside = Path(sys.executable).with_name("ansible-inventory")
    program = str(beside) if beside.exists() else shutil.which("ansible-inventory")
    if program is None:
        raise InputError("ansible-inventory is not installed: run scripts/setup, or give --settings FILE.yml")
    command = [program, "--list", "--playbook-dir", str(root / "playbooks")]
    if inventory is not None:
        command += ["--inventory", str(inventory.absolute())]
    env = os.environ | {
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": os.environ.get("ANSIBLE_CONFIG", f"{root}/ansible.cfg"),
    }
    done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("ERROR", "[ERROR]"))]
        why = (lines or done.stderr.splitlines() or ["no reason given"])[0]
        hint = "; a build needs no secrets: give --settings group_vars/all/app.yml" if "vault" in why.lower() else ""
        raise InputError(f"the inventory cannot be read: {why}{hint}")
    return first_app_server(json.loads(done.stdout), str(inventory or "the inventory"))


def first_app_server(listing: Mapping[str, Any], inventory: str) -> dict[str, Any]:
    """The variables of the first host of app_servers in what ``ansible-inventory --list`` printed."""
    hosts = _hosts(listing, "app_servers", set())
    if not hosts:
        raise InputError(f"{inventory} has no host in the group app_servers: add one, or give --settings FILE.yml")
    values: dict[str, Any] = listing.get("_meta", {}).get("hostvars", {}).get(hosts[0], {})
    return values


def _hosts(listing: Mapping[str, Any], group: str, seen: set[str]) -> list[str]:
    if group in seen:
        return []
    seen.add(group)
    entry = listing.get(group, {})
    hosts = list(entry.get("hosts", []))
    for child in entry.get("children", []):
        hosts += [host for host in _hosts(listing, child, seen) if host not in hosts]
    return hosts


def store_directory(values: Mapping[str, Any], root: Path) -> Path:
    """The directory finished artifacts go to. Raises InputError where it is none (an https store)."""
    text = values.get(STORE) or str(root / "artifacts")
    if not isinstance(text, str):
        raise InputError(f"{STORE} must be a directory, not {text!r}")
    text = _filled(text, values, root)
    if "{{" in text or "://" in text:
        raise InputError(f"{STORE} {text!r} is not a directory: name one with --store DIR and copy it there afterwards")
    return Path(os.path.normpath(root / Path(text).expanduser()))


def signers(values: Mapping[str, Any], root: Path) -> tuple[str, bytes]:
    """The content of artifact_signers and of artifact_revoked; empty where none are named. Raises InputError."""
    found = []
    for name in SIGNERS:
        text = values.get(name) or ""
        filled = _filled(text, values, root) if isinstance(text, str) else "{{"
        path = root / Path(filled).expanduser()
        if filled and ("{{" in filled or not path.is_file()):
            raise InputError(f"{name} {text!r} is not a file: see docs/artifacts.md")
        found.append(path.read_bytes() if filled else b"")
    return found[0].decode(), found[1]


def _filled(text: str, values: Mapping[str, Any], root: Path) -> str:
    """A path with Ansible's two directories put in; other templates stay."""
    for name, folder in (("playbook_dir", root / "playbooks"), ("inventory_dir", values.get("inventory_dir", ""))):
        text = text.replace("{{ " + name + " }}", str(folder))
    return text
