"""One build, step by step; every step has a name and a time the operator sees."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bluegreen import signature
from support.artifact import commits, lock, place, recipe, sbom, signing, statics, store, tree
from support.artifact.commits import Commit
from support.artifact.errors import InputError
from support.artifact.place import SYSTEM_PATH, TOOLS, Runner
from support.artifact.settings import Settings
from support.common import program

# What a resolver needs to know of its caller: where packages come from. Build commands see none of it.
UV_VARIABLES = re.compile(
    r"UV_(DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|INDEX_STRATEGY|INDEX_\w+_(USERNAME|PASSWORD)"
    r"|INSECURE_HOST|HTTP_TIMEOUT|OFFLINE|EXCLUDE_NEWER)|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy"
)
COMPRESSION_LEVEL = "9"


@dataclass(frozen=True)
class Request:
    """One build that was asked for."""

    settings: Settings
    commit: Commit
    store: Path
    cache: Path  # of uv; kept between builds
    where: str = "auto"
    verbose: bool = False
    key: Path | None = None  # signs the manifest

    @property
    def recipe(self) -> dict[str, Any]:
        return recipe.recipe(self.settings)

    @property
    def stem(self) -> str:
        return recipe.stem(self.settings.name, self.commit.sha, recipe.digest(self.recipe))


class Steps:
    """Progress on stderr: each step's name, then its seconds and what it found."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[list[str]]:
        began = time.monotonic()
        print(f"  {name} …", file=sys.stderr, end="", flush=True)
        found: list[str] = []
        try:
            yield found
        except BaseException:
            print(" failed", file=sys.stderr, flush=True)
            raise
        detail = f" ({', '.join(found)})" if found else ""
        print(f" {time.monotonic() - began:.1f} s{detail}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        print(f"\n    {text} …", file=sys.stderr, end="", flush=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


@contextlib.contextmanager
def scratch_directory() -> Iterator[Path]:
    """A directory of our own, gone at the end however the build ends."""
    folder = Path(tempfile.mkdtemp(prefix="bluegreen-build-")).resolve()
    try:
        yield folder
    finally:
        tree.remove(folder)


def build(request: Request, steps: Steps) -> dict[str, Any]:
    """Build the artifact and put it into the store; returns its manifest. Raises BuildError."""
    with scratch_directory() as scratch:
        return Build(request, steps, scratch).run()


class Build:
    """The state of one build: paths outside (`self.image_root`) and inside (`self.final`) the place."""

    def __init__(self, request: Request, steps: Steps, scratch: Path) -> None:
        self.request, self.steps, self.scratch = request, steps, scratch
        self.settings, self.commit = request.settings, request.commit
        name = request.stem.removeprefix(f"{self.settings.name}-")
        self.final = PurePosixPath("/srv", self.settings.name, "images", name)
        self.image_root = self.outside(self.final)
        self.source = self.final / "app" / self.settings.source_dir
        self.venv = self.final / "venv"
        self.tools = scratch / ".build"

    def outside(self, path: PurePosixPath) -> Path:
        """Where a path of the place lies on this machine."""
        return self.scratch / path.relative_to("/srv")

    def run(self) -> dict[str, Any]:
        self._prepare()
        with self.steps(f"export {self.commit.sha[:12]}") as found:
            found.append(f"{commits.export(self.commit, self.image_root / 'app')} files")
            if not self.outside(self.source).is_dir():
                raise InputError(f"app_source_dir {self.settings.source_dir} is no directory at this commit")
        requirements = self._requirements()
        settings = self.settings
        note = self.steps.note
        with contextlib.ExitStack() as stack:
            with self.steps("open the place of the build") as found:
                opened = place.enter(
                    self.scratch,
                    self.request.cache,
                    settings.python,
                    settings.system_packages,
                    self.request.where,
                    note,
                )
                where = stack.enter_context(opened)
                self.runner = Runner(where, self.scratch, verbose=self.request.verbose)
                machine = self._machine()
                found.append(f"{where.name}, Python {machine['python']}")
            locked = self._lock(requirements)
            self._install()
            for command in settings.build_commands:
                self._command(command)
            static = self._static()
            self._compile()
            return self._finish(machine, static, locked)

    def _prepare(self) -> None:
        for folder in ("lib", "bin", "cache", "home", "tmp"):
            (self.tools / folder).mkdir(parents=True)
        self.tools.chmod(0o700)
        for script in Path(__file__).parent.glob("inside_*.py"):
            shutil.copyfile(script, self.tools / "lib" / script.name)
        # A copy, as a build machine may keep its tools under /srv, which the place covers.
        shutil.copyfile(_uv(), self.tools / "bin/uv")
        (self.tools / "bin/uv").chmod(0o755)
        self.request.cache.mkdir(parents=True, exist_ok=True)

    def _requirements(self) -> list[lock.Line]:
        """The lines of app_requirements (none for a uv.lock, which uv itself reads)."""
        path = self.outside(self.source) / self.settings.requirements
        if not path.is_file():
            raise InputError(
                f"app_requirements {self.settings.requirements} does not exist in {self.settings.source_dir} "
                f"at {self.commit.sha[:12]}"
            )
        if path.name == "uv.lock":
            if not path.with_name("pyproject.toml").is_file():
                raise InputError(f"there is no pyproject.toml beside {self.settings.requirements}")
            return []
        if path.suffix not in {".txt", ".in"} and path.name != "pyproject.toml":
            raise InputError(f"app_requirements {path.name} is not supported: name a requirements.txt or a uv.lock")
        if path.name == "pyproject.toml":
            return []
        lines = lock.read_requirements(path, self.image_root / "app")
        lock.refuse_unlockable(lines)
        return lines

    def _uv(self, *words: str, cwd: PurePosixPath, what: str, hint: str = "") -> None:
        env = self._base_env() | {key: value for key, value in os.environ.items() if UV_VARIABLES.fullmatch(key)}
        env |= {
            "UV_CACHE_DIR": f"{TOOLS}/cache",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_LINK_MODE": "copy",
            "UV_NO_PROGRESS": "1",
        }
        bundle = os.environ.get("SSL_CERT_FILE", "")
        if bundle and Path(bundle).is_file():
            shutil.copyfile(bundle, self.tools / "ca.pem")
            env["SSL_CERT_FILE"] = f"{TOOLS}/ca.pem"
        argv = [f"{TOOLS}/bin/uv", "--quiet", *words]
        self.runner(argv, env=env, cwd=str(cwd), what=what, hint=hint)

    def _base_env(self) -> dict[str, str]:
        return {
            "PATH": SYSTEM_PATH,
            "HOME": f"{TOOLS}/home",
            "TMPDIR": f"{TOOLS}/tmp",  # noqa: S108  ours alone
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(self.commit.time),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
        }

    def _app_env(self) -> dict[str, str]:
        """What build commands see, and nothing else."""
        python_path = [str(PurePosixPath(os.path.normpath(self.source / path))) for path in self.settings.pythonpath]
        env = self._base_env() | {
            "PATH": f"{self.venv}/bin:{SYSTEM_PATH}",
            "VIRTUAL_ENV": str(self.venv),
            "DJANGO_SETTINGS_MODULE": self.settings.settings_module,
            "PYTHONPATH": ":".join(python_path),
        }
        return env | self.settings.build_env

    def _machine(self) -> dict[str, str]:
        argv = [
            f"/usr/bin/python{self.settings.python}",
            "-I",
            f"{TOOLS}/lib/inside_ask.py",
            "machine",
            f"{TOOLS}/machine",
        ]
        self.runner(
            argv, env=self._base_env(), cwd=TOOLS, what=f"the place of the build has no Python {self.settings.python}"
        )
        machine: dict[str, str] = json.loads((self.tools / "machine").read_text(encoding="utf-8"))
        return machine

    def _lock(self, lines: list[lock.Line]) -> str:
        """One hash-locked set of everything; returns its text."""
        settings = self.settings
        python = f"/usr/bin/python{settings.python}"
        path = self.source / settings.requirements
        with self.steps(f"lock {settings.requirements}") as found:
            if path.name == "uv.lock":
                words = ["export", "--frozen", "--no-dev", "--no-emit-workspace", "--no-header", "--no-annotate"]
                words += ["--format", "requirements.txt", "--python", python, "--output-file", f"{TOOLS}/exported.txt"]
                self._uv(*words, cwd=path.parent, what=f"{settings.requirements} cannot be read")
                text = (self.tools / "exported.txt").read_text(encoding="utf-8")
                lines = list(lock.logical_lines(text, settings.requirements))
                lock.refuse_unlockable(lines)
                path = PurePosixPath(TOOLS, "exported.txt")
            extra = "".join(f"{entry}\n" for entry in settings.extra_requirements)
            (self.tools / "app_extra_requirements.txt").write_text(extra, encoding="utf-8")
            lock.refuse_unlockable(list(lock.logical_lines(extra, "app_extra_requirements")))
            pins = lock.pinned_hashes(lines)
            words = ["pip", "compile", str(path), f"{TOOLS}/app_extra_requirements.txt", "--python", python]
            words += ["--generate-hashes", "--no-header", "--no-annotate"]
            words += ["--output-file", f"{TOOLS}/resolved.txt"]
            hint = "see app_requirements and app_extra_requirements"
            self._uv(*words, cwd=self.source, what="the requirements cannot be resolved", hint=hint)
            text = lock.merge((self.tools / "resolved.txt").read_text(encoding="utf-8"), pins)
            # An index's URL may carry a password: it is used, and not kept.
            options = "".join(f"{entry}\n" for entry in lock.index_options(lines, self.final / "app"))
            (self.tools / "lock.txt").write_text(options + text, encoding="utf-8")
            packages = lock.names(text)
            own = len(packages & {pin.name for pin in pins})
            found.append(f"{len(packages)} packages, {own} with the project's own hashes")
        return text

    def _install(self) -> None:
        with self.steps("make the virtualenv") as found:
            python = f"/usr/bin/python{self.settings.python}"
            argv = [python, "-m", "venv", "--without-pip", str(self.venv)]
            self.runner(argv, env=self._base_env(), cwd=TOOLS, what="the virtualenv cannot be made")
            words = [
                "pip",
                "install",
                "--require-hashes",
                "--no-deps",
                "--no-compile",
                "--python",
                f"{self.venv}/bin/python",
            ]
            hint = "its package must be installable from the locked hashes, with the compilers and headers of the place"
            self._uv(*words, "-r", f"{TOOLS}/lock.txt", cwd=self.source, what="the lock cannot be installed", hint=hint)
            (self.outside(self.venv) / ".lock").unlink(missing_ok=True)
            (self.tools / "lock.txt").unlink()
            found.append(f"{_megabytes(self.outside(self.venv)):.0f} MB")

    def _command(self, command: str) -> None:
        with self.steps(f"run {command.splitlines()[0][:70]}"):
            argv = ["/bin/sh", "-ec", command]
            what = f"app_build_commands: {command!r} failed"
            hint = "what it needs of the environment goes into app_build_env"
            self.runner(argv, env=self._app_env(), cwd=str(self.source), what=what, hint=hint)

    def _static(self) -> dict[str, Any]:
        """Ask the settings for STATIC_ROOT, link it, and find the names that never change their content."""
        with self.steps("look at the static files") as found:
            argv = [f"{self.venv}/bin/python", f"{TOOLS}/lib/inside_ask.py", "static", f"{TOOLS}/static"]
            env = self._app_env() | {"PYTHONDONTWRITEBYTECODE": "1"}
            module = env["DJANGO_SETTINGS_MODULE"]
            what = f"the settings {module} cannot be read for STATIC_ROOT"
            self.runner(argv, env=env, cwd=str(self.source), what=what, hint="set what they need in app_build_env")
            asked = json.loads((self.tools / "static").read_text(encoding="utf-8"))
            root = statics.relative_root(asked["root"], self.final, self.source)
            link = self.image_root / "static"
            if root is None:
                link.mkdir()
                found.append("no STATIC_ROOT")
                return {"url": asked["url"], "hashed": []}
            target = self.image_root / root
            if not target.resolve().is_relative_to(self.image_root):
                raise InputError(f"STATIC_ROOT {asked['root']} leads out of the source by a link")
            target.mkdir(parents=True, exist_ok=True)
            link.symlink_to(root)
            hashed = statics.hashed_names(target)
            found.append(
                f"{sum(1 for path in target.rglob('*') if path.is_file())} files, {len(hashed)} with hashed names"
            )
            return {"url": asked["url"], "hashed": hashed}

    def _compile(self) -> None:
        with self.steps("byte-compile") as found:
            argv = [f"{self.venv}/bin/python", "-S", f"{TOOLS}/lib/inside_compile.py", "all", f"{TOOLS}/compiled"]
            argv += [str(self.venv / "lib"), str(self.final / "app")]
            self.runner(argv, env=self._base_env(), cwd=TOOLS, what="byte-compiling failed")
            failed = int((self.tools / "compiled").read_text(encoding="utf-8"))
            if failed:
                found.append(f"{failed} files are no Python {self.settings.python} and stay as they are")

    def _finish(self, machine: dict[str, str], static: dict[str, Any], locked: str) -> dict[str, Any]:
        """Image, SBOM, manifest; then all of it into the store."""
        request, stem = self.request, self.request.stem
        with self.steps("take digests") as found:
            files = tree.settle(self.image_root, str(self.final))
            found.append(f"{len(files)} files")
        image = self.tools / "image.squashfs"
        with self.steps("make the image") as found:
            when = str(self.commit.time)
            argv = ["mksquashfs", str(self.final), f"{TOOLS}/image.squashfs", "-noappend", "-no-progress", "-no-xattrs"]
            argv += ["-all-root", "-all-time", when, "-mkfs-time", when]
            argv += ["-comp", "zstd", "-Xcompression-level", COMPRESSION_LEVEL]
            env = {key: value for key, value in self._base_env().items() if key != "SOURCE_DATE_EPOCH"}
            self.runner(argv, env=env, cwd=TOOLS, what="the image cannot be made")
            found.append(f"{image.stat().st_size / 1e6:.1f} MB")
        bom = self.tools / "sbom.json"
        with self.steps("write the SBOM") as found:
            packages = self.outside(self.venv) / "lib" / f"python{machine['python']}" / "site-packages"
            parts = sbom.write(bom, packages, self.settings.name, self.commit.sha, self.commit.time, self.tools)
            found.append(f"{parts} components")
        manifest = {
            "format": 1,
            "app": self.settings.name,
            "sha": self.commit.sha,
            "ref": self.commit.ref,
            "committed_at": self.commit.committed_at,
            "built_at": commits.iso(time.time()),
            "run": run_of(os.environ),
            "artifact": stem,
            "image": {"file": f"{stem}.squashfs", "sha256": store.sha256(image), "bytes": image.stat().st_size},
            "sbom": {"file": f"{stem}.cdx.json", "sha256": store.sha256(bom)},
            **machine,
            "settings_module": self.settings.settings_module,
            "source_dir": self.settings.source_dir,
            "pythonpath": self.settings.pythonpath,
            "static": static,
            "recipe": request.recipe,
            "recipe_digest": recipe.digest(request.recipe),
            "lock": locked.splitlines(),
            "files": files,
        }
        armoured = ""
        if request.key:
            with self.steps("sign the manifest") as found:
                armoured = signing.sign(signature.text(manifest), request.key)
                found.append(signature.parse(armoured).fingerprint)
        with self.steps("put it into the store"):
            store.publish(request.store, stem, image, bom, manifest, armoured)
        return manifest


def run_of(environment: Mapping[str, str]) -> str:
    """The CI run that builds (GitHub, GitLab), as an address; "" on a person's machine."""
    parts = [environment.get(name, "") for name in ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")]
    if not all(parts):
        return environment.get("CI_JOB_URL", "")
    attempt = environment.get("GITHUB_RUN_ATTEMPT", "")
    return f"{parts[0]}/{parts[1]}/actions/runs/{parts[2]}" + (f"/attempts/{attempt}" if attempt else "")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else program("uv")


def _megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*")) / 1e6
