"""What every script of the project shares: the project's Python, one-line errors, progress lines, subprocesses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
VENV = REPO / ".venv"
STATE = REPO / ".hosts"  # test hosts: keys, pinned host keys, podman's configuration
CACHE = REPO / ".cache"


class Failure(Exception):
    """A problem that its one line explains: what was wrong and what would be right. `code` is the exit status."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def use_project_python() -> None:
    """Run the calling script again with the project's `.venv` if there is one; its programs come first in PATH."""
    python = VENV / "bin" / "python"
    try:
        if not python.exists():
            return
    except PermissionError:
        sys.exit(
            f"{Path(sys.argv[0]).name}: {VENV} cannot be read by this user: run it as its owner, or let others read it"
        )
    path = os.environ.get("PATH", os.defpath)
    if str(VENV / "bin") not in path.split(os.pathsep):
        os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{path}"
    if Path(sys.prefix).resolve() != VENV.resolve():
        os.execv(python, [str(python), *sys.argv])  # noqa: S606  the same program, another interpreter


def run_main(main: Callable[[list[str]], int]) -> int:
    """Call `main` with the arguments; turn a Failure or Ctrl-C into one line and an exit status."""
    try:
        return main(sys.argv[1:])
    except Failure as failure:
        print(f"{Path(sys.argv[0]).name}: {failure}", file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:
        print(f"{Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing to report to
        return 141


class Progress:
    """Lines on stderr, each with the seconds since the start: `[  4.2 s] web1 is up`."""

    def __init__(self, quiet: bool = False) -> None:
        self.started = time.monotonic()
        self.quiet = quiet

    def seconds(self) -> float:
        return time.monotonic() - self.started

    def __call__(self, text: str) -> None:
        if not self.quiet:
            print(f"[{self.seconds():6.1f} s] {text}", file=sys.stderr, flush=True)


def program(name: str) -> str:
    """Path of a program; a Failure that names scripts/setup if it is missing."""
    # Debian keeps some of them (runc, ip) where an ordinary user's PATH does not look.
    path = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which(name, path=path)
    if found is None:
        raise Failure(f"{name} is not installed: run scripts/setup")
    return found


def installed(name: str) -> bool:
    """Whether there is such a program."""
    try:
        return bool(program(name))
    except Failure:
        return False


def run(
    command: Sequence[str | Path],
    *,
    what: str,
    timeout: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command and return its standard output.

    what: "start web1", for the error's line; timeout in seconds; env is added to ours. A Failure carries the
    last line of standard error.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            timeout=timeout,
            env={**os.environ, **env} if env else None,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError:
        raise Failure(f"{words[0]} is not installed: run scripts/setup") from None
    except subprocess.TimeoutExpired:
        raise Failure(f"cannot {what}: no end after {timeout:g} s") from None
    if done.returncode != 0:
        raise Failure(
            f"cannot {what}: {last_line(done.stderr).removeprefix('Error: ') or f'exit status {done.returncode}'}"
        )
    return done.stdout.decode(errors="replace")


def process_limits() -> dict[str, int]:
    """Open files and processes for containers: no more than this process may hand on."""
    limits = {}
    for name, wanted, which in (("nofile", 65536, resource.RLIMIT_NOFILE), ("nproc", 16384, resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(which)[1]
        limits[name] = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    return limits


def last_line(output: bytes | str) -> str:
    """The last line that says something."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file; `waiting` is called once if another process holds it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_atomic(path: Path, content: str, mode: int = 0o644) -> None:
    """Replace a file in one step: readers see the old or the new content."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w") as out:
        out.write(content)
    aside.replace(path)
