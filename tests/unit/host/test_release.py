"""Releases: their environment, their id, what is refused, and that half of one is never a candidate."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import release, secrets
from bluegreen.errors import BluegreenError, Code

KEY = bytes.fromhex("5a" * 32)
GOOD: dict[str, Any] = {
    "wsgi": "shop.wsgi:application",
    "settings_module": "shop.settings",
    "env": {"A": "1"},
    "secrets": {"SECRET_KEY": "hunter2", "CERT": {"value": "pem", "as": "file"}},
    "files": {"local.py": "X = 1\n"},
    "processes": {"worker": {"command": "celery -A shop worker", "count": 2}},
}


def systemd_reads(text: str) -> dict[str, str]:
    """What systemd makes of an EnvironmentFile (src/basic/env-file.c): the states a quoted value goes through."""
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        if text[position] in " \t\r\n":
            position += 1
            continue
        if text[position] in "#;":
            position = text.index("\n", position) + 1
            continue
        end = text.index("=", position)
        key, position = text[position:end], end + 1
        assert text[position] == '"', "this parser reads double-quoted values only"
        position += 1
        value = ""
        while (char := text[position]) != '"':
            position += 1
            if char == "\\":
                follows = text[position]
                position += 1
                if follows in '"\\`$':
                    value += follows
                elif follows != "\n":  # an escaped line end joins lines
                    value += "\\" + follows
            else:
                value += char
        position += 1
        assert text[position] == "\n", "something follows the closing quote"
        found[key] = value
    return found


VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.text("\\\"$`\n\r\t #;='x")


@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), VALUES, max_size=5))
def test_systemd_reads_back_every_value(values: dict[str, str]) -> None:
    assert systemd_reads("".join(secrets.environment_line(*item) for item in values.items())) == values


def test_the_env_file_of_a_release(host: Any) -> None:
    odd = "line 1\nline 2\r\n\"quoted\" 'x' $HOME `id` \\ ü € 😀"
    name = host.release(1, env={"ODD": odd}, secrets=GOOD["secrets"])
    path = host.paths.releases / name / "env"
    found = systemd_reads(path.read_bytes().decode())
    assert found["ODD"] == odd
    assert not {"SECRET_KEY", "CERT", "CERT_FILE"} & set(found), "secrets arrive in another way: test_secrets.py"
    assert found["BLUEGREEN_RELEASE"] == name
    assert found["BLUEGREEN_TARGET"] == "shop.wsgi:application"
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_are_in_no_file_others_can_read(host: Any) -> None:
    name = host.release(1, secrets={"SECRET_KEY": "hunter2"}, smoke=[{"name": "in", "body": "hunter3"}])
    for directory, _, names in os.walk(host.root):
        for path in (Path(directory, item) for item in names):
            if path.is_file() and not path.is_symlink() and b"hunter" in path.read_bytes():
                assert path.stat().st_mode & 0o077 == 0, path
    shown = json.loads((host.paths.releases / name / "config.json").read_text())
    assert shown["secrets"] == ["SECRET_KEY"]


def identity(config: dict[str, Any], key: bytes = KEY) -> str:
    return release.release_id(key, "a" * 40, "b" * 64, release.split_config(config)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"secrets": {"SECRET_KEY": "other"}},
        {"env": {"A": "2"}},
        {"files": {}},
        {"processes": {}},
        {"workers": 3},
        {"settings_module": "shop.other"},
    ],
)
def test_the_id_depends_on_what_makes_the_release(change: dict[str, Any]) -> None:
    assert identity({**GOOD, **change}) != identity(GOOD)


def test_the_id_does_not_depend_on_checks_nor_order() -> None:
    assert identity({**GOOD, "smoke": [{"name": "x"}], "warm": [{"path": "/"}]}) == identity(GOOD)
    assert identity(dict(reversed(GOOD.items()))) == identity(GOOD)
    assert identity(GOOD, b"\1" * 32) != identity(GOOD), "it is keyed"
    assert identity(GOOD).startswith("a" * 12 + "-")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wsgi": ""}, "neither is set"),
        ({"asgi": "a:b"}, "both are set"),
        ({"wsgi": "shop.wsgi"}, "package.module:attribute"),
        ({"wsgi": "shop.wsgi:application; rm -rf /"}, "package.module:attribute"),
        ({"settings_module": ""}, "app_settings_module"),
        ({"settings_module": 5}, "app_settings_module must be of type str"),
        ({"files": {"../x": ""}}, "'../x' is not a file name"),
        ({"files": {"x.py": 1}}, "app_files.x.py must be a text"),
        ({"files": []}, "app_files must be of type dict"),
        ({"writable_dirs": ["/etc"]}, "app_writable_dirs: '/etc'"),
        ({"writable_dirs": ["a/../../b"]}, "app_writable_dirs"),
        ({"pythonpath": "src"}, "app_pythonpath must be of type list"),
        ({"pythonpath": [1]}, "app_pythonpath: 1"),
        ({"warm": ["/"]}, "app_warm: '/' is not a request"),
        ({"workers": "2"}, "app_workers must be of type int"),
        ({"workers": True}, "app_workers must be of type int"),
        ({"env": {"PATH": "/x"}}, "app_env: 'PATH' cannot be set"),
        ({"env": {"PYTHONPATH": "/x"}}, "'PYTHONPATH' cannot be set"),
        ({"env": {"DJANGO_SETTINGS_MODULE": "x"}}, "cannot be set"),
        ({"env": {"BLUEGREEN_SHA": "x"}}, "cannot be set"),
        ({"env": {"A-B": "x"}}, "'A-B' cannot be set"),
        ({"env": {"PORT": 80}}, "app_env.PORT must be a text"),
        ({"secrets": {"PATH": "hunter2"}}, "app_secrets: 'PATH' cannot be set"),
        ({"secrets": {"KEY": 5}}, "app_secrets.KEY must be a text"),
        ({"secrets": {"KEY": {"value": "x"}}}, "app_secrets.KEY must be a text, or {value: text, as: file}"),
        ({"secrets": {"KEY": {"value": 5, "as": "file"}}}, "app_secrets.KEY"),
        ({"secrets": {"a/b": {"value": "x", "as": "file"}}}, "'a/b' cannot be set"),
        ({"secrets": {"KEY": "hunter2\0"}}, "app_secrets.KEY contains a NUL"),
        ({"secrets": {"KEY": "hunter2\ud800"}}, "app_secrets.KEY contains half a character"),
        ({"secrets": {"KEY": ""}}, "app_secrets.KEY is empty"),
        ({"secrets": {"KEY": {"value": "", "as": "file"}}}, "app_secrets.KEY is empty"),
        ({"secrets": {"KEY": "hunter2" * 20_000}}, "app_secrets.KEY is too long"),
        ({"secrets": {"KEY": {"value": "hunter2" * 150_000, "as": "file"}}}, "the largest is KEY"),
        ({"env": {"LONG": "x" * 131_072}}, "app_env.LONG is too long"),
        ({"secrets": {"CREDENTIALS_DIRECTORY": "hunter2"}}, "cannot be set"),
        ({"secrets_revoked": ["KEY"]}, "app_secrets_revoked: 'KEY' is not in app_secrets"),
        ({"secrets_revoked": "KEY"}, "app_secrets_revoked must be of type list"),
        ({"secrets_revoked": [5]}, "app_secrets_revoked must be a list of names"),
        ({"processes": {"Worker": {"command": "x"}}}, "app_processes.Worker: a process name"),
        ({"processes": {"w": {}}}, "app_processes.w needs a command"),
        ({"processes": {"w": {"command": " "}}}, "app_processes.w needs a command"),
        ({"processes": {"w": "celery"}}, "app_processes.w needs a command"),
        ({"processes": {"w": {"command": "x", "counts": 2}}}, "app_processes.w has an unknown key counts"),
        ({"processes": {"w": {"command": "x", "name": "y"}}}, "unknown key name"),
        ({"processes": {"w": {"command": "x", "count": "2"}}}, "app_processes.w.count must be of type int"),
        ({"processes": {"w": {"command": "x", "count": True}}}, "app_processes.w.count must be of type int"),
        ({"processes": {"w": {"command": "x", "count": 0}}}, "app_processes.w: count and stop_timeout"),
        ({"processes": {"w": {"command": "x\ny"}}}, "one line"),
        ({"processes": {"w": {"command": "x", "singleton": True, "count": 2}}}, "has count 1"),
        ({"processes": ["w"]}, "app_processes must be of type dict"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(
    host: Any, tools: Any, change: dict[str, Any], words: str
) -> None:
    artifact = host.staged(1)
    host.paths.checks.mkdir(exist_ok=True, mode=0o700)
    before = tools.snapshot(host.root)
    with pytest.raises(BluegreenError) as caught:
        host.do("configure", artifact=artifact, config={**tools.CONFIG, **change})
    assert caught.value.code is Code.BAD_INPUT
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert tools.snapshot(host.root) == before


def test_processes_are_read() -> None:
    found = release.parse_processes(
        {"worker": {"command": "a", "count": 2}, "beat": {"command": "b", "singleton": True, "stop_timeout": 5}}
    )
    assert [(process.name, process.early) for process in found] == [("beat", False), ("worker", True)]
    assert found[0].stop_timeout == 5


def test_configure_twice_is_the_same_release(host: Any, tools: Any) -> None:
    first = host.do("configure", artifact=host.staged(1), config=GOOD)
    before = tools.snapshot(host.root)
    second = host.do("configure", artifact=host.staged(1), config=copy.deepcopy(GOOD))
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["release"] == second["release"]
    assert tools.snapshot(host.root) == before
    third = host.do("configure", artifact=host.staged(1), config={**GOOD, "smoke": [{"name": "home"}]})
    assert third["release"] == first["release"]
    assert release.checks_of(host.paths, first["release"]) == {"smoke": [{"name": "home"}]}


def test_an_artifact_that_is_not_here_is_refused(host: Any) -> None:
    name = f"orders-{'a' * 40}-{'b' * 8}"
    with pytest.raises(BluegreenError, match="is not staged on this host") as caught:
        host.do("configure", artifact=name, config=GOOD)
    assert caught.value.code is Code.REFUSED
    with pytest.raises(BluegreenError, match="is not an artifact of orders"):
        host.do("configure", artifact="../../etc", config=GOOD)


def test_a_crash_at_any_step_leaves_no_candidate(host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marker is last: a release is whole or it is not there, and the next call makes it."""
    artifact = host.staged(1)
    killer = tools.Killer(monkeypatch, host.system)
    steps, killed = 0, True
    while killed:
        wanted = {**GOOD, "env": {"N": str(steps)}}
        with killer.at(steps):
            host.do("configure", artifact=artifact, config=wanted)
        killed = killer.count > steps
        for path in host.paths.releases.iterdir():
            if path.name.startswith(".tmp-"):
                assert not release.complete(host.paths, path.name)
            else:
                assert release.complete(host.paths, path.name)
                assert release.config_of(host.paths, path.name)["settings_module"] == "shop.settings"
                assert (path / "run/worker").stat().st_mode & 0o111
        again = host.do("configure", artifact=artifact, config=wanted)
        assert release.complete(host.paths, again["release"])
        steps += 1
    assert steps > 10
    host.do("reconcile")
    assert not list(host.paths.releases.glob(".tmp-*"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a" * 12 + "-" + "b" * 8 + "\n", "A" * 12 + "-" + "b" * 8])
def test_odd_names_are_no_releases(host: Any, name: str) -> None:
    assert not release.complete(host.paths, name)
    with pytest.raises(BluegreenError, match="is not on this host"):
        host.do("start", release=name or "?")


def test_a_release_without_its_description_is_damaged(host: Any) -> None:
    name = host.release(1)
    (host.paths.releases / name / "config.json").unlink()
    with pytest.raises(BluegreenError, match="is damaged"):
        host.do("start", release=name)
