"""One commit of a git repository: find it, and write its tree into a directory."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from support.artifact.errors import BuildError, InputError
from support.common import last_line, locked, program

HEX = re.compile(r"[0-9a-f]{6,40}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
REMOTE = re.compile(r"[a-z][a-z0-9+]*://|[^/]+@[^/]+:|[A-Za-z0-9.-]+:(?!//)")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Commit:
    """A commit in a local repository."""

    repository: Path
    sha: str
    ref: str
    time: int  # seconds since 1970

    @property
    def committed_at(self) -> str:
        return iso(self.time)


def iso(seconds: float) -> str:
    """UTC, to the second: 2026-01-31T12:00:00Z."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def git(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run git there, without the caller's GIT_DIR and never asking for a password."""
    env = {key: value for key, value in os.environ.items() if key not in {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}}
    env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    command = [program("git"), "-C", str(repository), *words]
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def is_remote(source: str) -> bool:
    """Whether a source is a URL (or host:path) and no directory."""
    return REMOTE.match(source) is not None


def open_repository(source: str, base: Path, cache: Path) -> Path:
    """A local repository for a source: the directory itself (relative to `base`), or a mirror of the URL, fetched."""
    if not is_remote(source):
        path = base / Path(source).expanduser()
        done = git(path, "rev-parse", "--git-dir") if path.is_dir() else None
        if done is None or done.returncode != 0:
            stderr = done.stderr if done else ""
            if "dubious ownership" in stderr:
                raise InputError(
                    f"git refuses {path}, as another user owns it: git config --global --add safe.directory {path}"
                )
            raise InputError(f"app_source {path} is not a git repository")
        return path
    plain = re.sub(r"//[^/@]*@", "//", source)  # a token in the URL must not show
    mirror = cache / hashlib.sha256(source.encode()).hexdigest()[:16]
    with locked(cache / f"{mirror.name}.lock"):
        if not (mirror / "HEAD").exists():
            mirror.mkdir(parents=True, exist_ok=True)
            _must(git(mirror, "init", "--quiet", "--bare"), f"make a mirror of {plain}")
        fetch = ["fetch", "--quiet", "--force", "--prune", "--tags", source, "+refs/heads/*:refs/heads/*"]
        done = git(mirror, *fetch)
        if done.returncode != 0:
            raise InputError(f"app_source {plain} cannot be fetched: {_git_line(done.stderr).replace(source, plain)}")
        head = re.search(
            r"^ref: (refs/heads/\S+)\tHEAD$", git(mirror, "ls-remote", "--symref", source, "HEAD").stdout, re.MULTILINE
        )
        if head:
            git(mirror, "symbolic-ref", "HEAD", head[1])
    return mirror


def resolve(repository: Path, rev: str) -> Commit:
    """The one commit a branch, a tag, HEAD or 6 to 40 hex characters name. Raises InputError."""
    if not NAME.fullmatch(rev) or ".." in rev:
        raise InputError(f"rev {rev!a} is not a commit, branch or tag: give 6 to 40 hex characters, or a name")
    found: dict[str, list[str]] = {}
    for ref in _refs(repository, rev):
        done = git(repository, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        if done.returncode == 0:
            found.setdefault(done.stdout.strip(), []).append(ref)
    if HEX.fullmatch(rev.lower()):
        for sha in _commits(repository, rev.lower()):
            found.setdefault(sha, []).append(sha[:12])
    if not found:
        hint = "" if HEX.fullmatch(rev.lower()) or not re.fullmatch(r"[0-9a-f]+", rev) else " (6 to 40 hex characters)"
        raise InputError(f"rev {rev} is no commit, branch or tag of {repository}{hint}")
    if len(found) > 1:
        names = " and ".join(sorted(f"{refs[0]} ({sha[:12]})" for sha, refs in found.items()))
        raise InputError(f"rev {rev} is ambiguous: {names}; give more characters of the commit")
    sha = next(iter(found))
    seconds = int(_must(git(repository, "show", "--no-patch", "--format=%ct", sha), f"read commit {sha[:12]}"))
    return Commit(repository, sha, rev, seconds)


def uncommitted(repository: Path) -> int:
    """How many files of the working tree differ from HEAD (0 for a bare repository)."""
    done = git(repository, "status", "--porcelain", "--untracked-files=no")
    return len(done.stdout.splitlines()) if done.returncode == 0 else 0


def export(commit: Commit, target: Path) -> int:
    """Write the commit's tree into `target`; returns the number of files. Raises InputError for submodules."""
    tree = _must(git(commit.repository, "ls-tree", "-r", "-z", commit.sha), f"read commit {commit.sha[:12]}")
    entries = [entry.split("\t", 1) for entry in tree.split("\0") if entry]
    modules = [path for kind, path in entries if kind.startswith("160000")]
    if modules:
        raise InputError(
            f"the commit has a git submodule ({modules[0]}): they are not supported; vendor it or publish it"
        )
    target.mkdir(parents=True)
    archive = [
        program("git"),
        "-C",
        str(commit.repository),
        "-c",
        "tar.umask=0022",
        "archive",
        "--format=tar",
        commit.sha,
    ]
    unpack = [program("tar"), "-x", "--no-same-owner", "-C", str(target)]
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as packer:
        done = subprocess.run(unpack, stdin=packer.stdout, capture_output=True, check=False)
        problem = (packer.stderr.read() if packer.stderr else b"") + done.stderr
    if packer.returncode or done.returncode:
        raise BuildError(f"commit {commit.sha[:12]} cannot be exported: {last_line(problem)}")
    if any(path.endswith(".gitattributes") for _, path in entries):
        _refuse_lfs_pointers(target)
    return len(entries)


def _refuse_lfs_pointers(target: Path) -> None:
    for path in sorted(target.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 400:
            with path.open("rb") as file:
                if file.read(len(LFS_POINTER)) == LFS_POINTER:
                    raise InputError(
                        f"{path.relative_to(target)} is a git-lfs pointer: install git-lfs and run git lfs fetch --all"
                    )


def _refs(repository: Path, rev: str) -> list[str]:
    if rev == "HEAD":
        return ["HEAD"]
    local = [f"refs/heads/{rev}", f"refs/tags/{rev}"]
    known = [ref for ref in local if git(repository, "show-ref", "--verify", "--quiet", ref).returncode == 0]
    # A clone has most branches only as its remote's.
    return known or [f"refs/remotes/origin/{rev.removeprefix('origin/')}"]


def _commits(repository: Path, prefix: str) -> Sequence[str]:
    """Full shas of all commits (also named by annotated tags' shas) that begin so."""
    objects = git(repository, "rev-parse", f"--disambiguate={prefix}").stdout.split()
    kinds = [(sha, git(repository, "cat-file", "-t", sha).stdout.strip()) for sha in objects]
    return [sha for sha, kind in kinds if kind == "commit"]


def _git_line(stderr: str) -> str:
    """git's reason: its fatal line says more than its last."""
    fatal = [line for line in stderr.splitlines() if line.startswith(("fatal:", "error:"))]
    return (fatal[0] if fatal else last_line(stderr)) or "no reason given"


def _must(done: subprocess.CompletedProcess[str], what: str) -> str:
    if done.returncode != 0:
        raise BuildError(f"cannot {what}: {_git_line(done.stderr)}")
    return done.stdout
