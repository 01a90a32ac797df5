"""The secrets of a release: how this host keeps them, how systemd hands them to it, and what revokes them.

They are files of root's in the release's directory `secrets`, in the best way that this host has (`way`):

sealed        encrypted with the host's key (systemd-creds); systemd opens them when a unit starts
credentials   as they are, handed on by systemd in the same manner
environment   as they are, in a file that systemd reads as environment: for hosts on which mounts that are made for a
              unit never arrive there (containers). Credentials would be missing without a word, so this is tried out.

The start scripts of a release look for each secret by its name before anything of the application runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bluegreen import files, units
from bluegreen.config import Paths
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed, refused

SEALED, CREDENTIALS, ENVIRONMENT = "sealed", "credentials", "environment"
ID = "secret"  # a credential's name begins with it: systemd adds _ and the file's name
DROPIN = "secrets.conf"
LAUNCHER = "with-secrets"  # no process can have this name
ARRIVED = "$CREDENTIALS_DIRECTORY/" + ID + "_"
LARGEST = 1_000_000  # bytes of all credentials of a unit: systemd's CREDENTIALS_TOTAL_SIZE_MAX is 1 MiB, names included
SHORTEST = 4  # characters: to hide shorter ones would make every text unreadable
HIDDEN = "********"


@dataclasses.dataclass(frozen=True, repr=False)
class Secret:
    """One secret of a release."""

    name: str
    value: str
    as_file: bool = False

    @property
    def file(self) -> str:
        """The name of its file; a dot is in no variable's name."""
        return self.name if self.as_file else f"{self.name}.sh"

    @property
    def content(self) -> str:
        """What its file holds: the value, or the line of a shell that sets it."""
        return self.value if self.as_file else f"export {self.name}={shlex.quote(self.value)}\n"

    def digest(self, key: bytes) -> str:
        """Tells whether two values are the same; keyed, so that nobody can try out values against it."""
        import hmac  # slow to import

        return hmac.new(key, f"secret {self.file} {self.content}".encode(), "sha256").hexdigest()[:32]


def parse(raw: Mapping[str, Any]) -> list[Secret]:
    """The secrets of a configuration, by name. Raises BluegreenError, which never shows a value."""
    found = []
    for name, given in sorted(raw.items()):
        value, as_file = given, False
        if isinstance(given, dict):
            if given.get("as") not in ("file", "env") or not isinstance(given.get("value"), str):
                raise bad_input(f"app_secrets.{name} must be a text, or {{value: text, as: file}}")
            value, as_file = given["value"], given["as"] == "file"
        if value == "":
            todo = "set it (docs/secrets.md), or leave the name out"
            raise bad_input(f"app_secrets.{name} is empty", "an empty secret is a missing one", todo)
        found.append(Secret(name, value, as_file))
    return found


def check_size(found: Sequence[Secret]) -> None:
    """Refuse more than systemd hands to a unit. Raises BluegreenError that names the largest secret."""
    if sum(len(secret.content.encode()) + len(secret.file) + len(ID) + 1 for secret in found) > LARGEST:
        largest = max(found, key=lambda secret: len(secret.value))
        why = f"together they may have {LARGEST} bytes; the largest is {largest.name}"
        raise bad_input("app_secrets are too large", why, "keep large files elsewhere")


