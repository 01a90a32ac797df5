"""A host without root and without systemd: a directory for its root, a small simulated systemd, real local sockets."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from bluegreen import (
    cli,
    contents,
    images,
    inflight,
    privileges,
    reconcile,
    register,
    release,
    route,
    secrets,
    smoke,
    state,
    status,
    units,
    verbs,
)
from bluegreen.config import COLOURS, Paths
from bluegreen.context import Context
from bluegreen.errors import BluegreenError
from bluegreen.web import STAMP, NoAnswer, Response

APP = "orders"
KEY = "5a" * 32
RECIPE = "0123abcd"
CONFIG = {"wsgi": "shop.wsgi:application", "settings_module": "shop.settings"}


class Crash(BaseException):
    """The process was killed here; nothing after it happens."""


# the simulated system


@dataclasses.dataclass
class Unit:
    """What systemd knows of a unit."""

    active: str = "inactive"
    sub: str = "dead"
    restarts: int = 0
    since: float = 0.0
    journal: list[str] = dataclasses.field(default_factory=list)
    release: str = ""
    description: str = ""


class System:
    """Stands in for `units.run`: units, timers, mounts, `ss`. Keeps what it was asked."""

    def __init__(self, paths: Paths):
        self.paths = paths
        self.units: dict[str, Unit] = {}
        self.timers: dict[str, tuple[float, list[str]]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.stdin = ""  # what the last program was given
        self.clock = 1000.0
        self.boot = 1
        self.mounted: set[Path] = set()
        self.can_mount = True
        self.failing: dict[str, list[str]] = {}  # release or unit → its last words
        self.in_flight: dict[str, int] = {}
        self.enabled = {"bluegreen-reconcile.service": "enabled"}
        self.jobs: list[Callable[[list[str]], tuple[int, str, str] | None]] = []
        self.on_change: Callable[[str, bool], None] = lambda colour, running: None

    def unit(self, name: str) -> Unit:
        return self.units.setdefault(name, Unit())

    def web(self, colour: str) -> Unit:
        return self.unit(units.web_unit(APP, colour))

    def serving(self, colour: str) -> str | None:
        """The release whose process answers on a colour."""
        unit = self.web(colour)
        return unit.release if unit.active == "active" else None

    def run(
        self, command: Any, timeout: float = 60, check: bool = True, stdin: str | None = None, aloud: bool = False
    ) -> subprocess.CompletedProcess[str]:
        words = list(command)
        self.stdin = stdin or ""
        self.calls.append(tuple(words))
        self.stdin = stdin or ""
        status, out, err = getattr(self, "do_" + words[0].replace("-", "_"))(words[1:])
        if check and status:
            raise BluegreenError(
                units.Code.CHECK_FAILED, f"{' '.join(words[:4])} failed with status {status}", units.last_line(err)
            )
        return subprocess.CompletedProcess(words, status, out, err)

    # systemctl

    def do_systemctl(self, words: list[str]) -> tuple[int, str, str]:
        rest = [word for word in words if word != "--no-ask-password"]
        return getattr(self, "ctl_" + rest[0].replace("-", "_"))(rest[1:])

    def ctl_show(self, words: list[str]) -> tuple[int, str, str]:
        names = words[1].split(",")
        blocks = []
        for name in words[words.index("--") + 1 :]:
            unit = self.units.get(name, Unit())
            values = {
                "Id": name,
                "ActiveState": unit.active,
                "NeedDaemonReload": "no",
                "UnitFileState": self.enabled.get(name, ""),
                "Description": unit.description,
                "SubState": unit.sub,
                "NRestarts": str(unit.restarts),
                "Result": "success",
                "InvocationID": "",
                "ActiveEnterTimestampMonotonic": str(int(unit.since * 1e6)),
            }
            blocks.append("\n".join(f"{key}={values[key]}" for key in names) + "\n")
        return 0, "\n".join(blocks), ""

    def ctl_list_units(self, words: list[str]) -> tuple[int, str, str]:
        patterns = [word for word in words if not word.startswith("--")]
        known = {name for name, unit in self.units.items() if unit.active != "inactive"} | set(self.timers)
        found = sorted(name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns))
        states = {name: self.units[name].active if name in self.units else "active" for name in found}
        return 0, "".join(f"{name} loaded {state} running -\n" for name, state in states.items()), ""

    def ctl_start(self, words: list[str]) -> tuple[int, str, str]:
        for name in words:
            if not name.startswith("--"):
                self.start(name)
        return 0, "", ""

    def ctl_stop(self, words: list[str]) -> tuple[int, str, str]:
        for pattern in (word for word in words if not word.startswith("--")):
            for name in [name for name in (*self.units, *self.timers) if fnmatchcase(name, pattern)]:
                self.stop(name)
        return 0, "", ""

    def ctl_reset_failed(self, words: list[str]) -> tuple[int, str, str]:
        for name in words:
            if name in self.units and self.units[name].active == "failed":
                self.units[name].active = "inactive"
            if name in self.units:
                self.units[name].restarts = 0
        return 0, "", ""

    def ctl_daemon_reload(self, words: list[str]) -> tuple[int, str, str]:
        return 0, "", ""

    def start(self, name: str) -> None:
        unit = self.unit(name)
        if unit.active == "active":
            return
        colour = next((colour for colour in COLOURS if name == units.web_unit(APP, colour)), None)
        held = release.resolved(self.paths, colour) if colour else None
        words = self.failing.get(name) or (self.failing.get(held) if held else None)
        if words or (colour and not held):
            unit.active, unit.sub, unit.journal = "failed", "failed", words or ["no such release"]
            return
        unit.active, unit.sub, unit.release, unit.since = "active", "running", held or "", 0.0
        if colour:
            self.on_change(colour, True)

    def stop(self, name: str) -> None:
        self.timers.pop(name, None)
        if name not in self.units:
            return
        self.units[name].active, self.units[name].sub = "inactive", "dead"
        for colour in COLOURS:
            if name == units.web_unit(APP, colour):
                self.on_change(colour, False)

    # other programs

    def do_systemd_run(self, words: list[str]) -> tuple[int, str, str]:
        options = dict(word.removeprefix("--").split("=", 1) for word in words if word.startswith("--") and "=" in word)
        if "on-active" in options:
            begin = next(index for index, word in enumerate(words) if not word.startswith("--"))
            self.timers[options["unit"] + ".timer"] = (
                self.clock + float(options["on-active"].removesuffix("s")),
                words[begin:],
            )
            return 0, "", ""
        command = words[words.index("--") + 1 :]
        for job in self.jobs:
            if (answer := job(command)) is not None:
                return answer
        return 0, "", ""

    def do_journalctl(self, words: list[str]) -> tuple[int, str, str]:
        if "--sync" in words:
            return 0, "", ""
        said = self.unit(words[-1].removeprefix("--unit=")).journal
        return 0, "\n".join(json.dumps({"MESSAGE": line, "_PID": "77"}) for line in said), ""

    def do_ss(self, words: list[str]) -> tuple[int, str, str]:
        lines = [f"u_str LISTEN {count} 128 {path} 11 * 0" for path, count in self.in_flight.items()]
        return 0, "\n".join(lines), ""

    def do_sync(self, words: list[str]) -> tuple[int, str, str]:
        return 0, "", ""

    def do_systemd_creds(self, words: list[str]) -> tuple[int, str, str]:
        """Not encrypted here, but nothing that a reader of the file would recognise, and tied to name and host."""
        name = next(word for word in words if word.startswith("--name=")).removeprefix("--name=")
        self.paths.host_key.parent.mkdir(parents=True, exist_ok=True)
        if not self.paths.host_key.exists():
            self.paths.host_key.write_text("host 1")
        seal = [name, self.paths.host_key.read_text()]
        if words[0] == "encrypt":
            return 0, base64.b64encode(json.dumps([*seal, self.stdin]).encode()).decode() + "\n", ""
        *sealed, content = json.loads(base64.b64decode(Path(words[-2]).read_text()))
        if sealed != seal:
            return 1, "", "Embedded credential name or key does not match, refusing."
        return 0, base64.b64encode(content.encode()).decode(), ""

    def do_systemd_tmpfiles(self, words: list[str]) -> tuple[int, str, str]:
        return 0, "", ""

    def do_systemd_analyze(self, words: list[str]) -> tuple[int, str, str]:
        return (1, "", f"Failed to parse calendar specification '{words[1]}'") if "bad" in words[1] else (0, "", "")

    def do_mount(self, words: list[str]) -> tuple[int, str, str]:
        if not self.can_mount:
            return 32, "", "mount: failed to setup loop device"
        image, target = Path(words[-2]), Path(words[-1])
        extract(image, target)
        self.mounted.add(target)
        return 0, "", ""

    def do_umount(self, words: list[str]) -> tuple[int, str, str]:
        target = Path(words[-1])
        self.mounted.discard(target)
        for entry in target.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        return 0, "", ""

    def do_prlimit(self, words: list[str]) -> tuple[int, str, str]:
        return self.do_unsquashfs(words[words.index("unsquashfs") + 1 :])

    def do_unsquashfs(self, words: list[str]) -> tuple[int, str, str]:
        if "-lln" in words:
            lines = listing(Path(words[-1]))
            return (0, "\n".join(lines), "") if lines else (1, "FATAL ERROR: not a squashfs", "")
        target = Path(words[words.index("-dest") + 1])
        target.mkdir()
        return (0, "", "") if extract(Path(words[-1]), target) else (1, "", "FATAL ERROR: not a squashfs")

    # time

    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def due(self) -> list[tuple[str, list[str]]]:
        """The commands of the timers that have elapsed; those are gone then."""
        found = [(name, words) for name, (at, words) in self.timers.items() if at <= self.clock]
        for name, _ in found:
            del self.timers[name]
        return found

    def reboot(self) -> None:
        """Everything that lives in memory is gone."""
        self.boot += 1
        self.timers.clear()
        self.mounted.clear()
        for name in list(self.units):
            self.stop(name)
        self.units.clear()


def pack_image(content: dict[str, str]) -> bytes:
    """The bytes of a make-believe image."""
    return json.dumps(content).encode()


def extract(image: Path, target: Path) -> bool:
    """Open a make-believe image; a value that begins with -> is a link."""
    try:
        content: dict[str, str] = json.loads(image.read_bytes())
    except ValueError:
        return False
    for name, text in content.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(text.removeprefix("->")) if text.startswith("->") else path.write_text(text)
    return True


def listing(image: Path) -> list[str]:
    """What unsquashfs -lln says of a make-believe image."""
    try:
        content: dict[str, str] = json.loads(image.read_bytes())
    except ValueError:
        return []
    lines = ["drwxr-xr-x 0/0 0 2026-01-01 00:00 squashfs-root"]
    for name, text in content.items():
        link = text.startswith("->")
        mode, size, target = ("lrwxrwxrwx", 0, f" -> {text[2:]}") if link else ("-rw-r--r--", len(text), "")
        lines.append(f"{mode} 0/0 {size} 2026-01-01 00:00 squashfs-root/{name}{target}")
    return lines


# a web server per colour


class Server:
    """Answers on a unix socket, one thread per connection; `handle` decides.

    `handle(method, path, headers, body)` returns (status, headers, body), or None to hang up without an answer.
    """

    def __init__(self, path: Path, handle: Callable[..., Any]):
        self.path, self.handle = path, handle
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as stream:
            method, path, _ = stream.readline().decode().split(" ")
            headers: dict[str, str] = {}
            while line := stream.readline().decode("latin-1").strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", 0)))
            self.seen.append((method, path, headers, body))
            answer = self.handle(method, path, headers, body)
            if answer is None:
                return
            status, extra, content = answer
            if not any(name.lower() == "content-length" for name, _ in extra):
                extra = [*extra, ("Content-Length", str(len(content)))]
            head = f"HTTP/1.1 {status} -\r\n" + "".join(f"{name}: {value}\r\n" for name, value in extra) + "\r\n"
            connection.sendall(head.encode("latin-1") + content)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.path.unlink(missing_ok=True)


# the host


class Host:
    """A provisioned host in a directory, and how a controller or a person calls its program."""

    name, up = "web1", True

    def __init__(self, root: Path):
        self.root = root
        self.paths = Paths(APP, root)
        self.system = System(self.paths)
        self.servers: dict[str, Server] = {}
        self.pages: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.hands_on = ["sealed", "credentials"]  # what systemd hands on to units here
        for directory in (
            self.paths.images,
            self.paths.releases,
            self.paths.static,
            self.paths.data,
            self.paths.inbox,
            self.paths.state,
            self.paths.run,
            self.paths.units,
            self.paths.config.parent,
        ):
            directory.mkdir(parents=True, exist_ok=True)
        self.configure_host()
        self.paths.key.write_text(KEY + "\n")

    def configure_host(self, **settings: Any) -> None:
        """Write the host's TOML; what was set before stays."""
        self.settings |= settings
        values = {
            "app": APP,
            "user": "bluegreen-no-such-user",
            "domain": "orders.example.org",
            "host": "web1",
            "singletons": True,
            "min_free_mb": 0,
            "drain_ceiling": 1,
            "front": str(self.paths.run / "front.sock"),
            **self.settings,
        }
        self.paths.config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))

    def serve(self) -> None:
        """Answer on real sockets while a colour runs, and on one that stands for nginx."""

        def change(colour: str, running: bool) -> None:
            if server := self.servers.pop(colour, None):
                server.close()
            if running:
                self.servers[colour] = Server(self.paths.socket(colour), lambda *request: self.answer(colour, *request))

        self.system.on_change = change
        self.servers["front"] = Server(self.paths.run / "front.sock", self.front)

    def answer(self, colour: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        held = self.system.serving(colour)
        page = self.pages.get(path, (200, [], b"hello"))
        if callable(page):
            page = page(method, headers, body, held)
        if page is None:
            return None
        status, extra, content = page
        return status, [(STAMP, held or ""), *extra], content

    def front(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        """nginx: the last slot of the route, which moves last."""
        colour = Path((route.read(self.paths) or {}).get(f"s{route.SLOTS - 1:02}", "none")).stem
        if self.system.serving(colour) is None:
            return 502, [], b""
        return self.answer(colour, method, path, headers, body)

    def close(self) -> None:
        for server in self.servers.values():
            server.close()

    # calls

    def context(self, deploy_id: str = "d1", fence: int | None = None, dry_run: bool = False) -> Context:
        return cli.make_context(
            APP, self.root, deploy_id=deploy_id, fence=fence, holder="someone@controller", dry_run=dry_run
        )

    def do(
        self, verb: str, deploy_id: str = "d1", fence: int | None = None, dry_run: bool = False, **params: Any
    ) -> dict[str, Any]:
        """One verb, as the batch would call it."""
        return verbs.perform(self.context(deploy_id, fence, dry_run), verb, params)

    def batch(self, *steps: dict[str, Any], **call: Any) -> tuple[dict[str, Any], int]:
        answer, status = cli.batch(APP, self.root, {"deploy_id": "d1", **call, "steps": list(steps)})
        return json.loads(json.dumps(answer)), status

    def fire(self) -> list[dict[str, Any]]:
        """Run what the timers that have elapsed run; what fails is run again 3 s later, as its unit says."""
        answers = []
        for name, words in self.system.due():
            assert words[:4] == ["/usr/local/bin/bluegreen", "revert", "--app", APP]
            try:
                answers.append(self.do("revert", deploy_id="local-1-1", deadman=words[words.index("--deadman") + 1]))
            except BluegreenError as problem:
                answers.append({"error": problem})
                again = name.rsplit(".", 1)[0] + ".service"
                self.system.timers[again] = (self.system.clock + 3, words)
        return answers

    def pass_time(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass, and timers with it."""
        self.system.clock += seconds
        return self.fire()

    # releases

    def artifact(self, number: int, content: dict[str, str] | None = None, **manifest: Any) -> dict[str, Any]:
        """The manifest of a build; its image's bytes are under `bytes_of`."""
        sha = hashlib.sha1(str(number).encode()).hexdigest()
        data = self.bytes_of(number, content)
        return {
            "format": 1,
            "app": APP,
            "sha": sha,
            "artifact": f"{APP}-{sha}-{RECIPE}",
            "image": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
            "python": "3.13",
            "arch": os.uname().machine,
            "glibc": "2.36",
            "static": {"url": "/static/", "hashed": []},
            **manifest,
        }

    def bytes_of(self, number: int, content: dict[str, str] | None = None) -> bytes:
        default = {"app/manage.py": f"# {number}\n", "venv/bin/python": "", "static/app.css": f"/* {number} */"}
        return pack_image(default | (content or {}))

    def staged(self, number: int, content: dict[str, str] | None = None, **manifest: Any) -> str:
        """An artifact that is on the host already. Returns its name."""
        made = self.artifact(number, content, **manifest)
        name = images.parse_stem(APP, made["artifact"])
        image = self.paths.images / f"{name}.squashfs"
        if not image.exists():
            image.write_bytes(self.bytes_of(number, content))
            (self.paths.images / name).mkdir(exist_ok=True)
            extract(image, self.paths.images / name)
            (self.paths.images / f"{name}.json").write_text(json.dumps(made))
        return str(made["artifact"])

    def release(self, number: int, deploy_id: str = "d1", fence: int | None = None, **settings: Any) -> str:
        """A complete release of a build."""
        artifact = self.staged(number)
        answer = self.do("configure", deploy_id, fence, artifact=artifact, config={**CONFIG, **settings})
        return str(answer["release"])

    def deploy(self, number: int, fence: int, confirm: bool = True, **settings: Any) -> str:
        """A whole deploy of build `number`, without its controller."""
        deploy_id = f"deploy-{fence}"
        name = self.release(number, deploy_id, fence, **settings)
        self.do("start", deploy_id, fence, release=name, alive=0)
        self.do("route", deploy_id, fence, release=name)
        if confirm:
            self.do("confirm", deploy_id, fence, release=name)
        return name

    def record(self, name: str) -> state.Record:
        found = state.State(self.paths).record(name)
        assert found is not None
        return found

    def live(self) -> str | None:
        found = state.State(self.paths).live()
        return found.release if found else None

    def serves_visitors(self) -> bool:
        """Whether nginx runs."""
        return self.system.unit("nginx.service").active == "active"

    def boot(self) -> dict[str, Any]:
        """Start again after a crash: first the program, then nginx unless the host is outdated."""
        self.system.reboot()
        shutil.rmtree(self.paths.run, ignore_errors=True)
        answer = self.do("reconcile", "boot")
        if not self.paths.outdated.exists():
            self.system.start("nginx.service")
        return answer

    def routed(self) -> dict[str, int]:
        """Release → its share of the visitors; '' where nothing answers."""
        content = route.read(self.paths)
        assert content is not None, "nginx finds no route"
        shares: dict[str, int] = {}
        for slot in range(route.SLOTS):
            colour = Path(content[f"s{slot:02}"]).stem
            name = self.system.serving(colour) or ""
            shares[name] = shares.get(name, 0) + 100 // route.SLOTS
        return shares


def snapshot(root: Path) -> dict[str, str]:
    """Every file, link and directory below `root` with its content and mode, but for the lock."""
    found = {}
    for directory, names, file_names in os.walk(root):
        for name in (*names, *file_names):
            path = Path(directory, name)
            if path.name == "lock" or path.is_socket():
                continue
            mode = oct(path.lstat().st_mode)
            if path.is_symlink():
                found[str(path)] = f"{mode} -> {path.readlink()}"
            else:
                found[str(path)] = f"{mode} {path.read_bytes()!r}" if path.is_file() else mode
    return found


# the register


class FakeRegister:
    """Stands in for `register.Register`, with the same semantics; test_register.py compares the two."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.silent = False  # nothing reaches it
        self.lossy = False  # what is asked is done, and the answer is lost
        self.wrong = ""  # what a register of another application or format says
        self.generation = 0
        self.lease: dict[str, Any] | None = None
        self.decisions: dict[str, register.Decision] = {}
        self.asked: list[str] = []
        self.patience = register.PATIENCE

    def _answer(self, verb: str, deploy_id: str, write: Callable[[], bool] = lambda: False) -> register.Reply:
        self.asked.append(verb)
        if self.silent or self.wrong:
            raise register.Silent(self.wrong or "the register cannot be asked", "connection refused")
        done = write()
        if self.lossy:
            raise register.Silent("the register did not answer")
        held = None
        if self.lease:
            row = {key: value for key, value in self.lease.items() if key not in ("expires", "cap")}
            left, cap_left = self.lease["expires"] - self.clock(), self.lease["cap"] - self.clock()
            held = register.Held(**row, left=left, cap_left=cap_left, generation=self.generation)
        commits = [item for item in self.decisions.values() if item.decision == "COMMIT"]
        latest = max(commits, key=lambda item: (item.generation, item.at), default=None)
        return register.Reply(done, held, self.generation, self.decisions.get(deploy_id), latest, "fake")

    def look(self, deploy_id: str = "") -> register.Reply:
        return self._answer("look", deploy_id)

    def take(self, wanted: register.Wanted) -> register.Reply:
        def write() -> bool:
            now, row = self.clock(), self.lease
            shown = {key: getattr(wanted, key) for key in ("deploy_id", "holder", "host", "process", "run_url", "what")}
            if row and row["deploy_id"] == wanted.deploy_id:
                if now >= row["cap"]:
                    return False
                hosts = [*(name for name in row["hosts"] if name != wanted.host), wanted.host]
                row |= {**shown, "hosts": hosts, "expires": min(now + wanted.ttl, row["cap"])}
                self.generation = max(self.generation, wanted.fence + 1)
                return True
            if row and row["expires"] > now:
                return False
            times = {"expires": now + min(wanted.ttl, wanted.cap), "cap": now + wanted.cap}
            self.lease = {**shown, "since": "then", "hosts": [wanted.host], **times}
            self.generation = max(self.generation, wanted.fence) + 1
            return True

        return self._answer("take", wanted.deploy_id, write)

    def _own(self, deploy_id: str) -> dict[str, Any] | None:
        return self.lease if self.lease and self.lease["deploy_id"] == deploy_id else None

    def renew(self, deploy_id: str, ttl: float) -> register.Reply:
        def write() -> bool:
            row = self._own(deploy_id)
            if not row or self.clock() >= row["cap"]:
                return False
            row["expires"] = min(self.clock() + ttl, row["cap"])
            return True

        return self._answer("renew", deploy_id, write)

    def release(self, deploy_id: str, host: str) -> register.Reply:
        def write() -> bool:
            row = self._own(deploy_id)
            if not row:
                return False
            row["hosts"] = [name for name in row["hosts"] if name != host]
            if not row["hosts"]:
                self.lease = None
            return True

        return self._answer("release", deploy_id, write)

    def take_away(self, deploy_id: str) -> register.Reply:
        def write() -> bool:
            if not self._own(deploy_id):
                return False
            self.lease = None
            self.generation += 1
            return True

        return self._answer("take_away", deploy_id, write)

    def decide(self, wanted: register.Decision, leased: bool) -> register.Reply:
        def write() -> bool:
            if wanted.deploy_id in self.decisions or (leased and not self._own(wanted.deploy_id)):
                return False
            self.decisions[wanted.deploy_id] = dataclasses.replace(wanted, at=f"{len(self.decisions):06}")
            return True

        return self._answer("decide", wanted.deploy_id, write)


class Link:
    """A host's way to the register: it can be cut, and the host can die before and after each question."""

    def __init__(self, fleet: Fleet, host: Host):
        self.fleet, self.host = fleet, host
        self.patience = register.PATIENCE

    def __getattr__(self, verb: str) -> Any:
        def ask(*arguments: Any, **options: Any) -> register.Reply:
            self.fleet.at_question()
            if self.host.name in self.fleet.cut:
                raise register.Silent("the register cannot be asked", "no route to host")
            reply = getattr(self.fleet.register, verb)(*arguments, **options)
            self.fleet.at_question()
            return reply

        return ask


class Fleet:
    """Several hosts with one register, all in this process: `on` says whose program runs."""

    def __init__(self, patch: pytest.MonkeyPatch, roots: list[Path]):
        self.clock = 1000.0
        self.register = FakeRegister(lambda: self.clock)
        self.cut: set[str] = set()
        self.at_question: Callable[[], None] = lambda: None
        self.hosts = [Host(root) for root in roots]
        self.current = self.hosts[0]
        simulate(patch, self.hosts[0])
        patch.setattr(units, "run", self.run)
        patch.setattr(state, "boot_id", self.boot_id)
        patch.setattr(state, "uptime", lambda: self.current.system.clock)
        patch.setattr(images, "is_mounted", lambda path: path in self.current.system.mounted)
        patch.setattr(register, "connect", lambda app, path: Link(self, self.current))
        patch.setattr(smoke, "request", self.request)
        for number, host in enumerate(self.hosts, 1):
            host.name = f"web{number}"
            host.configure_host(host=host.name, register=True, singletons=number == 1)
            host.system.enabled["nginx.service"] = "enabled"
            host.system.start("nginx.service")
            self.on(host).do("reconcile", "boot")

    def run(self, *words: Any, **options: Any) -> Any:
        return self.current.system.run(*words, **options)

    def boot_id(self) -> str:
        return self.current.system.boot_id()

    def on(self, host: Host) -> Host:
        self.current = host
        return host

    def request(self, where: Any, visitor: Any, *request: Any, **options: Any) -> Any:
        """The colours and nginx, without sockets."""
        host = next(host for host in self.hosts if where.target.startswith(str(host.root)))
        name = Path(where.target).stem
        if name == "front" and host.serves_visitors():
            name = Path((route.read(host.paths) or {})[f"s{route.SLOTS - 1:02}"]).stem
        held = host.system.serving(name) if name in COLOURS else None
        if not held:
            raise NoAnswer(ConnectionRefusedError("refused"), refused=True)
        return Response(200, [(STAMP, held)], b"")

    def pass_time(self, seconds: float) -> list[dict[str, Any]]:
        """Let time pass on all hosts and on the server; timers that elapse run on the way, in their order."""
        end, answers = self.clock + seconds, []
        while True:
            moments = [at for host in self.hosts if host.up for at, _ in host.system.timers.values() if at <= end]
            self.clock = max(self.clock, min(moments)) if moments else end
            for host in self.hosts:
                host.system.clock = self.clock
            for host in self.hosts:
                if host.up:
                    answers += self.on(host).fire()
            if not moments:
                return answers


# what crashes


class Killer:
    """Ends the process at the n-th call that changes anything; then no call changes anything any more."""

    NAMES = ("rename", "symlink", "unlink", "rmdir", "mkdir", "write", "fsync")

    def __init__(self, patch: pytest.MonkeyPatch, system: System):
        self.left: int | None = None
        self.count = 0
        self.dead = False
        self.last, self.repeats = "", 0
        for name in self.NAMES:
            patch.setattr(os, name, self._wrap(name, getattr(os, name)))
        run = system.run

        def guarded(command: Any, *rest: Any, **options: Any) -> Any:
            words = list(command)
            if {"start", "stop", "reset-failed", "daemon-reload"} & set(words) or words[0] == "systemd-run":
                self.point()
            return run(command, *rest, **options)

        patch.setattr(units, "run", guarded)

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if name == "write" and self.left == 0 and not self.dead:
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])  # a torn line
            self.repeats = self.repeats + 1 if name == self.last else 0
            self.last = name
            # the 81 links of a route, one after the other: dying at the third is like dying at the second
            if self.dead or self.repeats < 2 or name not in ("symlink", "unlink"):
                self.point()
            return None if name == "fsync" else real(*arguments, **options)

        return wrapped

    def point(self) -> None:
        self.count += 1
        if self.dead:
            raise Crash
        if self.left is not None:
            if self.left == 0:
                self.dead = True
                raise Crash
            self.left -= 1

    @contextlib.contextmanager
    def at(self, number: int | None) -> Iterator[None]:
        """Die at call `number` (from 0) of the block; None: count only. The block ends quietly either way."""
        self.left, self.count, self.dead = number, 0, False
        try:
            with contextlib.suppress(Crash):
                yield
        finally:
            self.left, self.dead = None, False


def call(work: Callable[[], Any], meanwhile: Callable[[], None] | None = None, **_: Any) -> Any:
    """Stands in for `privileges.call`: no child, but nothing of it stays."""
    here = Path.cwd()
    try:
        found = json.loads(json.dumps(work()))
    finally:
        os.chdir(here)
    if meanwhile is not None:
        meanwhile()
    return found


def head(command: Any, most: int, size: int, timeout: float) -> tuple[int, list[str], bool]:
    """Stands in for `units.head`."""
    done = units.run(command, timeout, check=False)
    lines = done.stdout.splitlines()
    return done.returncode, lines[:most], len(lines) < most and len(done.stdout) <= size


def stream(command: Any, stdin: str, keep: Any, timeout: float) -> tuple[int, Any, str]:
    """Stands in for `units.stream`."""
    done = units.run(command, timeout, check=False, stdin=stdin)
    return done.returncode, keep(io.BytesIO(done.stdout.encode("latin-1"))), done.stderr


def written(work: Callable[..., Any]) -> list[bytes]:
    """What a child would write."""
    parts: list[bytes] = []
    work(parts.append)
    return parts


def begin(command: Any) -> Callable[[], None]:
    """Stands in for `units.begin`: done at once; what waits for it says how it went."""
    try:
        units.run(command, check=command[0] != "systemctl")
    except BluegreenError as problem:
        failure = problem

        def fail() -> None:
            raise failure

        return fail
    return lambda: None


def simulate(patch: pytest.MonkeyPatch, host: Host) -> None:
    """Put the simulated system in the place of the real one."""
    system = host.system
    patch.setattr(units, "run", system.run)
    patch.setattr(units, "begin", begin)
    patch.setattr(state, "boot_id", system.boot_id)
    patch.setattr(state, "uptime", lambda: system.clock)
    patch.setattr(images, "is_mounted", lambda path: path in system.mounted)
    patch.setattr(images, "host_pythons", lambda *_: {"3.13"})
    patch.setattr(images, "host_glibc", lambda: "2.41")
    patch.setattr(privileges, "call", call)
    patch.setattr(reconcile, "PATIENCE", 0.0)  # the register says at once that it says nothing
    patch.setattr("bluegreen.rollback.call", lambda work, **_: json.loads(json.dumps(work())))
    patch.setattr(privileges, "stream", lambda work, keep, **_: keep(io.BytesIO(b"".join(written(work)))))
    patch.setattr(images, "probe_account", lambda: None)
    patch.setattr(contents, "claimed", lambda image: 1)
    patch.setattr(units, "head", head)
    patch.setattr(secrets, "arrives", lambda place, user, how: how in host.hands_on)
    patch.setattr(units, "stream", stream)
    patch.setattr(inflight, "SAMPLE", 0.0)
    patch.setattr(smoke, "PAUSE", 0.005)
    patch.setattr(os, "sync", lambda: None)
    patch.setattr(os, "fsync", lambda descriptor: None)  # tests of files.py bring their own


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path is short enough for sockets below it, in memory where that is possible."""
    path = make_directory()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def make_directory() -> Path:
    """A fresh directory; the caller removes it."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="bg-", dir=memory if os.access(memory, os.W_OK) else None))


@pytest.fixture
def host(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A provisioned host with a route, on which nothing was deployed yet."""
    made = Host(short_path)
    simulate(monkeypatch, made)
    made.serve()
    made.do("reconcile")
    yield made
    made.close()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Three provisioned hosts and their register."""
    roots = [make_directory() for _ in range(3)]
    yield Fleet(monkeypatch, roots)
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots instead of twenty, where a test writes hundreds of routes."""
    monkeypatch.setattr(route, "SLOTS", 2)
    monkeypatch.setattr(status, "SLOTS", 2)


@pytest.fixture
def tools() -> types.SimpleNamespace:
    """What tests need besides the host."""
    return types.SimpleNamespace(
        Crash=Crash,
        Host=Host,
        Killer=Killer,
        Server=Server,
        simulate=simulate,
        snapshot=snapshot,
        CONFIG=CONFIG,
        FakeRegister=FakeRegister,
        Fleet=Fleet,
        make_directory=make_directory,
    )
