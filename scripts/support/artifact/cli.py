"""The command line of scripts/build-artifact."""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from bluegreen import signature
from support.artifact import build, commits, settings, signing, sources, store
from support.artifact.errors import BuildError, InputError
from support.common import CACHE, REPO, program

EPILOG = """\
Settings (app_*) are the inventory's: the first app server's variables with group_vars/all; or those of --settings
files, the later ones winning; --set comes last. The caller's environment does not reach build commands: what they
need goes into app_build_env, which is part of the recipe and readable in the artifact: no secrets there.

environment: BLUEGREEN_BUILD_IMAGE names an image of one's own to build in, BLUEGREEN_DEBIAN_MIRROR a mirror;
UV_INDEX_URL and the like, proxies and SSL_CERT_FILE are given to uv only.
"""


def parser() -> argparse.ArgumentParser:
    """The options; see --help."""
    parser = argparse.ArgumentParser(
        prog="build-artifact",
        description="Build one artifact (a file system image with its manifest and SBOM) of one commit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--inventory", "-i", type=Path, metavar="DIR", help="whose settings; default: Ansible's default"
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", action="append", default=[], help="settings in YAML")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting")
    parser.add_argument("--source", metavar="REPO", help="git repository, instead of app_source")
    parser.add_argument("--rev", default="HEAD", help="commit (6 to 40 hex), branch or tag; default: HEAD")
    parser.add_argument("--store", type=Path, metavar="DIR", help="instead of artifact_store (default: artifacts/)")
    parser.add_argument(
        "--sign", type=Path, metavar="KEY", help="sign the manifest: a private key, or the .pub file of an agent's key"
    )
    parser.add_argument("--force", action="store_true", help="build again what the store has")
    parser.add_argument(
        "--in", dest="where", choices=["auto", "direct", "container"], default="auto", help="where to build"
    )
    parser.add_argument("--format", choices=["text", "json"], default="text", help="of the last line on stdout")
    parser.add_argument("--verbose", "-v", action="store_true", help="show the output of every step")
    return parser


def main(arguments: list[str]) -> int:
    """Build what the arguments say; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    options = parser().parse_args(arguments)
    try:
        return run(options)
    except BuildError as error:
        for line in error.details:
            print(f"    | {line}", file=sys.stderr)
        raise


def run(options: argparse.Namespace) -> int:
    """Settings -> commit -> the store's artifact or a new one."""
    steps = build.Steps()
    values = read_values(options)
    named_by = str(options.settings[-1]) if options.settings else settings.APP_FILE
    checked = settings.from_mapping(values, named_by)
    trusted = None
    if options.sign:
        with steps("try the key") as found:
            public = signing.check_key(options.sign)
            found.append(signature.fingerprint(base64.b64decode(public)))
        trusted = signing.trusting(public, *sources.signers(values, REPO))
    base = Path.cwd() if options.source else REPO
    program("git")
    with steps("find the commit") as found:
        repository = commits.open_repository(checked.source, base, user_cache("git"))
        commit = commits.resolve(repository, options.rev)
        found.append(f"{commit.sha[:12]}, {commit.committed_at}")
        changed = commits.uncommitted(repository) if options.rev == "HEAD" else 0
        if changed:
            found.append(f"{changed} uncommitted files are not part of it")
    folder = options.store or sources.store_directory(values, REPO)
    # C extensions built on one system must not be taken from the cache on another.
    cache = user_cache("uv", settings.DEBIAN_OF_PYTHON[checked.python])
    request = build.Request(checked, commit, folder.absolute(), cache, options.where, options.verbose, options.sign)
    waiting = f"  {request.stem} is being built by another process; waiting …"
    with store.building(request.store, request.stem, waiting):
        manifest = None if options.force else store.find(request.store, request.stem, trusted)
        built = manifest is None
        if manifest is None:
            manifest = build.build(request, steps)
        else:
            print(f"  already built at {manifest['built_at']}", file=sys.stderr)
    report(manifest, request.store, built=built, seconds=steps.seconds, form=options.format)
    return 0


def read_values(options: argparse.Namespace) -> dict[str, Any]:
    """Merged variables: files or inventory, then --set and --source."""
    if options.settings:
        values = sources.from_files(options.settings)
        if options.inventory:
            values = sources.from_inventory(REPO, options.inventory) | values
    elif options.inventory and not options.inventory.exists():
        raise InputError(f"inventory {options.inventory} does not exist")
    else:
        values = sources.from_inventory(REPO, options.inventory)
    values |= sources.from_assignments(options.set)
    if options.source:
        values["app_source"] = options.source
    return values


def report(manifest: dict[str, Any], folder: Path, *, built: bool, seconds: float, form: str) -> None:
    """The last line on stdout: the artifact's name, or JSON."""
    stem = manifest["artifact"]
    if form == "text":
        size, signed = manifest["image"]["bytes"] / 1e6, "" if store.is_signed(folder, stem) else ", not signed"
        print(f"  {folder / stem}.squashfs, {size:.1f} MB, {seconds:.1f} s{signed}", file=sys.stderr)
        print(stem)
        return
    keys = ("artifact", "app", "sha", "ref", "python", "arch", "os", "built_at", "recipe_digest", "image")
    line = {key: manifest[key] for key in keys}
    line |= {"signed": store.is_signed(folder, stem), "store": str(folder), "built": built}
    print(json.dumps(line | {"seconds": round(seconds, 2)}))


def user_cache(*parts: str) -> Path:
    """A cache directory that is ours to write: the repository's, or the user's where that is another's."""
    own = CACHE if CACHE.exists() else REPO
    if os.access(own, os.W_OK):
        base = CACHE
        if all(not path.exists() or os.access(path, os.W_OK) for path in (CACHE / parts[0], CACHE.joinpath(*parts))):
            return base.joinpath(*parts)
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return Path(home, "bluegreen", *parts)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every `finally`, nothing of the build may stay; a second signal must not cut that short."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    print("\nbuild-artifact: interrupted, nothing was put into the store", file=sys.stderr)
    raise SystemExit(128 + number)