def check_revoked(names: Any, found: Sequence[Secret]) -> None:
    """Refuse a revocation that has nothing to put in the old value's place."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise bad_input("app_secrets_revoked must be a list of names of app_secrets", "", "for example: [SECRET_KEY]")
    for name in names:
        if name not in {secret.name for secret in found}:
            why = "releases that start again would be given nothing in its place"
            raise bad_input(f"app_secrets_revoked: {name!r} is not in app_secrets", why, "give its new value there")


# how this host keeps them


def way(paths: Paths, user: str) -> str:
    """The best way on this host: each is tried with a secret of its own. Remembered until the next boot."""
    known = paths.run.parent / "secrets-way"
    try:
        if (said := known.read_text()) in (SEALED, CREDENTIALS):
            return said
    except FileNotFoundError:
        pass
    found = next((each for each in (SEALED, CREDENTIALS) if arrives(known.parent, user, each)), ENVIRONMENT)
    if found != ENVIRONMENT:
        files.write_file(known, found, 0o600)
    return found


def arrives(place: Path, user: str, how: str) -> bool:
    """Whether a secret kept in a way reaches a unit that is fenced in as a release's units are."""
    with tempfile.TemporaryDirectory(prefix=files.TEMPORARY_PREFIX, dir=place) as name:
        probe = Secret("PROBE", os.urandom(16).hex(), as_file=True)
        directory = Path(name) / "secrets"
        directory.mkdir(mode=0o700)
        try:
            store(directory, [probe], how)
            properties = (
                f"User={user}", "PrivateUsers=yes", "PrivateTmp=yes", "ProtectSystem=strict", "ProtectHome=yes",
                *unit_lines(Path(name), how),
            )  # fmt: skip
            options = [f"--property={line}" for line in properties]
            words = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", *options)
            done = units.run((*words, "--", "/bin/sh", "-c", f'cat "{ARRIVED}{probe.file}"'), timeout=30, check=False)
        except BluegreenError:
            return False
        return done.stdout == probe.value


def seal(file: str, content: str) -> str:
    """A secret encrypted with the host's key, under the name that systemd will ask for.

    Not with the TPM: a firmware's update must not keep a release from starting.
    """
    words = ("systemd-creds", "encrypt", "--with-key=host", f"--name={ID}_{file}", "-", "-")
    return units.run(words, stdin=content).stdout


def unseal(file: str, path: Path) -> str:
    """What `seal` was given."""
    import base64  # only errors and revocations need it

    # a pipe and no file: nothing of it ever lies on a disk; in base64, so that no line end is changed on the way
    words = ("systemd-creds", "decrypt", "--transcode=base64", f"--name={ID}_{file}", str(path), "-")
    return base64.b64decode(units.run(words).stdout).decode()


def store(directory: Path, found: Sequence[Secret], how: str) -> None:
    """Write secrets to a directory of root's. Each file is replaced as a whole."""
    for secret in found:
        content = seal(secret.file, secret.content) if how == SEALED else secret.content
        files.write_file(directory / secret.file, content, 0o600)
    if how == ENVIRONMENT:
        write_environment(directory)


def write_environment(directory: Path) -> None:
    """Make the file that systemd reads as environment from the others."""
    lines = [environment_line(*assigned(path.read_bytes().decode())) for path in sorted(directory.glob("*.sh"))]
    files.write_file(directory / "env", "".join(lines), 0o600)


def assigned(content: str) -> tuple[str, str]:
    """Name and value of what an `export` sets."""
    name, _, value = shlex.split(content)[1].partition("=")
    return name, value


def environment_line(name: str, value: str) -> str:
    """One assignment in the syntax of systemd's EnvironmentFile, whatever the value contains."""
    escaped = re.sub(r'([\\"$`])', r"\\\1", value)
    return f'{name}="{escaped}"\n'


def host_mark(paths: Paths, key: bytes) -> str:
    """Names the key with which this host seals; another one (a copied machine) cannot open what was sealed here."""
    import hmac  # slow to import

    try:
        text = paths.host_key.read_bytes()
    except FileNotFoundError:
        return ""
    return hmac.new(key, b"host key " + text, "sha256").hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a release's secrets.json says: how they are kept, and for each name whether it is a file, and its digest."""

    way: str
    host: str
    secrets: dict[str, dict[str, Any]]

    def files(self) -> dict[str, str]:
        """Name of a secret → name of its file."""
        return {name: Secret(name, "", bool(item["file"])).file for name, item in self.secrets.items()}


def kept(home: Path) -> Kept | None:
    """How a release keeps its secrets; None if it has none, or was made before this was written down."""
    found = files.read_json(home / "secrets.json")
    return Kept(str(found["way"]), str(found["host"]), dict(found["secrets"])) if found else None


def describe(found: Sequence[Secret], how: str, host: str, key: bytes) -> dict[str, Any]:
    """The content of secrets.json; no value is in it."""
    listed = {secret.name: {"file": secret.as_file, "digest": secret.digest(key)} for secret in found}
    return {"way": how, "host": host if how == SEALED else "", "secrets": listed}


