"""A place to try migrations: a throwaway PostgreSQL of our own, or a scratch database beside the live one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bluegreen.errors import BluegreenError, Code, check_failed

START = 60.0  # seconds until a new server must answer
RESTORE = 300.0  # seconds for a schema
# Nothing here has to survive: no write waits for a disk, nothing runs in the background.
SETTINGS = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off", "wal_level": "minimal",
    "max_wal_senders": "0", "listen_addresses": "", "shared_buffers": "32MB", "max_connections": "20", "jit": "off",
    "max_locks_per_transaction": "512", "log_min_messages": "fatal", "checkpoint_timeout": "1h", "max_wal_size": "4GB",
}  # fmt: skip
NOBODY = ("postgres", "nobody")  # who runs it when we are root: PostgreSQL refuses root


@dataclasses.dataclass(frozen=True)
class Server:
    """Where to connect: `host` is a directory for a unix socket. The password stays with the caller."""

    host: str
    port: int
    user: str
    bin: str = ""

    def environment(self) -> dict[str, str]:
        """For psql and pg_dump: nothing of the caller's PG* variables."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {**kept, "PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": self.user, "PGCONNECT_TIMEOUT": "10"}


def find_binaries(major: int | None = None, given: str = "") -> str:
    """The directory of a server's programs, of that major version; nothing if there are none.

    Debian keeps them per version, Red Hat too; otherwise what PATH finds counts if it has the version.
    """
    places = [given] if given else []
    if not given:
        kept = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0])
        )
        places += (
            [f"/usr/lib/postgresql/{major}/bin", f"/usr/pgsql-{major}/bin"]
            if major
            else [str(p) for p in reversed(kept)]
        )
        places += [str(Path(found).parent) for name in ("initdb",) if (found := shutil.which(name))]
    for place in places:
        complete = all(os.access(os.path.join(place, name), os.X_OK) for name in ("initdb", "postgres", "psql"))
        if complete and (major is None or server_major(place) == major):
            return place
    return ""


