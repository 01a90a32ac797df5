"""Where things are on a host, and what provisioning wrote down about it."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from typing import Any

from bluegreen.errors import BluegreenError, Code, bad_input

APP_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
PROCESS_NAME = re.compile(r"[a-z][a-z0-9_]*")
COLOURS = ("blue", "green")
SLOTS = 20


def other(colour: str) -> str:
    """The other colour."""
    return "green" if colour == "blue" else "blue"


@dataclasses.dataclass(frozen=True)
class Paths:
    """Every path of one application on a host (DESIGN: "On a host"). `root` is / except in tests."""

    app: str
    root: Path = Path("/")

    @property
    def config(self) -> Path:
        return self.root / "etc/bluegreen" / f"{self.app}.toml"

    @property
    def key(self) -> Path:
        return self.root / "etc/bluegreen" / f"{self.app}.key"

    @property
    def register(self) -> Path:
        """The URL of the fleet's register; root's alone."""
        return self.root / "etc/bluegreen" / f"{self.app}.register"

    @property
    def signers(self) -> Path:
        """Who may sign artifacts, in ssh-keygen's format; not there where nobody was named."""
        return self.root / "etc/bluegreen" / f"{self.app}.signers"

    @property
    def revoked(self) -> Path:
        """Keys that may no longer sign."""
        return self.root / "etc/bluegreen" / f"{self.app}.revoked"

    @property
    def host_key(self) -> Path:
        """The key with which systemd-creds seals on this host."""
        return self.root / "var/lib/systemd/credential.secret"

    @property
    def outdated(self) -> Path:
        """There while this host must serve nothing; nginx's unit looks for it."""
        return self.run / "outdated"

    @property
    def srv(self) -> Path:
        return self.root / "srv" / self.app

    @property
    def images(self) -> Path:
        return self.srv / "images"

    @property
    def releases(self) -> Path:
        return self.srv / "releases"

    @property
    def static(self) -> Path:
        return self.srv / "static"

    @property
    def data(self) -> Path:
        return self.srv / "data"

    @property
    def inbox(self) -> Path:
        return self.srv / "inbox"

    @property
    def state(self) -> Path:
        return self.root / "var/lib/bluegreen" / self.app

    @property
    def routes(self) -> Path:
        return self.state / "routes"

    @property
    def route(self) -> Path:
        return self.state / "route"

    @property
    def journal(self) -> Path:
        """When the route was replaced, and by what."""
        return self.state / "route.jsonl"

    @property
    def log(self) -> Path:
        """What nginx writes of each request."""
        return self.root / "var/log/nginx" / f"{self.app}.json.log"

    @property
    def records(self) -> Path:
        return self.state / "records"

    @property
    def checks(self) -> Path:
        return self.state / "checks"

    @property
    def run(self) -> Path:
        return self.root / "run/bluegreen" / self.app

    @property
    def units(self) -> Path:
        return self.root / "etc/systemd/system"

    def colour(self, colour: str) -> Path:
        """The link from a colour to its release."""
        return self.srv / colour

    def socket(self, colour: str) -> Path:
        """The socket on which a colour answers."""
        return self.run / f"{colour}.sock"

    def websocket(self, colour: str) -> Path:
        """The socket on which a colour with ASGI meets websockets: these are counted by themselves."""
        return self.run / f"{colour}.ws.sock"


@dataclasses.dataclass(frozen=True)
class HostConfig:
    """The content of /etc/bluegreen/<app>.toml."""

    app: str
    user: str
    domain: str
    front: str = "http://127.0.0.1:80"
    https: bool = False
    host: str = ""
    singletons: bool = False
    releases_keep: int = 5
    workers: int = 0  # nothing reads it, but hosts of earlier versions have it in their file
    drain_ceiling: int = 120
    websocket_patience: int = 10
    min_free_mb: int = 512
    mount: bool = True
    register: bool = False
    require_signature: bool = False


def parse_config(text: str, path: str) -> HostConfig:
    """Read the host's TOML. Raises BluegreenError that names the wrong key and the right type."""
    try:
        raw: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise BluegreenError(
            Code.NOT_PROVISIONED, f"{path} is not TOML", str(problem), "run ansible-playbook provision.yml"
        ) from problem
    known = {field.name: field for field in dataclasses.fields(HostConfig)}
    for name, value in raw.items():
        if name not in known:
            raise BluegreenError(
                Code.NOT_PROVISIONED, f"{path} has an unknown key {name}", "", "run ansible-playbook provision.yml"
            )
        wanted = {"str": str, "bool": bool, "int": int}[str(known[name].type)]
        if type(value) is not wanted:
            raise BluegreenError(
                Code.NOT_PROVISIONED,
                f"{path}: {name} must be of type {wanted.__name__}",
                f"it is {value!r}",
                "run ansible-playbook provision.yml",
            )
    missing = [name for name in ("app", "user", "domain") if name not in raw]
    if missing:
        raise BluegreenError(
            Code.NOT_PROVISIONED, f"{path} lacks {', '.join(missing)}", "", "run ansible-playbook provision.yml"
        )
    return HostConfig(**raw)


def load_config(paths: Paths) -> HostConfig:
    """The host's configuration of one application."""
    try:
        text = paths.config.read_text()
    except FileNotFoundError:
        raise BluegreenError(
            Code.NOT_PROVISIONED,
            f"this host was not provisioned for {paths.app}",
            f"{paths.config} is missing",
            "run ansible-playbook provision.yml",
        ) from None
    return parse_config(text, str(paths.config))


def check_app_name(app: str) -> str:
    """The name, if it is one; it becomes part of paths and unit names."""
    if not APP_NAME.fullmatch(app) or app.endswith(("-blue", "-green")):
        raise bad_input(
            f"{app!r} is not an application name",
            "wanted: a lower-case letter, then up to 30 letters, digits or hyphens; not ending in -blue or -green",
        )
    return app


def installed_apps(root: Path = Path("/")) -> list[str]:
    """The applications this host was provisioned for."""
    return sorted(path.stem for path in (root / "etc/bluegreen").glob("*.toml"))


def read_key(paths: Paths) -> bytes:
    """The application's key, the same on every host of the fleet."""
    try:
        key = bytes.fromhex(paths.key.read_text().strip())
    except (FileNotFoundError, ValueError):
        key = b""
    if len(key) != 32:
        raise BluegreenError(
            Code.NOT_PROVISIONED, f"{paths.key} does not hold 64 hex digits", "", "run ansible-playbook provision.yml"
        )
    return key


def token(key: bytes, purpose: str) -> str:
    """A token derived from the application's key: `probe` shows who answered, `next` reaches the idle colour."""
    import hmac  # slow to import, and most verbs need no token

    return hmac.new(key, purpose.encode(), "sha256").hexdigest()
