"""Choose the artifact a deploy means, from what the store holds.

Pure functions over names and manifests; bluegreen_store.py reads them. Standard library only, so that it can be
tested and used outside Ansible.

An artifact's stem is ``<app>-<40 hex sha>-<8 hex recipe>``; in the store lie ``<stem>.squashfs``,
``<stem>.json`` (the manifest, written last), ``<stem>.json.sig`` (its signature) and ``<stem>.cdx.json`` (the SBOM).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from plugins.module_utils.bluegreen_inputs import show

SHA = re.compile(r"[0-9a-f]{6,40}")
STEM = re.compile(r"(?P<app>[a-z][a-z0-9-]{0,30})-(?P<sha>[0-9a-f]{40})-(?P<recipe>[0-9a-f]{8})")
ENDINGS = (".cdx.json", ".json.sig", ".squashfs", ".json")
FORMAT = 1


class ArtifactError(ValueError):
    """No artifact can be chosen; the text is one line for the operator."""


class Stem(NamedTuple):
    """The parts of an artifact's name."""

    app: str
    sha: str
    recipe: str

    @property
    def name(self) -> str:
        return f"{self.app}-{self.sha}-{self.recipe}"


def parse_stem(name: str) -> Stem | None:
    """The parts of a stem or of a file name in the store; None for anything else."""
    for ending in ENDINGS:
        if name.endswith(ending):
            name = name[: -len(ending)]
            break
    found = STEM.fullmatch(name)
    return Stem(found["app"], found["sha"], found["recipe"]) if found else None


def check_sha(sha: object) -> str:
    """The sha in lower case, or an error that says what is wrong with it."""
    if sha is None or sha == "":
        raise ArtifactError("sha is missing: name a commit by 6 to 40 hex characters, -e sha=<commit>")
    if not isinstance(sha, str):
        raise ArtifactError(f"sha must be text, not {show(sha)}: quote it, 6 to 40 hex characters")
    lower = sha.lower()
    # fullmatch: "$" would let a trailing newline through; ASCII only, as lower() maps other letters onto a-f never.
    if not SHA.fullmatch(lower):
        raise ArtifactError(f"sha {show(sha)} is not a commit: {_why_not_sha(lower)}; give 6 to 40 hex characters")
    return lower


def choose(
    entries: Iterable[Mapping[str, Any] | str], app: str, sha: object = None, artifact: str | None = None
) -> str:
    """The stem of the one artifact that is meant.

    `entries` are manifests or names (stems or file names) of what the store holds; several entries of one
    artifact count once. Of several recipes of one commit the newest by ``built_at`` is taken.
    `artifact` names one exactly and may stand without a sha; if a sha is given too, both must agree.
    Raises ArtifactError.
    """
    held = _held(entries)
    if artifact:
        return _named(held, app, sha, artifact)
    wanted = check_sha(sha)
    mine = sorted(stem for stem in held if stem.app == app)
    found = [stem for stem in mine if stem.sha.startswith(wanted)]
    if not found:
        raise ArtifactError(f"no artifact of {app} for {wanted} in the store: {_hint(mine, wanted, held)}")
    shas = sorted({stem.sha for stem in found})
    if len(shas) > 1:
        raise ArtifactError(f"{wanted} is ambiguous: it begins {_and(shas)}; give more characters")
    return _newest(found, held).name


def verify_manifest(manifest: Mapping[str, Any], app: str, sha: object) -> None:
    """Raise ArtifactError unless this manifest is well-formed and belongs to this application and commit."""
    if not isinstance(manifest, Mapping):
        raise ArtifactError("the manifest is not a JSON object: build the artifact again")
    if manifest.get("format") != FORMAT or isinstance(manifest.get("format"), bool):
        raise ArtifactError(
            f"the manifest has format {show(manifest.get('format'))}, this toolkit reads {FORMAT}: build it again"
        )
    if manifest.get("app") != app:
        raise ArtifactError(f"the artifact belongs to {show(manifest.get('app'))}, not to {app}")
    wanted = check_sha(sha)
    held = manifest.get("sha")
    if not isinstance(held, str) or not re.fullmatch(r"[0-9a-f]{40}", held) or not held.startswith(wanted):
        raise ArtifactError(f"the artifact was built from {show(held)}, not from {wanted}")
    name = manifest.get("artifact")
    stem = parse_stem(name) if isinstance(name, str) else None
    if stem is None or stem.name != name or (stem.app, stem.sha) != (app, held):
        raise ArtifactError(f"the manifest names the artifact {show(name)}, which is not of {app} at {held[:12]}")
    if not str(manifest.get("recipe_digest", "")).startswith(stem.recipe):
        raise ArtifactError(f"the manifest of {name} names another recipe: build it again")
    _verify_image(manifest.get("image"), stem.name)


def manifests(names: Iterable[str]) -> list[Stem]:
    """The artifacts among the files of a store. Only the manifest makes one: it is written last."""
    return [stem for name in names if _is_manifest(name) and (stem := parse_stem(name))]


