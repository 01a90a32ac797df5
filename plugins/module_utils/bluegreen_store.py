"""Where artifacts lie: a directory, a web server with an index.json, or a release of GitHub.

A store is asked for its names, for manifests and signatures, and for an image. Thin readers over what is decided in
bluegreen_artifacts.py; what comes over https is bounded in size and time, and nothing half-fetched stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from bluegreen import fetch, signature  # noqa: E402
from bluegreen.errors import BluegreenError  # noqa: E402
from plugins.module_utils import bluegreen_artifacts as artifacts  # noqa: E402
from plugins.module_utils.bluegreen_artifacts import ArtifactError  # noqa: E402

INDEX = "index.json"
SIGNATURE = ".json.sig"
MOST_LIST = 16 << 20  # bytes of an index or of one page of assets
MOST_MANIFEST = 64 << 20  # bytes; one of 7,000 files has 1 MB
MOST_SIGNATURE = 64 << 10  # bytes
MOST_RIVALS = 20  # artifacts of one commit whose manifests are compared
PER_PAGE, MOST_PAGES = 100, 20  # a release of GitHub has 1,000 assets at most
KEPT = 5  # artifacts of an https store that the controller keeps, those used last
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
GITHUB_PAGE = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)/releases/tag/([^/?#]+)/?")
GITHUB_API = re.compile(r"https://[^/?#]+(/[^?#]*)?/repos/[\w.-]+/[\w.-]+/releases/tags/[^/?#]+")
BINARY = "application/octet-stream"


class Link(NamedTuple):
    """Where one file of an https store lies."""

    url: str
    accept: str = ""


class Store(Protocol):
    """What a deploy asks of a store. Each method raises ArtifactError."""

    def names(self) -> list[str]:
        """The names of its files."""

    def manifest(self, stem: str) -> dict[str, Any]:
        """A manifest."""

    def signature(self, stem: str) -> str:
        """A manifest's signature; empty if it has none."""

    def image(self, manifest: Mapping[str, Any]) -> Path:
        """An image's path on this machine, its bytes those of the manifest."""

    def files(self, manifest: dict[str, Any], armoured: str) -> dict[str, Path]:
        """Where a manifest lies on this machine, and its signature if it has one."""


def choose(store: Store, app: str, sha: object = None, artifact: str | None = None) -> tuple[str, dict[str, Any]]:
    """The stem of the artifact that is meant and its manifest, which fits it. Raises ArtifactError."""
    if not artifact:
        sha = artifacts.check_sha(sha)
    stems = artifacts.manifests(store.names())
    entries: list[Mapping[str, Any] | str] = [stem.name for stem in stems]
    if not artifact:
        entries += [built(store, stem) for stem in artifacts.rivals(stems, app, str(sha), MOST_RIVALS)]
    chosen = artifacts.choose(entries, app, sha, artifact)
    manifest = store.manifest(chosen)
    stem_chosen = artifacts.parse_stem(chosen)
    artifacts.verify_manifest(manifest, app, sha or (stem_chosen.sha if stem_chosen else ""))
    if manifest["artifact"] != chosen:
        raise ArtifactError(f"the manifest {chosen}.json describes {manifest['artifact']}: build it again")
    return chosen, manifest


def built(store: Store, stem: artifacts.Stem) -> dict[str, Any]:
    """When an artifact was built: all that is kept of a rival's manifest, which may be large. Raises ArtifactError."""
    return {"artifact": stem.name, "built_at": store.manifest(stem.name).get("built_at")}


