"""What a host knows: which release is confirmed, what is pending, who may change it, and what happened.

The host holds the truth and the controller holds none. `active.json` is the commit point; `pending.json` exists
exactly while a switch is not confirmed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from bluegreen import files
from bluegreen.config import Paths
from bluegreen.errors import BluegreenError, Code

COMMIT, ABORT = "COMMIT", "ABORT"  # what became of a deploy, by the register or a host's own commit point


def now() -> str:
    """The time for people; no decision rests on it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


BOOT_MARK = Path("/run/bluegreen/boot")


def boot_id() -> str:
    """Names this boot: deadlines of another boot have passed.

    The kernel's id and a mark in /run: what lives in /run ends together with the dead-man's timers, also in a system
    container, which restarts without the kernel.
    """
    kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not BOOT_MARK.exists():
        with contextlib.suppress(FileExistsError, PermissionError):
            BOOT_MARK.parent.mkdir(exist_ok=True)
            aside = BOOT_MARK.with_name(f"{BOOT_MARK.name}-{uuid.uuid4().hex}")
            aside.write_text(uuid.uuid4().hex)
            try:
                os.link(aside, BOOT_MARK)  # whoever is first names the boot; nobody reads a half-written name
            finally:
                aside.unlink()
    with contextlib.suppress(FileNotFoundError):
        return f"{kernel}/{BOOT_MARK.read_text()}"
    return kernel