def server_major(place: str) -> int:
    """The major version of the programs in a directory; 0 if they do not say."""
    try:
        said = subprocess.run(
            [f"{place}/postgres", "--version"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    words = said.stdout.split()
    return int(words[2].split(".")[0]) if len(words) > 2 and words[2].split(".")[0].isdigit() else 0


@contextlib.contextmanager
def cluster(place: str, user: str = "shadow", parent: str | None = None) -> Iterator[Server]:
    """A new server, reached by a unix socket in a directory of its own only; gone at the end, with all it held.

    It dies with this process. place: directory of its programs; user: name of its superuser.
    Raises BluegreenError (CHECK_FAILED) if it cannot be made.
    """
    home = Path(tempfile.mkdtemp(prefix="bg-", dir=parent or short_temporary()))
    runner: list[str] = []
    server = None
    try:
        if os.geteuid() == 0:
            runner = as_somebody(home)
        data = home / "data"
        options = ["-U", user, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        _run(
            [*runner, f"{place}/initdb", "-D", str(data), *options], "the throwaway server cannot be made", START, home
        )
        settings = {**SETTINGS, "unix_socket_directories": str(home)}
        words = [f"{place}/postgres", "-D", str(data), *(f"-c{key}={value}" for key, value in settings.items())]
        dies = ["setpriv", "--pdeathsig", "QUIT", *runner[1:]] if shutil.which("setpriv") else runner
        log = home / "log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [*dies, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=home, env=plain()
            )
        _wait_ready(server, data / "postmaster.pid", log)
        yield Server(str(home), 5432, user, place)
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # nothing to save
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(10)
            if server.poll() is None:
                server.kill()
                server.wait()
        shutil.rmtree(home, ignore_errors=True)


def short_temporary() -> str:
    """A directory for sockets: their whole path may have 107 bytes."""
    usual = tempfile.gettempdir()
    return usual if len(usual) < 60 else "/tmp"  # noqa: S108  mkdtemp makes what is used in it


def plain() -> dict[str, str]:
    """The environment without what would steer PostgreSQL or libpq."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PG")} | {"LC_ALL": "C", "TZ": "UTC"}


def as_somebody(home: Path) -> list[str]:
    """The words that run a command as an ordinary user, to whom the directory is given."""
    import pwd

    for name in NOBODY:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            os.chown(home, entry.pw_uid, entry.pw_gid)
            return ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    raise check_failed(
        "PostgreSQL does not run as root", f"there is no user {' or '.join(NOBODY)}", "run it as an ordinary user"
    )


def _run(words: Sequence[str], what: str, timeout: float, cwd: Path) -> None:
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            cwd=cwd,
            env=plain(),
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise check_failed(what, str(problem)) from None
    if done.returncode:
        raise check_failed(what, last(done.stderr or done.stdout))


def last(text: str) -> str:
    """The line of an error that says why."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "FATAL" in line or "error:" in line]
    return (errors or lines or ["it said nothing"])[-1 if not errors else 0]


def _wait_ready(server: subprocess.Popen[bytes], pid_file: Path, log: Path) -> None:
    until = time.monotonic() + START
    while True:
        with contextlib.suppress(OSError):
            lines = pid_file.read_text().splitlines()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
        if server.poll() is not None or time.monotonic() > until:
            raise check_failed("the throwaway server does not start", last(log.read_text(errors="replace")))
        time.sleep(0.01)


def psql(
    server: Server, database: str, sql: str, secret: Mapping[str, str] | None = None, timeout: float = RESTORE
) -> str:
    """Run a script; returns what it printed, bare. secret: more variables, PGPASSWORD for example.

    Raises BluegreenError (CHECK_FAILED) with PostgreSQL's own line.
    """
    program = os.path.join(server.bin, "psql") if server.bin else "psql"
    words = [program, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"]
    return _program(words, sql, {**server.environment(), **(secret or {})}, timeout)


def dump(server: Server, database: str, secret: Mapping[str, str] | None = None, timeout: float = RESTORE) -> str:
    """The schema of a database as a script: without owners, rights, comments, publications."""
    program = os.path.join(server.bin, "pg_dump") if server.bin else "pg_dump"
    options = ["-s", "-O", "-x", "--no-comments", "--no-publications", "--no-subscriptions", "--no-security-labels"]
    words = [program, *options, "--no-tablespaces", "--lock-wait-timeout=5s", "-d", database]
    return _program(words, None, {**server.environment(), **(secret or {})}, timeout)


def _program(words: Sequence[str], stdin: str | None, env: Mapping[str, str], timeout: float) -> str:
    name = os.path.basename(words[0])
    try:
        done = subprocess.run(
            words, input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", timeout=timeout, check=False, env=dict(env),
        )  # fmt: skip
    except FileNotFoundError:
        raise BluegreenError(
            Code.NOT_PROVISIONED, f"{name} is not installed", "", "install postgresql-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise check_failed(f"{name} did not end within {timeout:g} s") from None
    if done.returncode:
        raise check_failed(f"{name} failed", last(done.stderr))
    return done.stdout


def literal(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def identifier(text: str) -> str:
    """A name of SQL."""
    return '"' + text.replace('"', '""') + '"'


def fill(
    server: Server,
    database: str,
    bundle: Mapping[str, object],
    secret: Mapping[str, str] | None = None,
    roles: bool = False,
) -> None:
    """Put the schema and the applied migrations of a live database (`read`) into an empty one.

    secret: as for `psql`. roles: make the roles that policies name (in a server of our own only).
    Raises BluegreenError (CHECK_FAILED).
    """
    script = []
    if roles:
        for name in _texts(bundle.get("roles")):
            script.append(
                f"DO $do$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(name)}) THEN "
                f"CREATE ROLE {identifier(name)}; END IF; END $do$;"
            )
    schema = str(bundle["schema_sql"])
    if "CREATE SCHEMA public;" in schema:
        script.append("DROP SCHEMA IF EXISTS public;")
    script.append(schema)
    table = str(bundle.get("migrations_table") or "")
    applied = bundle.get("applied")
    if table and isinstance(applied, list) and applied:
        rows = ", ".join(f"({literal(str(app))}, {literal(str(name))}, now())" for app, name in applied)
        script.append(f"SET search_path = '';\nINSERT INTO {table} (app, name, applied) VALUES {rows};")
    psql(server, database, "\n".join(script), secret)


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