def rivals(stems: Iterable[Stem], app: str, wanted: str, most: int) -> list[Stem]:
    """The artifacts among which only the time they were built at decides: of one commit, of several recipes.

    wanted: the beginning of a sha. Raises ArtifactError if there are more than `most`.
    """
    found = sorted({stem for stem in stems if stem.app == app and stem.sha.startswith(wanted)})
    if len(found) < 2 or len({stem.sha for stem in found}) > 1:  # none to compare, or not known which commit is meant
        return []
    if len(found) > most:
        what = f"the store holds {len(found)} artifacts of {app} for {wanted}, and {most} are compared at most"
        raise ArtifactError(f"{what}: name one, -e artifact={found[0].name}")
    return found


def is_url(store: str) -> bool:
    """Whether a store is an address, and no directory."""
    return "://" in store


def url_problem(url: str) -> str:
    """What is wrong with the address of a store, without naming any part of it; empty if nothing is."""
    parts = urlsplit(url) if re.fullmatch(r"[!-~]+", url) else None
    if parts is None or parts.scheme != "https" or not re.fullmatch(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", parts.netloc):
        return "must be a directory, or an https address such as https://artifacts.example.org/orders"
    if parts.query or parts.fragment:
        return "must have no query and no fragment (artifact_token is for the secret)"
    return ""


def _held(entries: Iterable[Mapping[str, Any] | str]) -> dict[Stem, str]:
    """Every artifact with the time it was built at ("" when only its name is known)."""
    held: dict[Stem, str] = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else entry.get("artifact")
        stem = parse_stem(name) if isinstance(name, str) else None
        if stem is not None:
            built = "" if isinstance(entry, str) else str(entry.get("built_at") or "")
            held[stem] = max(held.get(stem, ""), built)
    return held


def _named(held: Mapping[Stem, str], app: str, sha: object, artifact: object) -> str:
    stem = parse_stem(artifact) if isinstance(artifact, str) else None
    if stem is None:
        raise ArtifactError(f"artifact {show(artifact)} is not a name of the form {app}-<40 hex sha>-<8 hex recipe>")
    if stem.app != app:
        raise ArtifactError(f"artifact {stem.name} belongs to {stem.app}, not to {app}")
    if sha not in (None, "") and not stem.sha.startswith(check_sha(sha)):
        raise ArtifactError(f"artifact {stem.name} is not of the commit {check_sha(sha)}: leave one of them out")
    if stem not in held:
        mine = sorted(other for other in held if other.app == app)
        raise ArtifactError(f"artifact {stem.name} is not in the store: {_hint(mine, stem.sha, held)}")
    return stem.name


def _newest(found: list[Stem], held: Mapping[Stem, str]) -> Stem:
    if len(found) > 1 and any(not held[stem] for stem in found):
        names = _and([stem.name for stem in found])
        raise ArtifactError(f"several recipes of one commit, and not known which is newest: {names}; -e artifact=<one>")
    return max(found, key=lambda stem: (held[stem], stem.recipe))


def _hint(mine: list[Stem], wanted: str, held: Mapping[Stem, str]) -> str:
    """What to say when nothing matches: the closest commit the store has, or that it has none."""
    build = "build it with scripts/build-artifact --rev <commit>"
    if not mine:
        others = sorted({stem.app for stem in held})
        return f"it holds only {_and(others)}; {build}" if others else f"it is empty; {build}"
    closest = max(mine, key=lambda stem: (_common(stem.sha, wanted), held[stem], stem.sha))
    if _common(closest.sha, wanted) >= 4:
        return f"the closest is {closest.sha[:12]}; {build}"
    newest = sorted(mine, key=lambda stem: (held[stem], stem.sha), reverse=True)
    shas = list(dict.fromkeys(stem.sha[:12] for stem in newest))
    more = f" and {len(shas) - 3} more" if len(shas) > 3 else ""
    return f"it holds {', '.join(shas[:3])}{more}; {build}"


def _common(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _why_not_sha(sha: str) -> str:
    if re.search(r"\s", sha):
        return "it contains white space"
    if not re.fullmatch(r"[0-9a-f]*", sha):
        return "it is not hexadecimal"
    return f"it has {len(sha)} characters"


def _verify_image(image: object, stem: str) -> None:
    if not isinstance(image, Mapping) or image.get("file") != f"{stem}.squashfs":
        raise ArtifactError(f"the manifest of {stem} does not name its image: build it again")
    if not re.fullmatch(r"[0-9a-f]{64}", str(image.get("sha256", ""))):
        raise ArtifactError(f"the manifest of {stem} has no digest of its image: build it again")
    size = image.get("bytes")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ArtifactError(f"the manifest of {stem} does not say how large its image is: build it again")


def _is_manifest(name: str) -> bool:
    return name.endswith(".json") and not name.endswith(".cdx.json")


def _and(names: list[str]) -> str:
    return " and ".join(names)