def uptime() -> float:
    """Seconds since boot, suspended time included; the only clock for deadlines."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A moment on this boot's clock."""

    boot: str
    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The moment so many seconds from now."""
        return cls(boot_id(), uptime() + seconds)

    def left(self) -> float:
        """Seconds left; 0.0 once passed or when the host has rebooted since."""
        return max(0.0, self.at - uptime()) if self.boot == boot_id() else 0.0


@dataclasses.dataclass(frozen=True)
class Live:
    """The confirmed release of a host: the content of active.json."""

    colour: str
    release: str
    sha: str
    deploy_id: str
    fence: int
    since: str
    previous: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Pending:
    """A switch that is not confirmed yet: the content of pending.json."""

    colour: str
    release: str
    sha: str
    share: int
    deploy_id: str
    kind: str
    deadline_boot: str
    deadline_at: float
    since: str
    # absent in what an older version wrote
    timer: str = ""  # the dead-man's
    fence: int = 0  # the generation that switched
    decided: str = ""  # what the register said, once it is known
    provisional: bool = False  # reverted while the register could not be asked
    why: str = ""  # of a provisional revert
    bad: bool = False
    outdated: dict[str, Any] | None = None  # what was known before this switch brought the host up to date
    maintenance: dict[str, Any] | None = None  # the window that this switch ends; undoing it opens that again

    @property
    def deadline(self) -> Deadline:
        """When it goes back by itself."""
        return Deadline(self.deadline_boot, self.deadline_at)


@dataclasses.dataclass(frozen=True)
class Lease:
    """Who may change the application on this host now."""

    deploy_id: str
    holder: str
    what: str
    since: str
    boot: str
    expires_at: float
    ttl: float
    # absent in what an older version wrote
    host: str = ""
    process: str = ""
    run_url: str = ""
    cap_at: float = 0.0
    generation: int = 0

    def left(self) -> float:
        """Seconds until it expires unless renewed; 0.0 once it has."""
        return Deadline(self.boot, self.expires_at).left()

    def cap_left(self) -> float:
        """Seconds until it ends in any case; infinite without a cap."""
        return Deadline(self.boot, self.cap_at).left() if self.cap_at else float("inf")

    def public(self) -> dict[str, Any]:
        """As `status` and refusals show it."""
        return {
            "deploy_id": self.deploy_id,
            "holder": self.holder,
            "host": self.host,
            "process": self.process,
            "run_url": self.run_url,
            "what": self.what,
            "since": self.since,
            "expires_in": round(self.left()),
            "generation": self.generation,
        }


@dataclasses.dataclass(frozen=True)
class Record:
    """What became of one release on this host. Kept after the release itself is pruned."""

    id: str
    sha: str
    artifact: str
    state: str = "staged"  # then confirmed, bad, or rolled_back
    staged_at: str = ""
    deployed_at: str = ""
    confirmed_fence: int = 0
    reason: str = ""
    cold: bool = False  # not kept warm and never a fallback: late migrations may have left it behind


T = TypeVar("T", Live, Pending, Lease, Record)


def _typed(kind: type[T], path: Path) -> T | None:
    """The dataclass stored in `path`, or None. Fields of a newer version are refused, not dropped."""
    raw = files.read_json(path)
    if raw is None:
        return None
    try:
        return kind(**raw)
    except TypeError as problem:
        raise BluegreenError(
            Code.REFUSED,
            f"{path} was written by another version of bluegreen",
            str(problem).partition(") ")[2] or str(problem),
            "run ansible-playbook provision.yml",
        ) from None


class State:
    """The state directory of one application."""

    def __init__(self, paths: Paths):
        self.paths = paths
        self.directory = paths.state

    # the commit point

    def live(self) -> Live | None:
        """The confirmed release, or None before the first deploy."""
        return _typed(Live, self.directory / "active.json")

    def set_live(self, live: Live) -> None:
        files.write_json(self.directory / "active.json", dataclasses.asdict(live))

    # the unconfirmed switch

    def pending(self) -> Pending | None:
        """The switch that is not confirmed yet, or None."""
        return _typed(Pending, self.directory / "pending.json")

    def set_pending(self, pending: Pending) -> None:
        files.write_json(self.directory / "pending.json", dataclasses.asdict(pending))

    def clear_pending(self) -> None:
        files.remove_file(self.directory / "pending.json")

    # who may change it

    def fence(self) -> int:
        """The highest generation this host has accepted."""
        try:
            text = (self.directory / "fence").read_text().strip()
        except FileNotFoundError:
            return 0
        if not text.isdigit():
            raise BluegreenError(Code.REFUSED, f"{self.directory / 'fence'} is damaged", "it does not hold a number")
        return int(text)

    def raise_fence(self, fence: int, keep: bool = True) -> None:
        """Accept `fence`; an older generation is refused. `keep` off only checks."""
        current = self.fence()
        if fence < current:
            raise BluegreenError(
                Code.STALE_FENCE,
                f"generation {fence} is older than {current}",
                "another deploy or rollback has started since",
                "look at ansible-playbook status.yml, then start again",
            )
        if fence > current and keep:
            files.write_file(self.directory / "fence", f"{fence}\n")

    def kept_lease(self) -> Lease | None:
        """The lease this host was last told of, expired or not."""
        return _typed(Lease, self.directory / "lease.json")

    def lease(self) -> Lease | None:
        """The lease, if one is held and has not expired."""
        lease = self.kept_lease()
        return lease if lease and lease.left() > 0 else None

    def set_lease(self, lease: Lease) -> None:
        files.write_json(self.directory / "lease.json", dataclasses.asdict(lease))

    def clear_lease(self) -> None:
        files.remove_file(self.directory / "lease.json")

    # what became of releases

    def record(self, release: str) -> Record | None:
        """What became of a release, or None if it was never on this host."""
        return _typed(Record, self.paths.records / f"{release}.json")

    def set_record(self, record: Record) -> None:
        self.paths.records.mkdir(exist_ok=True)
        files.write_json(self.paths.records / f"{record.id}.json", dataclasses.asdict(record))

    def records(self) -> list[Record]:
        """Every release this host has known, newest confirmed first, then the others by staging time."""
        found = [self.record(path.stem) for path in self.paths.records.glob("*.json")]
        return sorted((r for r in found if r), key=lambda r: (r.confirmed_fence, r.staged_at, r.id), reverse=True)

    # what happened

    def append_history(self, event: str, /, **details: Any) -> None:
        """Add one line to the history."""
        line = json.dumps({**details, "time": now(), "event": event}, sort_keys=True) + "\n"
        descriptor = os.open(
            self.directory / "history.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                line = "\n" + line  # an earlier line was cut short
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def history(self, limit: int) -> list[dict[str, Any]]:
        """The last `limit` entries, oldest first. A line cut short by a power failure is left out."""
        try:
            lines = (self.directory / "history.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines[-limit:]:
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries

    def reverts_in_a_row(self) -> int:
        """How many releases were reverted as bad since one was confirmed."""
        count = 0
        for entry in reversed(self.history(500)):
            if entry.get("event") == "confirm":
                break
            count += entry.get("event") == "revert" and entry.get("bad") is True
        return count

    @contextlib.contextmanager
    def lock(self, verb: str, wait: float) -> Iterator[None]:
        """One change at a time on this host. Waits up to `wait` seconds, then says who is at work."""
        with open(self.directory / "lock", "a+", encoding="utf-8") as stream:
            until = time.monotonic() + wait
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        stream.seek(0)
                        raise BluegreenError(
                            Code.BUSY,
                            "another change is running on this host",
                            stream.read().strip(),
                            "wait for it, then try again",
                        ) from None
                    time.sleep(0.02)
            stream.truncate(0)
            stream.write(f"{verb}, process {os.getpid()}, since {now()}")
            stream.flush()
            yield
