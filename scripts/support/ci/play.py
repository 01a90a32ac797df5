"""One playbook, run by ansible-runner, which tells what happens as events."""

from __future__ import annotations

import configparser
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.common import REPO

KEPT = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID", "CI_JOB_URL")  # the lease says where its run is


def ssh_args(config: Path = REPO / "ansible.cfg", known_hosts: Path | None = None) -> str:
    """The arguments of every ssh. Those of the run come first, and ssh takes the first."""
    parsed = configparser.ConfigParser(interpolation=None)
    parsed.read(config, encoding="utf-8")
    strict = ["-o", "StrictHostKeyChecking=yes"]
    if known_hosts:
        strict += ["-o", f'UserKnownHostsFile="{known_hosts}"', "-o", "GlobalKnownHostsFile=/dev/null"]
    usual = parsed.get("ssh_connection", "ssh_args", fallback="")
    return f"{shlex.join(strict)} {usual}".strip()


def connection(known_hosts: Path | None) -> dict[str, str | bool]:
    """Variables for `-e`, which win over any inventory. What a host needs beside has ansible_ssh_common_args."""
    return {"ansible_ssh_args": ssh_args(known_hosts=known_hosts), "ansible_host_key_checking": True}


def environment(
    own: Mapping[str, str], place: Path, *, agent: Path | None, known_hosts: Path | None, vault: Path | None, tty: bool
) -> dict[str, str]:
    """The environment of a run: paths and switches, no value. Nothing named ANSIBLE_… comes from outside."""
    found = {name: text for name, text in own.items() if not name.startswith("GITHUB_") or name in KEPT}
    found |= {
        "ANSIBLE_CALLBACK_PLUGINS": str(REPO / "plugins" / "callback"),  # ansible-runner adds its own
        "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
        "ANSIBLE_HOST_KEY_CHECKING": "True",  # ansible-runner would say False
        "ANSIBLE_LOCAL_TEMP": str(place / "tmp"),
        "ANSIBLE_SSH_ARGS": ssh_args(known_hosts=known_hosts),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(place / "cp"),
        "ANSIBLE_STDOUT_CALLBACK": "bluegreen",
        "TMPDIR": str(place / "tmp"),
    }
    found |= {"SSH_AUTH_SOCK": str(agent)} if agent else {}
    found |= {"ANSIBLE_VAULT_PASSWORD_FILE": str(vault)} if vault else {}
    # ansible-runner gives Ansible a terminal, whatever this program has
    return found if tty else found | {"ANSIBLE_NOCOLOR": "1", "TERM": "dumb"}


def play(playbook: Path, words: Sequence[str], place: Path, handler: Callable[[Mapping[str, Any]], None]) -> int:
    """Run a playbook; `place`: a directory for what ansible-runner writes. Returns its exit status.

    os.environ is what Ansible gets: as an argument it would be written to a file.
    """
    import ansible_runner  # takes long to import

    def take(event: Mapping[str, Any]) -> bool:
        handler(event)
        return False  # no file of it

    (place / "run").mkdir(mode=0o700, parents=True)
    runner = ansible_runner.run(
        private_data_dir=str(place / "run"),
        project_dir=str(REPO),
        playbook=str(playbook),
        cmdline=shlex.join(words),
        event_handler=take,
        cancel_callback=lambda: False,  # else it takes the signals
        fact_cache_type="memory",
        quiet=True,
        settings={"suppress_output_file": True, "pexpect_timeout": 1},
    )
    return int(runner.rc if runner.rc is not None else 1)


def use(variables: Mapping[str, str]) -> None:
    """Make an environment this process's own."""
    os.environ.clear()
    os.environ.update(variables)
