"""The settings a build needs, checked. Where they come from: sources.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from support.artifact.errors import InputError

# Which Debian ships which Python: a virtualenv runs only under the interpreter it was made by.
DEBIAN_OF_PYTHON = {"3.11": "debian-12", "3.13": "debian-13"}
CODENAMES = {"debian-12": "bookworm", "debian-13": "trixie"}

APP_FILE = "group_vars/all/app.yml"
APP_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Settings:
    """What is built and how; each field is the setting ``app_<field>``."""

    name: str
    source: str
    settings_module: str
    source_dir: str = "."
    pythonpath: list[str] = field(default_factory=lambda: ["."])
    python: str = "3.13"
    requirements: str = "requirements.txt"
    extra_requirements: list[str] = field(default_factory=lambda: ["gunicorn>=23,<28"])
    build_commands: list[str] = field(default_factory=lambda: ["python -m django collectstatic --noinput"])
    build_env: dict[str, str] = field(default_factory=dict)
    system_packages: list[str] = field(default_factory=list)


REQUIRED = ("app_name", "app_source", "app_settings_module")
NAMES = tuple(f"app_{name}" for name in Settings.__dataclass_fields__)


def from_mapping(values: Mapping[str, Any], file: str = APP_FILE) -> Settings:
    """Checked settings from merged variables; those that are not build settings are ignored.

    `file` is where the operator would set them. Raises InputError naming the setting.
    """
    given = {name: values[name] for name in NAMES if values.get(name) is not None}
    for name, value in given.items():
        _refuse_templates(name, value, file)
    for name in REQUIRED:
        if given.get(name, "") == "":
            raise InputError(f"{name} is not set: set it in {file}")
    checked = {name: CHECKS[name](name, value, file) for name, value in given.items()}
    return Settings(**{name.removeprefix("app_"): value for name, value in checked.items()})


def _refuse_templates(name: str, value: object, file: str) -> None:
    """Nothing templates these values before a build: a template would end up in the artifact as text."""
    parts: list[object] = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            parts += [*part.keys(), *part.values()]
        elif isinstance(part, list):
            parts += part
        elif isinstance(part, str) and ("{{" in part or "{%" in part):
            raise InputError(f"{name} contains a template ({part!r}): builds need the plain value; set it in {file}")


def _text(name: str, value: object, file: str) -> str:
    if not isinstance(value, str):
        raise InputError(f'{name} must be text, not {value!r}: quote it in {file}, {name}: "{value}"')
    if not value.strip() or "\n" in value or "\0" in value:
        raise InputError(f"{name} must be one line of text, not {value!r}: set it in {file}")
    return value.strip()


def _texts(name: str, value: object, file: str) -> list[str]:
    if not isinstance(value, list):
        raise InputError(f"{name} must be a list of texts, not {value!r}: set it in {file}")
    return [_text(f"{name}[{index}]", item, file) for index, item in enumerate(value)]


def _commands(name: str, value: object, file: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise InputError(f"{name} must be a list of shell commands, not {value!r}: set it in {file}")
    return [item.strip() for item in value]


def _app_name(name: str, value: object, file: str) -> str:
    text = _text(name, value, file)
    if not APP_NAME.fullmatch(text):
        raise InputError(
            f"{name} {text!r} must be a-z, 0-9 and -, at most 31, beginning with a letter: set it in {file}"
        )
    if text.endswith(("-blue", "-green")):
        raise InputError(f"{name} {text!r} must not end in -blue or -green (unit names use them): set it in {file}")
    return text


def _python(name: str, value: object, file: str) -> str:
    if not isinstance(value, str) or value not in DEBIAN_OF_PYTHON:
        known = " or ".join(f'"{version}" ({os})' for version, os in DEBIAN_OF_PYTHON.items())
        raise InputError(f"{name} must be {known}, in quotes, not {value!r}: set it in {file}")
    return value


def _module(name: str, value: object, file: str) -> str:
    text = _text(name, value, file)
    if not MODULE.fullmatch(text):
        raise InputError(f"{name} {text!r} is not a Python module's name: set it in {file}")
    return text


def _inside(name: str, value: object, file: str) -> str:
    """A path relative to the source that stays inside it, in its shortest form."""
    text = _text(name, value, file)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{name} {text!r} must be a path inside the repository: set it in {file}")
    return str(path)


def _paths(name: str, value: object, file: str) -> list[str]:
    return [_inside(name, item, file) for item in _texts(name, value, file)]


def _packages(name: str, value: object, file: str) -> list[str]:
    texts = _texts(name, value, file)
    for text in texts:
        if not PACKAGE.fullmatch(text):
            raise InputError(f"{name}: {text!r} is not a Debian package's name: set it in {file}")
    return texts


def _env(name: str, value: object, file: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise InputError(f"{name} must be names with values, not {value!r}: set it in {file}")
    env = {}
    for key, item in value.items():
        if not isinstance(key, str) or not VARIABLE.fullmatch(key):
            raise InputError(f"{name}: {key!r} is not a variable's name: set it in {file}")
        if isinstance(item, bool) or not isinstance(item, str | int) or "\0" in str(item):
            raise InputError(f"{name}.{key} must be text: quote it in {file}")
        env[key] = str(item)
    return env


CHECKS: dict[str, Callable[[str, object, str], Any]] = {
    "app_name": _app_name,
    "app_source": _text,
    "app_settings_module": _module,
    "app_source_dir": _inside,
    "app_pythonpath": _paths,
    "app_python": _python,
    "app_requirements": _inside,
    "app_extra_requirements": _texts,
    "app_build_commands": _commands,
    "app_build_env": _env,
    "app_system_packages": _packages,
}
