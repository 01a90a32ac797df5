"""A directory in memory for what must not stay, and an agent of its own for the SSH key.

Both end with the program, also when it is killed: a guard, which does nothing else, waits for that.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.ci.secrets import SSH_KEY, UNUSABLE
from support.common import Failure, program

MEMORY = Path("/dev/shm")  # noqa: S108  in memory, and the directory made in it is the user's alone
# Ends when this process does: its stdin is a pipe of which only this process holds the other end.
GUARD = r"""trap '' INT TERM HUP
agent=0
while read -r word; do
  [ "$word" = done ] && exit
  agent=$word
done
[ "$agent" = 0 ] || kill "$agent"
for again in 1 2 3 4 5 6 7 8 9; do
  # what the run had started, which has this directory in its environment, would go on without anybody to see it
  for found in $(grep -lsz "^TMPDIR=$1/tmp\$" /proc/[0-9]*/environ); do
    found=${found#/proc/}
    kill -KILL "${found%/environ}"
  done
  rm -rf -- "$1" && exit
  sleep 1
done
"""


class Private:
    """The directory `path`, and the processes that must outlive a run: `agent` (0 without a key) and `guard`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.agent = 0
        self.guard = subprocess.Popen(
            ["/bin/sh", "-c", GUARD, "guard", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    def tell_guard(self, word: str) -> None:
        with contextlib.suppress(OSError):
            assert self.guard.stdin is not None
            self.guard.stdin.write(f"{word}\n".encode())
            self.guard.stdin.flush()

    def keep(self) -> set[int]:
        """Whom the end of a run does not concern."""
        return {self.guard.pid, self.agent} - {0}

    def write(self, name: str, text: str) -> Path:
        """A file of the directory, for nobody else to read."""
        path = self.path / name
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(text)
        return path

    def start_agent(self, key: str, name: str = SSH_KEY) -> Path:
        """Give the key to an agent of its own; returns its socket. Raises Failure with the key's name."""
        socket = self.path / "agent"
        quiet = {"PATH": os.environ.get("PATH", os.defpath), "SSH_ASKPASS_REQUIRE": "never"}
        said = subprocess.run(
            [program("ssh-agent"), "-s", "-a", str(socket)], capture_output=True, text=True, env=quiet, check=False
        )
        found = re.search(r"SSH_AGENT_PID=(\d+)", said.stdout)
        if not found:
            raise Failure(f"ssh-agent does not start: {said.stderr.strip() or said.returncode}")
        self.agent = int(found[1])
        self.tell_guard(str(self.agent))
        # a session of its own: without a terminal nobody is asked for a passphrase
        added = subprocess.run(
            [program("ssh-add"), "-q", "-"],
            input=key,
            capture_output=True,
            text=True,
            env=quiet | {"SSH_AUTH_SOCK": str(socket)},
            start_new_session=True,
            check=False,
        )
        if added.returncode:
            raise Failure(f"{name} cannot be used: it is no private key, or it has a passphrase", UNUSABLE)
        return socket

    def end(self) -> None:
        """Remove everything; may be called again."""
        if self.agent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.agent, signal.SIGTERM)
        shutil.rmtree(self.path, ignore_errors=True)
        if not self.path.exists():
            self.tell_guard("done")
        with contextlib.suppress(OSError):
            assert self.guard.stdin is not None
            self.guard.stdin.close()


def in_memory(path: Path = MEMORY, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a directory is a file system in memory that this user may write to."""
    with contextlib.suppress(OSError):
        fields = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
        kinds = [field[2] for field in fields if field[1] == str(path)]
        return kinds[-1:] in (["tmpfs"], ["ramfs"]) and os.access(path, os.W_OK | os.X_OK)
    return False


@contextlib.contextmanager
def private() -> Iterator[Private]:
    """A directory for this run, mode 0700; on a disk, with a warning, where there is none in memory."""
    base = MEMORY if in_memory() else None
    if base is None:
        print(f"deploy: {MEMORY} cannot be used: secrets stand on a disk while this runs", file=sys.stderr)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    found = Private(Path(tempfile.mkdtemp(prefix="bluegreen-", dir=base)))
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # a signal that came meanwhile is handled here
        yield found
    finally:
        found.end()
