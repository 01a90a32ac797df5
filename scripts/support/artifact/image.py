"""The container image builds run in where the target's Python is not: the target's base system with a compiler."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from support.artifact.errors import InputError
from support.artifact.settings import CODENAMES
from support.common import Failure, installed, last_line, locked, process_limits, program, run

NAME = "localhost/bluegreen-build"
# No libraries' headers: what an extension needs of the system, the hosts need too, so it goes in app_system_packages.
PACKAGES = "build-essential,ca-certificates,git,python3,python3-dev,python3-venv,squashfs-tools"
LABEL = "bluegreen.recipe"


class Podman:
    """podman as the calling user, with a configuration that starts where limits and cgroups are narrow."""

    def __init__(self, scratch: Path) -> None:
        self.program = program("podman")
        self.env = dict(os.environ)
        if "CONTAINERS_CONF" not in self.env and not _configured():
            conf = scratch / "containers.conf"
            conf.write_text(configuration(process_limits(), runc=installed("runc")), encoding="utf-8")
            self.env["CONTAINERS_CONF"] = str(conf)

    def __call__(self, *words: str, what: str, timeout: float = 60, stdin: bytes | None = None) -> str:
        return run([self.program, *words], what=what, timeout=timeout, stdin=stdin, env=self.env)

    def recipe(self, image: str) -> str:
        """The recipe an image of ours was made by; "" if there is no such image."""
        return self._inspect(image, f'{{{{ index .Labels "{LABEL}" }}}}')

    def identity(self, image: str) -> str:
        """An image's id; "" if there is no such image."""
        return self._inspect(image, "{{ .Id }}")

    def _inspect(self, image: str, form: str) -> str:
        words = [self.program, "image", "inspect", "--format", form, image]
        done = subprocess.run(words, env=self.env, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0 and not re.search("no such|not known", done.stderr):
            raise InputError(f"podman does not work here: {last_line(done.stderr)}")
        return done.stdout.strip() if done.returncode == 0 else ""


def configuration(limits: Mapping[str, int], *, runc: bool) -> str:
    """containers.conf: limits a process without privileges may hand on; runc also starts on hybrid cgroups."""
    ulimits = ", ".join(f'"{name}={value}:{value}"' for name, value in sorted(limits.items()))
    engine = '[engine]\nruntime = "runc"\n\n' if runc else ""
    return f"{engine}[containers]\ndefault_ulimits = [{ulimits}]\n"


def ensure(podman: Podman, system: str, packages: list[str], lock: Path, note: Callable[[str], None]) -> str:
    """Name of an image of `system` ("debian-13") with these packages, made now if there is none.

    `lock` is a file: two builds must not make one image at the same time.
    """
    own = os.environ.get("BLUEGREEN_BUILD_IMAGE", "")
    with locked(lock, lambda: note("wait for another build, which makes the image")):
        if own:
            base, key = own, own
        else:
            command = debootstrap_command(system, "-", os.environ.get("BLUEGREEN_DEBIAN_MIRROR", ""))
            base, key = f"{NAME}:{CODENAMES[system]}", _digest(command)
            if podman.recipe(base) != key:
                note(f"make the image {base} (mmdebstrap {CODENAMES[system]}; a minute, once)")
                _make_base(podman, system, base, key)
        if not packages:
            return base
        key = _digest([key, *sorted(packages)])
        full = f"{NAME}:{CODENAMES[system]}-{key[:8]}"
        if podman.recipe(full) != key:
            note(f"make the image {full} (adds {' '.join(packages)}; once)")
            _add_packages(podman, base, full, packages, key)
        return full


def debootstrap_command(system: str, target: str, mirror: str = "") -> list[str]:
    """The command that makes the base image's root file system as a tar file."""
    shape = ["--variant=apt", f"--include={PACKAGES}", "--dpkgopt=force-unsafe-io"]
    return ["mmdebstrap", *shape, CODENAMES[system], target, *([mirror] if mirror else [])]


def _make_base(podman: Podman, system: str, image: str, recipe: str) -> None:
    try:
        program("mmdebstrap")
    except Failure:
        raise InputError(
            f"no image for {system}: apt-get install mmdebstrap, or name an image with BLUEGREEN_BUILD_IMAGE"
        ) from None
    mirror = os.environ.get("BLUEGREEN_DEBIAN_MIRROR", "")
    # /var/tmp: a root file system needs device nodes and room, which /tmp often lacks.
    with tempfile.TemporaryDirectory(prefix="bluegreen-image-", dir="/var/tmp") as folder:
        tar = f"{folder}/root.tar"
        Path(folder).chmod(0o755)  # a user namespace looks at it with another id
        words = debootstrap_command(system, tar, mirror)
        run(words, what=f"make a {system} file system", timeout=900, env={"TMPDIR": "/var/tmp"})  # noqa: S108
        changes = ["--change", 'CMD ["/bin/sh"]', "--change", f"LABEL {LABEL}={recipe}"]
        older = podman.identity(image)
        podman("import", *changes, tar, image, what=f"import {image}", timeout=300)
        if older:
            with contextlib.suppress(Failure):  # a build may still run in it
                podman("rmi", older, what=f"remove the older {image}")


def _add_packages(podman: Podman, base: str, image: str, packages: list[str], recipe: str) -> None:
    name = f"bluegreen-build-packages-{os.getpid()}"
    script = f"apt-get -q update && apt-get -qy install --no-install-recommends {' '.join(packages)}"
    words = ["run", "--name", name, "--network=host", "--env", "DEBIAN_FRONTEND=noninteractive"]
    try:
        podman(*words, base, "sh", "-c", script, what=f"install app_system_packages {packages}", timeout=900)
        podman(
            "commit", "--quiet", "--change", f"LABEL {LABEL}={recipe}", name, image, what=f"save {image}", timeout=300
        )
    finally:
        podman("rm", "-f", "-i", name, what=f"remove {name}")


def _digest(words: list[str]) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:16]


def _configured() -> bool:
    config = os.environ.get("XDG_CONFIG_HOME") or str(Path("~/.config").expanduser())
    return any(Path(folder, "containers/containers.conf").exists() for folder in (config, "/etc"))
