"""The shape of the repository: promises that no single file can keep."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

REPO = Path(__file__).parents[1]
NOT_PLAYBOOKS = {"requirements.yml", "zizmor.yml", "galaxy.yml"}
ROLES = sorted(path.name for path in (REPO / "roles").glob("*") if path.is_dir())
ENVIRONMENTS = sorted(path.name for path in (REPO / "inventories").iterdir())
ROLE_FILES = ("README.md", "defaults/main.yml", "meta/argument_specs.yml", "tasks/main.yml")
PLUGIN_NAME = re.compile(r"\b((?:ansible|community|containers|grafana|prometheus)\.[a-z_]+)\.[a-z_]+\b")


def tracked(*patterns: str) -> list[Path]:
    """The files that git has: what a person leaves beside them, a report for example, is not the project's."""
    command = ["git", "ls-files", "--", *patterns]
    names = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout.splitlines()
    return [path for name in sorted(set(names)) if (path := REPO / name).is_file() and not path.is_symlink()]


def ansible_files() -> list[Path]:
    return [path for path in tracked("*.yml", "*.yaml") if not path.is_relative_to(REPO / ".github")]


def required_collections() -> dict[str, str]:
    entries = yaml.safe_load((REPO / "requirements.yml").read_text())["collections"]
    return {entry["name"]: entry["version"] for entry in entries}


def installed_version(collection: str) -> str:
    spec = importlib.util.find_spec("ansible_collections")
    assert spec is not None, "the package ansible is not installed"
    assert spec.submodule_search_locations
    manifest = Path(next(iter(spec.submodule_search_locations)), *collection.split("."), "MANIFEST.json")
    assert manifest.exists(), f"{collection} does not come with the package ansible"
    return str(json.loads(manifest.read_text())["collection_info"]["version"])


def test_playbooks_see_the_shared_settings() -> None:
    # Ansible looks for group_vars beside the file that holds the play; a copy of the link as a text file loses all.
    link = REPO / "playbooks" / "group_vars"
    assert link.is_symlink()
    assert link.readlink() == Path("../group_vars")
    assert link.is_dir()


def test_shared_settings_are_for_all_only() -> None:
    # A group's file here would win over the same group's file of every inventory.
    assert sorted(path.name for path in (REPO / "group_vars").iterdir()) == ["all"]


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_inventory_sets_nothing_for_all_in_files(environment: str) -> None:
    # group_vars/all/ of the repository wins over them: a value would be ignored without a word.
    assert not list((REPO / "inventories" / environment / "group_vars").glob("all*"))


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_inventory_does_not_name_the_login(environment: str) -> None:
    # Playbooks choose between provision_user and deploy_user; ansible_user would win over both.
    for path in (REPO / "inventories" / environment).rglob("*.yml"):
        assert "ansible_user" not in path.read_text(), path


def test_entry_points_are_named_without_ending() -> None:
    # `tasks_from: switch.yml` works, and skips the check of the role's arguments silently.
    wrong = [path for path in ansible_files() if re.search(r"tasks_from:\s*\S+\.ya?ml", path.read_text())]
    assert wrong == []


def root_playbooks() -> list[Path]:
    return [path for path in sorted(REPO.glob("*.yml")) if path.name not in NOT_PLAYBOOKS]


def test_root_playbooks_are_thin() -> None:
    assert root_playbooks()
    for path in root_playbooks():
        plays = yaml.safe_load(path.read_text())
        assert [set(play) for play in plays] == [{"name", "import_playbook"}], path.name
        assert plays[0]["import_playbook"] == f"playbooks/{path.name}"
        assert (REPO / "playbooks" / path.name).exists()


def test_there_are_roles() -> None:
    assert ROLES


@pytest.mark.parametrize("role", ROLES)
def test_roles_have_one_shape(role: str) -> None:
    missing = [name for name in ROLE_FILES if not (REPO / "roles" / role / name).is_file()]
    assert missing == []


def secret_inputs(options: dict[str, Any], above: str = "") -> list[str]:
    """The inputs that a role calls secret, as tasks write them."""
    found = []
    for name, option in options.items():
        found += [f"{above}{name}"] if option.get("no_log") else []
        found += secret_inputs(option.get("options", {}), f"{above}{name}.")
    return found


def tasks_of(items: list[dict[str, Any]], quiet: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Every task with whether it is silent, those in blocks too."""
    for item in items:
        silent = bool(item.get("no_log", quiet))
        inner = [task for key in ("block", "rescue", "always") for task in item.get(key, [])]
        yield from tasks_of(inner, silent) if inner else iter([(item, silent)])


@pytest.mark.parametrize("role", ROLES)
def test_a_task_that_uses_a_secret_input_is_silent(role: str) -> None:
    place = REPO / "roles" / role
    specs = yaml.safe_load((place / "meta/argument_specs.yml").read_text())["argument_specs"]
    names = [name for spec in specs.values() for name in secret_inputs(spec.get("options", {}))]
    for path in (*place.glob("tasks/*.yml"), *place.glob("handlers/*.yml")):
        for task, silent in tasks_of(yaml.safe_load(path.read_text())):
            if any(re.search(rf"\b{re.escape(name)}\b", json.dumps(task)) for name in names):
                assert silent, f"{path.relative_to(REPO)}: {task['name']!r} needs no_log: true"


def collections_in_use() -> set[str]:
    texts = [path.read_text() for path in ansible_files() if path.name != "requirements.yml"]
    return {match.group(1) for text in texts for match in PLUGIN_NAME.finditer(text)} - {"ansible.builtin"}


def test_required_collections_are_those_in_use() -> None:
    assert set(required_collections()) == collections_in_use()


@pytest.mark.parametrize("collection", sorted(required_collections()))
def test_required_collections_come_with_ansible(collection: str) -> None:
    version, wanted = installed_version(collection), required_collections()[collection]
    assert version in SpecifierSet(wanted), f"{collection} {version} is not {wanted}"


def test_requirements_are_pinned_by_hash() -> None:
    wanted = re.findall(r"^([A-Za-z0-9-]+)", (REPO / "requirements-dev.in").read_text(), re.MULTILINE)
    text = (REPO / "requirements-dev.txt").read_text()
    pins = re.split(r"^(?=[a-z0-9])", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert {name.lower() for name in wanted} <= {pin.split("==")[0] for pin in pins}
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []


def test_requirements_name_no_index() -> None:
    # Whoever installs says from where; a URL in the file would decide it for everybody.
    assert "://" not in (REPO / "requirements-dev.txt").read_text()


def test_no_file_names_the_machine_it_was_written_on() -> None:
    machine = {str(REPO).encode(), str(Path.home()).encode() if Path.home() != Path("/root") else str(REPO).encode()}
    wrong = [path.relative_to(REPO) for path in tracked() for word in machine if word in path.read_bytes()]
    assert wrong == []


@pytest.mark.parametrize("script", [path.name for path in tracked("scripts/*") if path.parent == REPO / "scripts"])
def test_scripts_can_be_run(script: str) -> None:
    path = REPO / "scripts" / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith(("#!/usr/bin/env bash\n", "#!/usr/bin/env python3\n"))