class Directory:
    """A store that is a directory of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self.path.iterdir())
        except OSError as error:
            raise ArtifactError(f"the artifact store {self.path} cannot be read: {error.strerror}") from error

    def manifest(self, stem: str) -> dict[str, Any]:
        path = self.path / f"{stem}.json"
        try:
            return parsed(path.read_bytes(), str(path))
        except OSError as error:
            why = type(error).__name__
            raise ArtifactError(f"the manifest {path} cannot be read ({why}): build it again") from error

    def signature(self, stem: str) -> str:
        path = self.path / f"{stem}{SIGNATURE}"
        try:
            with path.open("rb") as stream:
                return stream.read(MOST_SIGNATURE + 1).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ArtifactError(f"the signature {path} cannot be read: {error.strerror}") from error

    def image(self, manifest: Mapping[str, Any]) -> Path:
        path = self.path / str(manifest["image"]["file"])
        verify_image(path, manifest["image"])
        return path

    def files(self, manifest: dict[str, Any], armoured: str) -> dict[str, Path]:
        stem = manifest["artifact"]
        found = {"manifest": self.path / f"{stem}.json"}
        return found | ({"signature": self.path / f"{stem}{SIGNATURE}"} if armoured else {})


class Web:
    """A store behind https. `cache`: a directory for what was fetched; `seconds`: for an image, and for all else."""

    def __init__(self, url: str, token: str, seconds: float, cache: Path) -> None:
        self.url, self.token, self.seconds, self.cache = url, token, seconds, cache
        self.left = seconds  # for lists, manifests and signatures together
        self._links: dict[str, Link] | None = None

    def names(self) -> list[str]:
        return sorted(self.links())

    def manifest(self, stem: str) -> dict[str, Any]:
        return parsed(self.get(self.link(f"{stem}.json"), MOST_MANIFEST), f"{stem}.json")

    def signature(self, stem: str) -> str:
        name = f"{stem}{SIGNATURE}"
        return self.get(self.link(name), MOST_SIGNATURE).decode("utf-8", "replace") if name in self.links() else ""

    def image(self, manifest: Mapping[str, Any]) -> Path:
        wanted = manifest["image"]
        path = self.cache / str(wanted["file"])
        with contextlib.suppress(ArtifactError):
            verify_image(path, wanted)
            return path
        link = self.link(path.name)
        with fresh(path, int(wanted["bytes"])) as (aside, write):
            self.fetch(link, write, int(wanted["bytes"]), self.seconds)
            verify_image(aside, wanted, path.name)
        return path

    def files(self, manifest: dict[str, Any], armoured: str) -> dict[str, Path]:
        texts = {"manifest": (".json", signature.text(manifest))}
        texts |= {"signature": (SIGNATURE, armoured.encode())} if armoured else {}
        found = {}
        for name, (ending, content) in texts.items():
            found[name] = self.cache / f"{manifest['artifact']}{ending}"
            with fresh(found[name], len(content)) as (_, write):
                write(content)
        forget(self.cache)
        return found

    def links(self) -> dict[str, Link]:
        """Every file of the store, by its name."""
        if self._links is None:
            api = github_api(self.url)
            self._links = self._assets(api) if api else self._indexed()
        return self._links

    def link(self, name: str) -> Link:
        """Where a file lies."""
        if name not in self.links():
            raise ArtifactError(f"{fetch.shown(self.url)} holds no {name}: put it there again, or build it again")
        return self.links()[name]

    def _indexed(self) -> dict[str, Link]:
        base = self.url.rstrip("/") + "/"
        try:
            index = parsed(self.get(Link(base + INDEX), MOST_LIST), INDEX)
        except ArtifactError as problem:
            raise ArtifactError(
                f"{problem}; an https store has an {INDEX}, which scripts/build-artifact writes"
            ) from None
        return indexed(index, base)

    def _assets(self, api: str) -> dict[str, Link]:
        about = "application/vnd.github+json"
        release = parsed(self.get(Link(api, about), MOST_LIST), "the release")
        where = release.get("assets_url")
        if not isinstance(where, str) or fetch.origin(where) != fetch.origin(api):
            raise ArtifactError(f"{fetch.shown(api)} is no release: it names no assets")
        found: dict[str, Link] = {}
        for page in range(1, MOST_PAGES + 1):
            answer = self.get(Link(f"{where}?per_page={PER_PAGE}&page={page}", about), MOST_LIST)
            rows = read_json(answer, "the list of assets")
            if not isinstance(rows, list):
                break
            found |= assets(rows)
            if len(rows) < PER_PAGE:
                break
        return found

    def get(self, link: Link, most: int) -> bytes:
        """The content of a small file. All of them share one time."""
        parts: list[bytes] = []
        until = time.monotonic() + self.left
        try:
            self.fetch(link, parts.append, most, self.left)
        except ArtifactError:
            if time.monotonic() < until:
                raise
        self.left = until - time.monotonic()
        if self.left <= 0:
            where = fetch.shown(self.url)
            raise ArtifactError(f"{where} has not told what it holds within {self.seconds:g} s (artifact_timeout)")
        return b"".join(parts)

    def fetch(self, link: Link, write: Callable[[bytes], Any], most: int, seconds: float) -> None:
        """Give a file's bytes to `write`; the token goes along to the store alone."""
        token = self.token if self.own(link) else ""
        try:
            fetch.fetch(link.url, write, token=token, accept=link.accept, most=most, seconds=seconds)
        except BluegreenError as problem:
            raise ArtifactError(": ".join(part for part in (problem.what, problem.why) if part)) from None

    def own(self, link: Link) -> bool:
        """Whether a file lies at the store itself, which may see the token."""
        return fetch.origin(link.url) == fetch.origin(self.api)

    @property
    def api(self) -> str:
        """The address that is spoken to."""
        return github_api(self.url) or self.url

    def source(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Where a host fetches the image for itself; the token is added when it is sent."""
        link = self.link(str(manifest["image"]["file"]))
        if not self.own(link):
            why = "hosts give artifact_token to the store alone: artifact_fetch: controller"
            raise ArtifactError(
                f"{fetch.shown(self.url)} names an image at another place, {fetch.shown(link.url)}; {why}"
            )
        return {"url": link.url, "accept": link.accept, "seconds": self.seconds}


# decided without the network


def github_api(url: str) -> str:
    """The address of a release in GitHub's API: of its page, or the address itself; empty for any other store."""
    if page := GITHUB_PAGE.fullmatch(url):
        owner, repository, tag = page.groups()
        return f"https://api.github.com/repos/{owner}/{repository}/releases/tags/{tag}"
    return url if GITHUB_API.fullmatch(url) else ""


def indexed(index: Mapping[str, Any], base: str) -> dict[str, Link]:
    """The files that an index.json names. Raises ArtifactError."""
    names = index.get("files")
    if index.get("format") != 1 or not isinstance(names, list):
        raise ArtifactError(
            f"the {INDEX} of {fetch.shown(base)} is not of format 1: let scripts/build-artifact write it"
        )
    return {name: Link(base + quote(name)) for name in names if isinstance(name, str) and NAME.fullmatch(name)}


def assets(rows: list[Any]) -> dict[str, Link]:
    """The files among a release's assets that were uploaded to their end."""
    return {
        row["name"]: Link(row["url"], BINARY)
        for row in rows
        if isinstance(row, dict)
        and isinstance(row.get("name"), str)
        and isinstance(row.get("url"), str)
        and NAME.fullmatch(row["name"])
        and row.get("state") == "uploaded"
    }


def read_json(content: bytes, what: str) -> Any:
    """What JSON says. Raises ArtifactError that names `what`."""
    try:
        return json.loads(content)
    except ValueError as error:
        raise ArtifactError(f"{what} cannot be read ({type(error).__name__}): build the artifact again") from error


def parsed(content: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises ArtifactError."""
    found = read_json(content, what)
    if not isinstance(found, dict):
        raise ArtifactError(f"{what} is not a JSON object: build the artifact again")
    return found


# files


def verify_image(path: Path, wanted: Mapping[str, Any], name: str = "") -> None:
    """Compare an image with its manifest: size first, then every byte. Raises ArtifactError."""
    name = name or path.name
    again = "copy it to the store again, or build it again: scripts/build-artifact"
    try:
        size = path.stat().st_size
        if size != wanted["bytes"]:
            why = f"it has {size} bytes instead of {wanted['bytes']}"
            raise ArtifactError(f"the image {name} is damaged: {why}; {again}")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as problem:
        raise ArtifactError(f"the image {name} cannot be read: {problem.strerror}; {again}") from None
    if digest != wanted["sha256"]:
        raise ArtifactError(f"the image {name} is damaged: its sha256 is not the one in its manifest; {again}")


@contextlib.contextmanager
def fresh(path: Path, size: int) -> Iterator[tuple[Path, Callable[[bytes], Any]]]:
    """A file that has its name when the block ends well, and is gone otherwise. Raises ArtifactError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(path.parent)
        if shutil.disk_usage(path.parent).free < size + (64 << 20):
            raise ArtifactError(f"the image does not fit on the disk of {path.parent}: {size >> 20} MB are needed")
        handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    except OSError as problem:
        raise ArtifactError(f"{path.parent} cannot be written to: {problem.strerror}") from None
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb", buffering=0) as stream:
            yield aside, stream.write
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a run left that was killed while it fetched, a day ago or longer."""
    for path in folder.glob(".tmp-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - 86400:
                path.unlink()


def forget(folder: Path) -> None:
    """Keep the artifacts of a cache that were used last."""
    manifests = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
    for manifest in manifests[:-KEPT]:
        for path in folder.glob(f"{manifest.stem}.*"):
            path.unlink(missing_ok=True)


def cache_directory(url: str) -> Path:
    """Where the controller keeps what it fetched: in this repository, or at home where that is another's."""
    base = Path(ROOT, ".cache")
    if not os.access(base if base.exists() else base.parent, os.W_OK):
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "bluegreen")
    return base / "fetched" / hashlib.sha256(url.encode()).hexdigest()[:16]


def open_store(place: str, token: str, seconds: float) -> Directory | Web:
    """The store that artifact_store names."""
    if artifacts.is_url(place):
        return Web(place, token, seconds, cache_directory(place))
    return Directory(Path(place or Path(ROOT) / "artifacts").expanduser())
