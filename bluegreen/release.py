"""Releases: an artifact together with the configuration it was deployed with. Immutable once complete."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluegreen import files, images, secrets
from bluegreen.config import PROCESS_NAME, Paths
from bluegreen.errors import bad_input, refused

ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
RESERVED = re.compile(r"BLUEGREEN_.*|PATH|PYTHONPATH|DJANGO_SETTINGS_MODULE|CREDENTIALS_DIRECTORY")
LONGEST = 128 * 1024 - 1  # bytes of NAME=value: MAX_ARG_STRLEN of execve(2), less the NUL
SERVE = "/usr/local/lib/bluegreen"
REVOKES = "revokes.json"


@dataclasses.dataclass(frozen=True)
class Process:
    """A background process of a release."""

    name: str
    command: str
    count: int = 1
    singleton: bool = False
    stop_timeout: int = 60
    stop_first: bool = False
    schedule: str = ""

    @property
    def early(self) -> bool:
        """Whether it starts with the idle colour, before traffic; the others wait until the old one has gone."""
        return not (self.singleton or self.stop_first or self.schedule)


def _typed(config: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = config.get(name, default)
    if value is None:
        value = default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise bad_input(
            f"app_{name} must be of type {kind.__name__}",
            f"it is {type(value).__name__}",
            "set it in group_vars/all/app.yml",
        )
    return value


def parse_processes(raw: dict[str, Any]) -> list[Process]:
    """The background processes of a configuration. Raises BluegreenError naming the process and the key."""
    found = []
    known = {field.name: field.type for field in dataclasses.fields(Process)}
    for name, settings in sorted(raw.items()):
        where = f"app_processes.{name}"
        if not PROCESS_NAME.fullmatch(str(name)):
            raise bad_input(f"{where}: a process name is a lower-case letter, then letters, digits or underscores")
        if (
            not isinstance(settings, dict)
            or not isinstance(settings.get("command"), str)
            or not settings["command"].strip()
        ):
            raise bad_input(f"{where} needs a command", "for example: {command: celery -A shop worker}")
        for key, value in settings.items():
            if key not in known or key == "name":
                raise bad_input(
                    f"{where} has an unknown key {key}", f"known: {', '.join(sorted(set(known) - {'name'}))}"
                )
            wanted = {"str": str, "int": int, "bool": bool}[str(known[key])]
            if type(value) is not wanted:
                raise bad_input(f"{where}.{key} must be of type {wanted.__name__}", f"it is {value!r}")
        process = Process(name=name, **settings)
        if process.count < 1 or process.stop_timeout < 1 or "\n" in process.command or "\n" in process.schedule:
            raise bad_input(f"{where}: count and stop_timeout are at least 1, command and schedule are one line")
        if (process.singleton or process.schedule or process.stop_first) and process.count != 1:
            raise bad_input(f"{where}: a singleton, scheduled or stop_first process has count 1")
        found.append(process)
    return found


def check_environment(where: str, values: dict[str, Any], carried: bool = True) -> None:
    """Names and values that an environment can carry (`carried`), or a file. The value itself is never shown."""
    for name, value in values.items():
        if not ENV_NAME.fullmatch(str(name)) or RESERVED.fullmatch(str(name)):
            raise bad_input(
                f"{where}: {name!r} cannot be set", "it is reserved or not a name of an environment variable"
            )
        if not isinstance(value, str):
            raise bad_input(f"{where}.{name} must be a text", f"it is {type(value).__name__}; write it in quotes")
        if "\0" in value:
            raise bad_input(f"{where}.{name} contains a NUL character")
        if any("\ud800" <= char <= "\udfff" for char in value):
            raise bad_input(f"{where}.{name} contains half a character", "a lone surrogate, which no UTF-8 text has")
        if carried and len(f"{name}={value}".encode()) > LONGEST:
            todo = f"give it as a file: {name}: {{value: …, as: file}} in app_secrets"
            raise bad_input(f"{where}.{name} is too long", f"a variable has at most {LONGEST} bytes", todo)


def secrets_of(config: dict[str, Any]) -> list[secrets.Secret]:
    """The secrets of a configuration, checked. Raises BluegreenError that names the wrong one."""
    found = secrets.parse(_typed(config, "secrets", dict, {}))
    check_environment("app_secrets", {each.name: each.value for each in found if not each.as_file})
    check_environment("app_secrets", {each.name: each.value for each in found if each.as_file}, carried=False)
    secrets.check_size(found)
    secrets.check_revoked(_typed(config, "secrets_revoked", list, []), found)
    return found


def release_id(key: bytes, sha: str, image_sha256: str, config: dict[str, Any]) -> str:
    """`<sha12>-<digest8>`: the digest is keyed, so that nobody can try out secrets against it."""
    import hmac  # slow to import, and only `configure` needs it

    text = json.dumps([image_sha256, config], sort_keys=True, separators=(",", ":"))
    return f"{sha[:12]}-{hmac.new(key, text.encode(), 'sha256').hexdigest()[:8]}"


def split_config(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What makes a release, and what only checks it (a changed check does not make a new release)."""
    checks: dict[str, Any] = {name: config[name] for name in ("smoke", "warm") if name in config}
    return {name: value for name, value in config.items() if name not in checks}, checks


