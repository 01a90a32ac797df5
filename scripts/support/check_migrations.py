"""The gate for pull requests: the migrations between two commits, judged as a deploy would judge them.

The base stands for the live release, the head for the new one. The work is done by bluegreen/schema, in the Python
environment of the application; this finds the project, makes the two trees and shows the answer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from support.common import REPO, Failure

SAFE, REFUSED, NEEDS_APPROVAL = 0, 1, 2
BAD_INPUT, NOT_JUDGED = 64, 70
STATUS = {"safe": SAFE, "refused": REFUSED, "needs_approval": NEEDS_APPROVAL}
MANAGE = re.compile(r"""DJANGO_SETTINGS_MODULE['"]\s*,\s*['"]([\w.]+)['"]""")


class Parser(argparse.ArgumentParser):
    """Wrong words are not 2: that means approval here."""

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message}; see --help", BAD_INPUT)


def parser() -> Parser:
    """The words of the command line."""
    top = Parser(
        prog="scripts/check-migrations",
        description="Judge the migrations that a commit adds: would the release that is live survive them?",
        epilog="Exit status: 0 safe, 1 refused, 2 approval needed; 64 wrong input, 70 it could not be judged.",
    )
    top.add_argument(
        "--repo", type=Path, default=Path.cwd(), metavar="PATH", help="the application's repository (here)"
    )
    top.add_argument("--base", required=True, metavar="REV", help="what is live: a commit, tag or branch")
    top.add_argument("--head", default="HEAD", metavar="REV", help="what is to be deployed (HEAD)")
    top.add_argument(
        "--database", action="append", default=[], metavar="[ALIAS=]URL",
        help="a database with the live schema, for real sizes; @FILE reads the URL from a file. "
        "Without it: a throwaway server with the migrations of the base",
    )  # fmt: skip
    top.add_argument("--format", choices=("text", "json", "github"), default="text", help="of the answer (text)")
    top.add_argument("--project", metavar="DIR", help="where manage.py is, in the repository (found)")
    top.add_argument("--settings", metavar="MODULE", help="DJANGO_SETTINGS_MODULE (the environment's, or manage.py's)")
    top.add_argument("--python", metavar="FILE", help="the application's Python (`python` of PATH)")
    top.add_argument("--base-python", metavar="FILE", help="the base's, if it needs another one")
    top.add_argument(
        "--approve-later", action="store_true", help="0 where approval is needed, too: the deploy asks for it by name"
    )
    top.add_argument("--pg-bin", default="", metavar="DIR", help="PostgreSQL's server programs (found)")
    top.add_argument("--timeout", type=float, default=600.0, metavar="SECONDS", help="for each step (600)")
    return top


def parse_url(url: str) -> dict[str, Any]:
    """postgresql://user:password@host:port/name?sslmode=… as an entry of Django's DATABASES.

    Raises Failure, without the URL: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Failure("--database: the URL cannot be read; it is postgresql://user@host:5432/name", BAD_INPUT) from None
    options = dict(parse_qsl(parts.query))
    name = unquote(parts.path.lstrip("/"))
    if parts.scheme not in ("postgres", "postgresql") or not name or "/" in name:
        raise Failure("--database: it must be postgresql://user@host:5432/name", BAD_INPUT)
    entry: dict[str, Any] = {
        "HOST": options.pop("host", None) or unquote(parts.hostname or ""),
        "PORT": options.pop("port", None) or str(port or ""),
        "USER": unquote(parts.username or options.pop("user", "")),
        "PASSWORD": unquote(parts.password or ""),
        "NAME": name,
    }
    return {**entry, "OPTIONS": options} if options else entry