def write(paths: Paths, aside: Path, found: Sequence[Secret], how: str, key: bytes) -> None:
    """Keep the secrets of a release that is being made in `aside`."""
    (aside / "secrets").mkdir(mode=0o700)
    if found:
        store(aside / "secrets", found, how)  # the first one that is sealed makes the host's key
        files.write_json(aside / "secrets.json", describe(found, how, host_mark(paths, key), key), 0o600)


def check_way(found: Sequence[Secret], how: str) -> None:
    """Refuse secrets as files where systemd cannot hand them on: the application must not read what is stored."""
    named = next((secret.name for secret in found if secret.as_file), None)
    if named and how == ENVIRONMENT:
        what = f"app_secrets.{named} cannot be given as a file on this host"
        why = "systemd's credentials do not reach its units"
        todo = "is it a container? mount --make-rshared / at its start; or give the value without as: file"
        raise BluegreenError(Code.REFUSED, what, why, todo)


def lost(paths: Paths, name: str, key: bytes) -> list[str]:
    """The secrets of a release that cannot be had any more: their file is gone, or sealed by another host's key."""
    home = paths.releases / name
    stored = kept(home)
    if stored is None:
        return []
    if stored.way == SEALED and stored.host != host_mark(paths, key):
        return sorted(stored.secrets)
    if stored.way == ENVIRONMENT and not (home / "secrets/env").is_file():
        return sorted(stored.secrets)
    return sorted(each for each, file in stored.files().items() if not (home / "secrets" / file).is_file())


def require(paths: Paths, name: str, key: bytes) -> None:
    """Refuse to start a release that lacks a secret. Raises BluegreenError that names it."""
    if gone := lost(paths, name, key):
        what = f"the secret{'s' if len(gone) > 1 else ''} {', '.join(gone)} of {name} cannot be had on this host"
        why = "removed, or sealed with the key of another machine"
        raise refused(what, why, "deploy its sha again: that restores them")


def restore(paths: Paths, name: str, found: Sequence[Secret], key: bytes) -> list[str]:
    """Keep anew what `lost` names, in the way of the release; its id says that these are its values."""
    home, gone = paths.releases / name, lost(paths, name, key)
    stored = kept(home)
    if gone and stored:
        (home / "secrets").mkdir(mode=0o700, exist_ok=True)
        again = [secret for secret in found if secret.name in gone and secret.name in stored.secrets]
        store(home / "secrets", again, stored.way)
        told = describe(again, stored.way, host_mark(paths, key), key)
        told["secrets"] = stored.secrets | told["secrets"]  # a revoked value stays replaced
        files.write_json(home / "secrets.json", told, 0o600)
    return gone


# how they reach the application


def unit_lines(home: Path, how: str) -> list[str]:
    """What a unit needs to be handed the secrets in `home`."""
    if how == ENVIRONMENT:
        return [f"EnvironmentFile={home}/secrets/env"]
    return [f"{'LoadCredentialEncrypted' if how == SEALED else 'LoadCredential'}={ID}:{home}/secrets"]


def wanted_dropins(paths: Paths, colour: str, name: str | None) -> dict[str, str]:
    """Drop-in file (path below the units' directory) → content, for a colour that holds release `name`."""
    stored = kept(paths.releases / name) if name else None
    if stored is None:
        return {}
    content = "\n".join(["# made by bluegreen", "[Service]", *unit_lines(paths.colour(colour), stored.way)]) + "\n"
    return {str(path.relative_to(paths.units)): content for path in _places(paths, colour)}


def dropins(paths: Paths, colour: str) -> list[Path]:
    """The drop-ins of a colour that are there."""
    return [path for path in _places(paths, colour) if path.exists()]


def _places(paths: Paths, colour: str) -> tuple[Path, Path]:
    web, background = units.web_unit(paths.app, colour), f"{paths.app}-{colour}@.service"
    return paths.units / f"{web}.d" / DROPIN, paths.units / f"{background}.d" / DROPIN


def prologue(found: Sequence[Secret], how: str) -> list[str]:
    """The lines of a start script that fail, naming it, where a secret did not arrive, and set what did."""
    lines = []
    for secret in found:
        there = f'[ -n "${{{secret.name}+x}}" ]' if how == ENVIRONMENT else f'[ -r "{ARRIVED}{secret.file}" ]'
        words = f"bluegreen: error: the secret {secret.name} did not arrive from systemd; nothing was started"
        lines.append(f"{there} || {{ echo '{words}' >&2; exit 78; }}")
    if how != ENVIRONMENT:
        lines += [f'. "{ARRIVED}{secret.file}"' for secret in found if not secret.as_file]
        lines += [f'export {secret.name}_FILE="{ARRIVED}{secret.file}"' for secret in found if secret.as_file]
    return lines