def python_path(app_root: Path, config: dict[str, Any], extra: Path) -> str:
    """PYTHONPATH of a release: its files, then the directories of app_pythonpath."""
    parts = [str(extra)]
    for entry in config.get("pythonpath") or ["."]:
        parts.append(os.path.normpath(app_root / entry))
    return ":".join(parts)


def build_environment(paths: Paths, release: str, sha: str, image: Path, config: dict[str, Any]) -> dict[str, str]:
    """The environment of a release, but for its secrets."""
    home = paths.releases / release
    source = Path(os.path.normpath(image / "app" / _typed(config, "source_dir", str, ".")))
    result = {
        "PATH": f"{image}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": python_path(source, config, home / "files"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "DJANGO_SETTINGS_MODULE": _typed(config, "settings_module", str, ""),
        "BLUEGREEN_APP": paths.app,
        "BLUEGREEN_RELEASE": release,
        "BLUEGREEN_SHA": sha,
        "BLUEGREEN_DATA": str(paths.data),
        "BLUEGREEN_WORKERS": str(_typed(config, "workers", int, 2)),
        "BLUEGREEN_THREADS": str(_typed(config, "threads", int, 4)),
        "BLUEGREEN_REQUEST_TIMEOUT": str(_typed(config, "request_timeout", int, 60)),
        "BLUEGREEN_TARGET": config.get("asgi") or config.get("wsgi") or "",
        "BLUEGREEN_INTERFACE": "asgi" if config.get("asgi") else "wsgi",
    }
    result.update(_typed(config, "env", dict, {}))
    return result


def check_config(config: dict[str, Any]) -> None:
    """Refuse a configuration that cannot be run, naming the setting."""
    if bool(config.get("wsgi")) == bool(config.get("asgi")):
        raise bad_input(
            "set app_wsgi or app_asgi",
            "both are set" if config.get("wsgi") else "neither is set",
            "set one in group_vars/all/app.yml",
        )
    target = config.get("asgi") or config.get("wsgi")
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", str(target)):
        raise bad_input(f"{target!r} does not name an application", "wanted: package.module:attribute")
    if not config.get("settings_module"):
        raise bad_input("app_settings_module is missing", "", "set it in group_vars/all/app.yml")
    for name, content in _typed(config, "files", dict, {}).items():
        if not FILE_NAME.fullmatch(name):
            raise bad_input(f"app_files: {name!r} is not a file name")
        if not isinstance(content, str):
            raise bad_input(f"app_files.{name} must be a text", f"it is {type(content).__name__}")
    _check_lists(config)
    check_environment("app_env", _typed(config, "env", dict, {}))
    secrets_of(config)
    parse_processes(_typed(config, "processes", dict, {}))


def _check_lists(config: dict[str, Any]) -> None:
    for name in _typed(config, "pythonpath", list, []):
        if not isinstance(name, str):
            raise bad_input(f"app_pythonpath: {name!r} must be a path in the source")
    for item in _typed(config, "warm", list, []):
        if not isinstance(item, dict) or not str(item.get("path", "/")).startswith("/"):
            raise bad_input(f"app_warm: {item!r} is not a request", "for example: [{path: /}]")
    for name in _typed(config, "writable_dirs", list, []):
        if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/"):
            raise bad_input(f"app_writable_dirs: {name!r} must be a path below /srv/<app>/data")


def script(directory: Path, command: str, prologue: Sequence[str] = ()) -> str:
    """A start script: processes run from the resolved image, not through a colour's link."""
    first = ("#!/bin/sh", "# made by bluegreen", *prologue)
    return "\n".join((*first, f"cd {shlex.quote(str(directory))} || exit 1", f"exec {command}")) + "\n"


def launcher(prologue: Sequence[str]) -> str:
    """A script that runs a command with the release's secrets, where it stands."""
    return "\n".join(("#!/bin/sh", "# made by bluegreen", *prologue, 'exec "$@"')) + "\n"


def configure(paths: Paths, user: str, key: bytes, artifact: str, settings: dict[str, Any]) -> tuple[str, bool]:
    """Make the release of `artifact` with `settings`, which runs as `user`. Returns its id and whether it is new.

    One that is there gets the secrets back that it has lost: the same id means the same values.
    """
    name = images.parse_stem(paths.app, artifact)
    manifest = images.manifest_of(paths, name)
    if manifest is None:
        raise refused(f"{artifact} is not staged on this host", "", "stage it first")
    check_config(settings)
    made, checks = split_config(settings)
    sha = str(manifest["sha"])
    identity = release_id(key, sha, manifest["image"]["sha256"], made)
    home = paths.releases / identity
    image = paths.images / name
    environment = build_environment(paths, identity, sha, image, made)
    kept = secrets_of(made)
    whole = (home / ".complete").exists()
    how = secrets.way(paths, user) if kept and not whole else ""
    secrets.check_way(kept, how)
    paths.checks.mkdir(exist_ok=True, mode=0o700)
    files.write_json(paths.checks / f"{identity}.json", checks, 0o600)
    if whole:
        secrets.restore(paths, identity, kept, key)
        return identity, False
    files.remove_tree(home)
    source = Path(os.path.normpath(image / "app" / made.get("source_dir", ".")))
    with files.directory_aside(home) as aside:
        aside.chmod(0o755)
        for entry in ("app", "venv", "static"):
            os.symlink(image / entry, aside / entry)
        _write_texts(aside / "files", made.get("files") or {}, 0o644)
        secrets.write(paths, aside, kept, how, key)
        if made.get("secrets_revoked"):
            files.write_json(aside / REVOKES, {"names": made["secrets_revoked"]})  # until it has been done
        first = secrets.prologue(kept, how)
        scripts = {"web": script(source, f"{image}/venv/bin/gunicorn --config {SERVE}/bluegreen_gunicorn.py", first)}
        background = parse_processes(made.get("processes") or {})
        scripts |= {process.name: script(source, process.command, first) for process in background}
        scripts |= {secrets.LAUNCHER: launcher(first)} if kept else {}
        _write_texts(aside / "run", scripts, 0o755)
        lines = "".join(secrets.environment_line(name, value) for name, value in sorted(environment.items()))
        (aside / "env").touch(mode=0o600)
        (aside / "env").write_text(lines, encoding="utf-8", newline="")
        (aside / "manifest.json").write_text(json.dumps(manifest, sort_keys=True))
        public = {
            **made,
            "secrets": sorted(made.get("secrets") or {}),
            "secrets_kept": how,
            "artifact": artifact,
            "sha": sha,
            "release": identity,
        }
        (aside / "config.json").write_text(json.dumps(public, indent=1, sort_keys=True))
        for readable in ("manifest.json", "config.json"):
            (aside / readable).chmod(0o644)
        (aside / ".complete").touch()
    return identity, True


def _write_texts(directory: Path, texts: dict[str, str], mode: int) -> None:
    directory.mkdir(mode=0o755)
    for name, content in texts.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_text(content, encoding="utf-8", newline="")
        path.chmod(mode)


def complete(paths: Paths, release: str) -> bool:
    """Whether the release was made completely and is still here."""
    return (
        bool(re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{8}", release)) and (paths.releases / release / ".complete").exists()
    )


def config_of(paths: Paths, release: str) -> dict[str, Any]:
    """A release's configuration without secrets. Raises when it is not complete."""
    if not complete(paths, release):
        raise refused(
            f"the release {release} is not on this host",
            "it was never staged completely, or pruned",
            "deploy its sha again",
        )
    found = files.read_json(paths.releases / release / "config.json")
    if found is None:
        raise refused(f"the release {release} is damaged", "its config.json is missing", "deploy its sha again")
    return found


def checks_of(paths: Paths, release: str) -> dict[str, Any]:
    """The smoke checks and warm-up requests of a release (secret)."""
    return files.read_json(paths.checks / f"{release}.json") or {}


def processes_of(paths: Paths, release: str) -> list[Process]:
    """The background processes of a release."""
    return parse_processes(config_of(paths, release).get("processes") or {})


def image_of(paths: Paths, release: str) -> str:
    """The name of a release's image."""
    return images.parse_stem(paths.app, str(config_of(paths, release)["artifact"]))


def resolved(paths: Paths, colour: str) -> str | None:
    """The release that a colour's link names."""
    try:
        return Path(os.readlink(paths.colour(colour))).name
    except OSError:
        return None
