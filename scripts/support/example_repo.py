"""Rebuild the git repository of an example application from the files under examples/.

examples/<app>/history/<release>/ holds one release: `message` (the commit's message), `files/` (laid over the tree of
the release before) and, if needed, `deleted` (paths that end with this release, one a line) and `after` (the release
that it follows instead: another way, beside the branch main). Names, dates and modes are fixed, so that the commits
have the same ids on every machine. Only the standard library and git are needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FIRST_RELEASE = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)
BETWEEN_RELEASES = timedelta(days=7)
# What git would otherwise take from the machine's own settings, or do in the background.
FIXED = ["-c", "core.fileMode=true", "-c", "core.autocrlf=false", "-c", "core.attributesFile=", "-c", "gc.auto=0"]
NOT_SOURCE = shutil.ignore_patterns("__pycache__", "*.pyc", ".ruff_cache", ".mypy_cache", ".pytest_cache")


class ExampleError(Exception):
    """Something the caller can put right; the text is one line."""


@dataclass(frozen=True)
class Release:
    """One commit of the rebuilt history; `name` is also its tag."""

    name: str
    sha: str
    subject: str
    committed_at: str


def applications(examples: Path = EXAMPLES) -> list[str]:
    """Return the names of the examples that have a history."""
    return sorted(path.parent.name for path in examples.glob("*/history"))


def release_directories(app: str, examples: Path = EXAMPLES) -> list[Path]:
    """Return the directories of an example's releases, oldest first (r1 … r10 by number, then by letter)."""
    found = [path for path in (examples / app / "history").iterdir() if re.fullmatch(r"[a-z]\d+", path.name)]
    return sorted(found, key=lambda path: (int(path.name[1:]), path.name))


def build(app: str, target: Path, examples: Path = EXAMPLES) -> list[Release]:
    """Make the repository of `app` in the empty directory `target`; return its releases, oldest first."""
    _git(target, "init", "--quiet", "--template=", "--initial-branch=main")
    releases: list[Release] = []
    for source in release_directories(app, examples):
        after = source / "after"
        if after.exists():
            _git(target, "checkout", "--quiet", "--detach", after.read_text(encoding="utf-8").strip())
        elif releases:
            _git(target, "checkout", "--quiet", "main")
        _lay_over(source, target)
        date = (FIRST_RELEASE + (int(source.name[1:]) - 1) * BETWEEN_RELEASES).isoformat()
        # --force: what the application's own .gitignore names is still part of the history if it is in files/.
        _git(target, "add", "--all", "--force")
        message = source / "message"
        _git(target, "commit", "--quiet", "--allow-empty", f"--file={message}", identity=(app, date))
        _git(target, "tag", source.name)
        sha = _git(target, "rev-parse", "HEAD")
        releases.append(Release(source.name, sha, message.read_text(encoding="utf-8").splitlines()[0], date))
    _git(target, "checkout", "--quiet", "main")
    return releases


def prepare(app: str, target: Path, examples: Path = EXAMPLES) -> list[Release]:
    """Make `target` hold the repository of `app`; one that already has exactly these releases is left as it is.

    Raises ExampleError when `app` is unknown or `target` holds anything else.
    """
    if app not in applications(examples):
        raise ExampleError(f"no example is called {app!r}: choose one of {', '.join(applications(examples))}")
    if target.exists() and not target.is_dir():
        raise ExampleError(f"{target} is a file: name a directory that is empty or does not exist")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".example-repo-", dir=target.parent) as scratch:
            fresh = Path(scratch) / "repository"
            fresh.mkdir()
            releases = build(app, fresh, examples)
            if not target.exists() or not any(target.iterdir()):
                # Renaming onto an empty directory replaces it at once: nobody sees half a repository.
                fresh.rename(target)
            elif _tags(target) != {release.name: release.sha for release in releases}:
                raise ExampleError(f"{target} holds something else: name another directory, or remove this one first")
    except OSError as error:
        raise ExampleError(f"cannot write {target}: {error.strerror}; name a directory that you may write to") from None
    return releases


def _lay_over(source: Path, target: Path) -> None:
    """Change the tree in `target` into that of the release in `source`."""
    deleted = source / "deleted"
    for name in deleted.read_text(encoding="utf-8").split() if deleted.exists() else []:
        (target / name).unlink()
    shutil.copytree(source / "files", target, dirs_exist_ok=True, ignore=NOT_SOURCE, copy_function=_copy)


def _copy(source: str, target: str) -> str:
    """Copy a file; its mode depends on its content only, never on the checkout or the umask."""
    content = Path(source).read_bytes()
    Path(target).write_bytes(content)
    Path(target).chmod(0o755 if content.startswith(b"#!") else 0o644)
    return target


def _tags(repository: Path) -> dict[str, str]:
    """Return tag → commit of a repository; empty if the directory is not the top of one."""
    if not (repository / ".git").exists():
        return {}
    lines = _git(repository, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _git(repository: Path, *arguments: str, identity: tuple[str, str] | None = None) -> str:
    """Run git on `repository`, without the settings of this machine and of a git that may have called us."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_DEFAULT_HASH": "sha1",
        "GIT_CEILING_DIRECTORIES": str(repository.parent),
    }
    if identity:
        app, date = identity
        for role in ("AUTHOR", "COMMITTER"):
            environment |= {
                f"GIT_{role}_NAME": f"{app.capitalize()} developers",
                f"GIT_{role}_EMAIL": f"{app}@example.org",
                f"GIT_{role}_DATE": date,
            }
    try:
        done = subprocess.run(
            ["git", *FIXED, *arguments],
            cwd=repository,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except FileNotFoundError:
        raise ExampleError("git is not installed: install it (on Debian: apt-get install git)") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ExampleError(f"git {arguments[0]} failed: {reason}") from None
    return done.stdout.strip()


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/example-repo",
        description="Make the git repository of an example application; its releases are tags (r1, r2, …).",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to make it: empty, or not there yet")
    parser.add_argument("--app", default="orders", help="orders (default) or notes")
    parser.add_argument("--format", choices=["text", "json"], default="text")
    options = parser.parse_args(arguments)
    target = options.directory.absolute()
    try:
        releases = prepare(options.app, target)
    except ExampleError as error:
        print(f"example-repo: {error}", file=sys.stderr)
        return 2
    if options.format == "json":
        print(json.dumps({"app": options.app, "path": str(target), "releases": [asdict(one) for one in releases]}))
    else:
        print("\n".join(f"{release.name} {release.sha}" for release in releases))
    return 0