def databases(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What --database said: alias → entry of DATABASES."""
    found = {}
    for word in given:
        alias, url = "default", word
        if match := re.match(r"(\w+)=(.*)", word, re.DOTALL):
            alias, url = match.groups()
        if url.startswith("@"):
            try:
                url = Path(url[1:]).read_text().strip()
            except OSError as problem:
                raise Failure(f"--database {url}: {problem.strerror}", BAD_INPUT) from None
        found[alias] = parse_url(url)
    return found


def git(repo: Path, *words: str) -> str:
    """Runs git. Raises Failure with its last line."""
    done = subprocess.run(["git", "-C", str(repo), *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Failure(f"git {words[0]}: {said[-1] if said else 'failed'}", NOT_JUDGED)
    return done.stdout.strip()


def commit(repo: Path, name: str, option: str) -> str:
    """The full id of a commit. Raises Failure if there is none of that name."""
    try:
        return git(repo, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    except Failure:
        raise Failure(f"{option} {name}: {repo} has no such commit (fetched with enough history?)", BAD_INPUT) from None


@contextlib.contextmanager
def tree(repo: Path, sha: str, place: Path) -> Iterator[Path]:
    """The files of a commit, removed again."""
    git(repo, "worktree", "add", "--detach", "--force", str(place), sha)
    try:
        yield place
    finally:
        subprocess.run(
            ["git", "-C", str(repo), "worktree", "remove", "--force", str(place)], capture_output=True, check=False
        )
        subprocess.run(["git", "-C", str(repo), "worktree", "prune"], capture_output=True, check=False)


def project_of(root: Path, given: str | None) -> Path:
    """The directory of manage.py. Raises Failure if it is not clear which."""
    if given is not None:
        place = (root / given).resolve()
        if not place.is_dir() or root.resolve() not in (place, *place.parents):
            raise Failure(f"--project {given}: there is no such directory in {root.name}", BAD_INPUT)
        return place
    tracked = git(root, "ls-files", "--", "manage.py", "*/manage.py").splitlines()
    if "manage.py" in tracked:
        return root
    if len(tracked) != 1:
        what = "there is no manage.py" if not tracked else f"there are several: {', '.join(sorted(tracked)[:3])}"
        raise Failure(f"{what}; say where the project is with --project", BAD_INPUT)
    return root / Path(tracked[0]).parent


def settings_of(project: Path, given: str | None) -> str:
    """The settings module: as given, from the environment, or what manage.py sets."""
    found = given or os.environ.get("DJANGO_SETTINGS_MODULE")
    manage = project / "manage.py"
    if not found and manage.is_file() and (match := MANAGE.search(manage.read_text(errors="replace"))):
        found = match[1]
    if not found:
        raise Failure("which settings? Give --settings, or set DJANGO_SETTINGS_MODULE", BAD_INPUT)
    return found


def relative(result: dict[str, Any], root: Path) -> dict[str, Any]:
    """Files as the repository names them; those of other packages have none."""
    for item in result["migrations"]:
        path = Path(item["file"])
        inside = path.is_relative_to(root) or path.resolve().is_relative_to(root.resolve())
        item["file"] = str(path.resolve().relative_to(root.resolve())) if item["file"] and inside else ""
    return result


def workflow_commands(result: Mapping[str, Any]) -> list[str]:
    """GitHub's workflow commands: one for each reason that is not a note, at its file and line."""
    lines = []
    for one in result["problems"]:
        lines += _annotation(one, "", "migrations")
    for item in result["migrations"]:
        for one in item["reasons"]:
            lines += _annotation(one, item["file"], f"{item['app']}.{item['name']}")
    return lines


def _annotation(one: Mapping[str, Any], file: str, title: str) -> list[str]:
    level = {"refused": "error", "needs_approval": "warning"}.get(one["verdict"])
    if level is None:
        return []
    place = ".".join(part for part in (one["table"], one["column"]) if part)
    text = f"{place + ': ' if place else ''}{one['why']}" + (f"\n{one['instead']}" if one["instead"] else "")
    where = [f"file={escaped(file, ':,')}", f"line={one['line'] or 1}"] if file else []
    return [f"::{level} {','.join([*where, f'title={escaped(title, chr(58) + chr(44))}'])}::{escaped(text)}"]


def escaped(text: str, more: str = "") -> str:
    """As the workflow commands of GitHub want it."""
    for letter in f"%\r\n{more}":
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def program(given: str) -> str:
    """A file as it is meant where the words were typed: it runs in another directory. A bare name is found by PATH.

    Links stay: a virtualenv's Python is one, and what it leads to has not its packages.
    """
    return str(Path.cwd() / given) if os.sep in given else given


def check(given: argparse.Namespace) -> dict[str, Any]:
    """The answer of bluegreen.schema for head against base."""
    sys.path.append(str(REPO))
    from bluegreen.errors import BluegreenError
    from bluegreen.schema import shadow
    from bluegreen.schema.service import call

    repo = given.repo.resolve()
    if not repo.is_dir():
        raise Failure(f"--repo {given.repo}: there is no such directory", BAD_INPUT)
    repo = Path(git_root(repo))
    base, head = commit(repo, given.base, "--base"), commit(repo, given.head, "--head")
    live = databases(given.database)
    python = program(given.python or "python")
    base_python = program(given.base_python) if given.base_python else python
    pg_bin = str(Path(given.pg_bin).resolve()) if given.pg_bin else ""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bg-"))).resolve()
        old = stack.enter_context(tree(repo, base, place / "base"))
        new = stack.enter_context(tree(repo, head, place / "head"))
        project = {root: project_of(root, given.project) for root in (old, new)}
        words = {
            root: {
                "cwd": project[root],
                "env": {**os.environ, "DJANGO_SETTINGS_MODULE": settings_of(project[root], given.settings)},
                "python": base_python if root == old else python,
                "timeout": given.timeout,
            }
            for root in (old, new)
        }
        order: dict[str, Any] = {"databases": live, "pg_bin": pg_bin}
        try:
            if not live:
                binaries = shadow.find_binaries(None, pg_bin)
                if not binaries:
                    what = "there are no server programs of PostgreSQL here: install them, or give --database"
                    raise Failure(what, NOT_JUDGED)
                server = vars(stack.enter_context(shadow.cluster(binaries)))
                made = call("prepare", {"server": server}, **words[old])
                order = {"databases": made["databases"], "server": server, "sizes_unknown": True}
            order["live"] = call("footprint", order, **words[old])
            order["bundle"] = call("read", order, **words[new])
            return relative(call("judge", order, **words[new]), new)
        except BluegreenError as problem:
            raise Failure(str(problem), NOT_JUDGED) from None


def git_root(path: Path) -> str:
    """The top of the repository that holds the path. Raises Failure."""
    try:
        return git(path, "rev-parse", "--show-toplevel")
    except Failure:
        raise Failure(f"--repo {path}: this is not a git repository", BAD_INPUT) from None


def show(result: Mapping[str, Any], how: str) -> None:
    """Print the answer."""
    from bluegreen.schema.decide import summary

    if how == "json":
        print(json.dumps({key: value for key, value in result.items() if key != "footprint"}, indent=2))
        return
    if how == "github":
        print("\n".join(workflow_commands(result)))
    print("\n".join(summary(result)))


def status_of(verdict: str, approve_later: bool) -> int:
    """The exit status of a verdict."""
    return SAFE if approve_later and verdict == "needs_approval" else STATUS[verdict]


def main(arguments: list[str]) -> int:
    """scripts/check-migrations. Returns the exit status; raises Failure with 64 or 70."""
    given = parser().parse_args(arguments)
    try:
        result = check(given)
    except Failure as failure:
        raise Failure(str(failure), failure.code if failure.code == BAD_INPUT else NOT_JUDGED) from None
    except Exception as problem:
        traceback.print_exc()
        raise Failure(f"a bug: {problem}", NOT_JUDGED) from problem
    show(result, given.format)
    return status_of(str(result["verdict"]), given.approve_later)