def of_unit(home: Path) -> list[str]:
    """What a unit of its own (a job) needs to be handed the secrets of the release in `home`."""
    stored = kept(home)
    return unit_lines(home, stored.way) if stored else []


def launched(home: Path, words: Sequence[str]) -> list[str]:
    """A command that is to run with the secrets of the release in `home`."""
    return [str(home / "run" / LAUNCHER), *words] if kept(home) else list(words)


# what must not show


def values(paths: Paths) -> list[str]:
    """The values of all releases on this host; those that cannot be had are left out."""
    found: dict[str, str] = {}
    for path in sorted(paths.releases.glob("[!.]*/secrets.json")):
        stored = kept(path.parent)
        for name, file in stored.files().items() if stored else ():
            digest = str(stored.secrets[name]["digest"]) if stored else ""
            if digest not in found:
                place = path.parent / "secrets" / file
                try:
                    text = unseal(file, place) if stored and stored.way == SEALED else place.read_bytes().decode()
                except (BluegreenError, OSError):
                    continue
                found[digest] = assigned(text)[1] if file.endswith(".sh") else text
    return list(found.values())


def masks(found: Iterable[str]) -> list[str]:
    """The texts to hide, the longest first: each value, each line of it, and the password of an address."""
    texts: set[str] = set()
    for value in found:
        parts = {value, value.strip(), *(line.strip() for line in value.splitlines())}
        parts |= set(re.findall(r"://[^/@:\s]*:([^/@\s]+)@", value))
        for part in parts:
            texts |= {part, repr(part)[1:-1], json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1]}
    return sorted((text for text in texts if len(text) >= SHORTEST), key=lambda text: (-len(text), text))


def hide(shown: Any, texts: Sequence[str]) -> Any:
    """The same without the texts, however deep they stand."""
    if isinstance(shown, str):
        for text in texts:
            shown = shown.replace(text, HIDDEN)
        return shown
    if isinstance(shown, dict):
        return {key: hide(item, texts) for key, item in shown.items()}
    if isinstance(shown, (list, tuple)):
        return [hide(item, texts) for item in shown]
    return shown


def hide_in(problem: BluegreenError, texts: Sequence[str]) -> None:
    """Take out of an error what an application may have printed while it failed: what failed and the next step stay."""
    problem.why, problem.details = hide(problem.why, texts), hide(problem.details, texts)


def told(paths: Paths, said: Any) -> Any:
    """What release code said, as it may be kept and shown: without the values of the releases on this host."""
    return hide(said, masks(values(paths)))


# revocation


def replacements(mine: Kept, names: Iterable[str], theirs: Kept) -> list[str]:
    """Which of the revoked names another release still has with a value that is not mine, kept in the same way."""
    return [
        name
        for name in names
        if name in mine.secrets
        and name in theirs.secrets
        and mine.secrets[name]["file"] == theirs.secrets[name]["file"]
        and mine.secrets[name]["digest"] != theirs.secrets[name]["digest"]
    ]


def replace(home: Path, source: Path, names: Sequence[str]) -> None:
    """Give a release the values that another has for these names. Raises BluegreenError where they cannot be had."""
    mine, theirs = kept(source), kept(home)
    if mine is None or theirs is None:
        raise check_failed(f"{home.name} or {source.name} has no secrets")
    for name in names:
        file = mine.files()[name]
        sealed = (source / "secrets" / file).read_bytes().decode()
        content = unseal(file, source / "secrets" / file) if mine.way == SEALED else sealed
        if theirs.way == SEALED:
            content = sealed if mine.way == SEALED else seal(file, content)
        files.write_file(home / "secrets" / file, content, 0o600)
        theirs.secrets[name] = dict(mine.secrets[name])
    if theirs.way == ENVIRONMENT:
        write_environment(home / "secrets")
    files.write_json(home / "secrets.json", dataclasses.asdict(theirs), 0o600)
