"""The place a build runs in: the target's Python, with our scratch directory as /srv.

Directly on a machine of the target's kind (a mount namespace of its own), or in a container of its base image.
Both run a program with exactly the environment given: nothing of the caller's leaks in.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from support.artifact import image
from support.artifact.errors import BuildError, InputError
from support.artifact.settings import DEBIAN_OF_PYTHON
from support.common import installed, last_line, program

TOOLS = "/srv/.build"  # inside the place; scratch/.build outside
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
# The cache first: what lies under /srv on this machine is out of sight after the second mount.
MOUNT = '/bin/mount --bind "$1" "$2/.build/cache" && /bin/mount --rbind "$2" /srv && shift 2 && exec "$@"'


class Place(Protocol):
    """Where programs of the build run."""

    name: str

    def command(self, spec: str) -> tuple[list[str], Mapping[str, str] | None]:
        """What to run here to enter the place with a specification (a path inside it), and our environment for it."""

    def close(self) -> None: ...


class Direct:
    """This machine, in a namespace where the scratch directory is mounted over /srv."""

    name = "this machine"

    def __init__(self, scratch: Path, cache: Path, python: str) -> None:
        self.scratch, self.cache, self.python = scratch, cache, python
        done = subprocess.run([*self._unshare(), "/bin/true"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise InputError(
                f"no namespace of one's own is allowed here ({last_line(done.stderr)}): build as root, or allow them: "
                "sysctl -w user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 "
                "kernel.apparmor_restrict_unprivileged_userns=0 (those this system knows)"
            )
        if not Path("/srv").is_dir():
            raise InputError("this machine has no directory /srv, where the build is mounted: mkdir /srv")

    def command(self, spec: str) -> tuple[list[str], Mapping[str, str] | None]:
        enter = ["/bin/sh", "-c", MOUNT, "sh", str(self.cache), str(self.scratch)]
        python = [f"/usr/bin/python{self.python}", "-I", f"{TOOLS}/lib/inside_enter.py", spec]
        return [*self._unshare(), *enter, *python], {"PATH": SYSTEM_PATH}

    def close(self) -> None:
        """Nothing stays: the namespaces end with their processes."""

    def _unshare(self) -> list[str]:
        # --pid --kill-child: whatever a build command leaves in the background ends with it.
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return [program("unshare"), *user, "--mount", "--pid", "--fork", "--kill-child"]


class Container:
    """A container of the target's base image, kept for the length of the build."""

    def __init__(
        self, scratch: Path, cache: Path, python: str, packages: list[str], note: Callable[[str], None]
    ) -> None:
        self.podman = image.Podman(scratch)
        self.python = python
        self.container = f"bluegreen-build-{secrets.token_hex(6)}"
        base = image.ensure(self.podman, DEBIAN_OF_PYTHON[python], packages, cache.parent / "image.lock", note)
        self.name = f"a container of {base}"
        words = ["run", "--detach", "--rm", "--init", "--name", self.container, "--network=host"]
        words += [
            "--security-opt",
            "label=disable",
            "--volume",
            f"{scratch}:/srv",
            "--volume",
            f"{cache}:{TOOLS}/cache",
        ]
        try:
            # Not for ever: the container ends some day even if we were killed.
            self.podman(*words, base, "sleep", "6h", what="start the build's container", timeout=120)
        except BaseException:
            self.close()
            raise

    def command(self, spec: str) -> tuple[list[str], Mapping[str, str] | None]:
        python = [f"/usr/bin/python{self.python}", "-I", f"{TOOLS}/lib/inside_enter.py", spec]
        return [self.podman.program, "exec", self.container, *python], self.podman.env

    def close(self) -> None:
        words = [self.podman.program, "rm", "--force", "--time", "0", "--ignore", self.container]
        subprocess.run(words, env=self.podman.env, capture_output=True, timeout=60, check=False)


def here_is(python: str) -> bool:
    """Whether this machine is the Debian that ships this Python, and has it."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    system = f"{release.get('ID')}-{release.get('VERSION_ID')}"
    return system == DEBIAN_OF_PYTHON[python] and Path(f"/usr/bin/python{python}").exists()


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Those of the Debian packages that are not installed on this machine."""
    missing = []
    for package in packages:
        words = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.stdout != "installed":
            missing.append(package)
    return missing


@contextlib.contextmanager
def enter(
    scratch: Path, cache: Path, python: str, packages: list[str], where: str, note: Callable[[str], None]
) -> Iterator[Place]:
    """Choose and set up the place; `where` is auto, direct or container."""
    place: Place
    if where == "auto":
        where = choose(python, packages, podman=installed("podman"))
    if where == "direct":
        _check_direct(python, packages)
        place = Direct(scratch, cache, python)
    else:
        if not installed("podman"):
            needs = f"app_python {python} is {DEBIAN_OF_PYTHON[python]}'s, which this machine is not"
            raise InputError(f"{needs}: apt-get install podman, to build in a container, or build on such a machine")
        place = Container(scratch, cache, python, packages, note)
    try:
        yield place
    finally:
        place.close()


def choose(python: str, packages: list[str], *, podman: bool) -> str:
    """Directly where this machine is like the target, in a container otherwise."""
    if not here_is(python):
        return "container"
    return "container" if podman and missing_packages(packages) else "direct"


def _check_direct(python: str, packages: list[str]) -> None:
    if not here_is(python):
        raise InputError(f"this machine is not {DEBIAN_OF_PYTHON[python]} with /usr/bin/python{python}: --in container")
    missing = missing_packages(packages)
    if missing:
        raise InputError(
            f"app_system_packages not installed here: apt-get install {' '.join(missing)} (or have podman)"
        )
    if shutil.which("mksquashfs") is None:
        raise InputError("mksquashfs is not installed: apt-get install squashfs-tools")


class Runner:
    """Runs programs in a place, with their output in a log whose end explains a failure."""

    def __init__(self, place: Place, scratch: Path, *, verbose: bool = False) -> None:
        self.place, self.scratch, self.verbose = place, scratch, verbose

    def __call__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: str, what: str, tail: int = 20, hint: str = ""
    ) -> None:
        """Run to its end; raise BuildError with the last `tail` lines of output if it fails."""
        (self.scratch / ".build/run.json").write_text(
            json.dumps({"argv": list(argv), "env": dict(env), "cwd": cwd}), encoding="utf-8"
        )
        command, outer = self.place.command(f"{TOOLS}/run.json")
        log = self.scratch / ".build/log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                env=outer,
                stdin=subprocess.DEVNULL,
                stdout=2 if self.verbose else output,
                stderr=2 if self.verbose else output,
                start_new_session=True,
            )
            try:
                status = process.wait()
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if status != 0:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            cause = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise BuildError(f"{what}: {cause}{hint and '; ' + hint}", lines[-tail:])
