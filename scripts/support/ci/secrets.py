"""Secrets: from the environment or files, never shown. Pure functions but for reading files."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from support.common import REPO, Failure

UNUSABLE = 3  # exit status
SSH_KEY, KNOWN_HOSTS, VAULT_PASSWORD = "BLUEGREEN_SSH_KEY", "BLUEGREEN_KNOWN_HOSTS", "BLUEGREEN_VAULT_PASSWORD"
VALUE = re.compile(r"BLUEGREEN_SECRET_([A-Z][A-Z0-9_]*)")
USED = re.compile(r"\{\{\s*(vault_[a-z0-9_]+)\b(?!\s*\|\s*(?:ansible\.builtin\.)?default\b)")
DEFINED = re.compile(r"""(?m)(?:^|[{,])\s*["']?(vault_[a-z0-9_]+)["']?\s*:""")  # in YAML, or in JSON
SEVERAL = "BLUEGREEN_SECRETS"  # a JSON object: a reusable workflow cannot hand on names that it does not know
ENCRYPTED = "$ANSIBLE_VAULT;"
SHORTEST = 4  # characters: hiding a shorter line of a longer text would blacken half the log
HIDDEN = "***"


@dataclasses.dataclass(frozen=True, repr=False)
class Secrets:
    """What was given. `values`: names of variables (vault_…) → texts."""

    ssh_key: str = ""
    known_hosts: str = ""
    vault_password: str = ""
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def texts(self) -> list[str]:
        """Everything that must not show."""
        return [text for text in (self.ssh_key, self.vault_password, *self.values.values()) if text]


def read_file(name: str, path: str) -> str:
    """The text of a file that a variable names. Raises Failure."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not text"
        raise Failure(f"the file that {name} names cannot be read: {why}", UNUSABLE) from None


def several(text: str) -> dict[str, str]:
    """The secrets that BLUEGREEN_SECRETS holds, by the names that they would have alone. Raises Failure."""
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise Failure(f'{SEVERAL} must be a JSON object of texts, for example {{"SECRET_KEY": "…"}}', UNUSABLE)
    return {f"BLUEGREEN_SECRET_{name}": value for name, value in found.items()}


def gather(given: Mapping[str, str], read: Callable[[str, str], str] = read_file) -> Secrets:
    """The secrets of an environment; NAME_FILE stands for a file's content. Raises Failure."""
    texts: dict[str, str] = {}
    for name, text in (several(given.get(SEVERAL, "")) | dict(given)).items():
        if not text or name == SEVERAL:
            continue  # GitHub gives an empty text for a secret that is not there
        plain = name.removesuffix("_FILE")
        if plain not in (SSH_KEY, KNOWN_HOSTS, VAULT_PASSWORD) and not VALUE.fullmatch(plain):
            raise Failure(f"{name} is not known: see scripts/deploy --help for the names of secrets", UNUSABLE)
        if given.get(plain) and plain != name:
            raise Failure(f"{plain} and {name} are both given: leave one of them out", UNUSABLE)
        content = read(name, text) if plain != name else text
        if content:
            texts[plain] = content
    values = {f"vault_{found[1].lower()}": text for name, text in texts.items() if (found := VALUE.fullmatch(name))}
    key = texts.get(SSH_KEY, "").replace("\r\n", "\n").strip()
    return Secrets(
        f"{key}\n" if key else "", texts.get(KNOWN_HOSTS, ""), texts.get(VAULT_PASSWORD, "").strip("\r\n"), values
    )


def inventory_texts(environment: str, repo: Path = REPO) -> dict[str, str]:
    """The files that a run of this environment reads variables from: path → text."""
    roots = (repo / "inventories" / environment, repo / "group_vars")
    paths = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(repo)): path.read_text(encoding="utf-8", errors="replace") for path in paths}


def without_comments(text: str) -> str:
    """YAML without what is commented out; a # inside of quotes may cut a line short, which finds less, never more."""
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


def missing(secrets: Secrets, texts: Mapping[str, str]) -> list[str]:
    """What the files of an environment need and nobody gave: a line for each, which says where it is needed.

    Values are missed only where every file can be read: ask again with `opened` ones.
    """
    plain = {path: without_comments(text) for path, text in texts.items()}
    encrypted = [path for path, text in plain.items() if text.startswith(ENCRYPTED) or "!vault" in text]
    used = {name: path for path, text in plain.items() for name in USED.findall(text)}
    defined = {name for text in plain.values() for name in DEFINED.findall(text)}
    everything = "\n".join(plain.values())
    found = []
    own_login = "ansible_ssh_private_key_file" in everything or "ansible_connection: local" in everything
    if not secrets.ssh_key and not own_login:
        found.append(f"{SSH_KEY}: the private key of deploy_user")
    if not secrets.known_hosts and "UserKnownHostsFile" not in everything and not own_login:
        found.append(f"{KNOWN_HOSTS}: the host keys (ssh-keyscan, compared with the hosts' consoles)")
    if encrypted and not secrets.vault_password:
        found.append(f"{VAULT_PASSWORD}: {encrypted[0]} is encrypted")
    if not any(text.startswith(ENCRYPTED) for text in plain.values()):  # what is not opened yet may define them
        wanted = sorted(set(used) - defined - set(secrets.values))
        prefix = "BLUEGREEN_SECRET_"
        found += [f"{prefix}{name.removeprefix('vault_').upper()}: {used[name]} uses {name}" for name in wanted]
    return found


def require(secrets: Secrets, texts: Mapping[str, str]) -> None:
    """Refuse a run that lacks a secret. Raises Failure that names each."""
    lacking = missing(secrets, texts)
    if lacking:
        what = "a secret is" if len(lacking) == 1 else f"{len(lacking)} secrets are"
        raise Failure(f"{what} missing: {'; '.join(lacking)} (docs/ci.md)", UNUSABLE)


def variables_file(values: Mapping[str, str]) -> str:
    """The content of a file of variables for `-e @file`: each value arrives as it is, and is no template.

    JSON: YAML's tag !unsafe makes a number of "0123".
    """
    return json.dumps({name: {"__ansible_unsafe": text} for name, text in values.items()})


# what must not show


def masks(texts: Iterable[str]) -> list[str]:
    """Each text to hide, the longest first: single lines whole, of longer texts each line."""
    found = set()
    for text in texts:
        lines = text.splitlines()
        if len(lines) <= 1:
            found.add(text.strip())
        else:
            found |= {line.strip() for line in lines if len(line.strip()) >= SHORTEST and not line.startswith("-----")}
    return sorted(found - {""}, key=lambda text: (-len(text), text))


def loosely(text: str) -> str:
    """A pattern that finds a text however often it was quoted: for JSON, Python, YAML or a shell, one in the other."""
    parts = []
    for char in text:
        if char in "'\"":
            other = '"' if char == "'" else "'"
            # backslashes before it; twice, as YAML does; closed, quoted otherwise and opened again, as a shell needs it
            parts.append(rf"(?:{char}{other}{char}{other}{char}|{char}{char}|\\*{char}|\\+u00{ord(char):02x})")
        elif char == "\\":
            parts.append(r"\\+")
        elif char.isspace():
            parts.append(r"(?:\s+|\\+t)")  # wrapped
        elif char.isascii():
            parts.append(re.escape(char))
        else:
            json_form = "".join(rf"\\+{part}" for part in json.dumps(char)[1:-1].split("\\")[1:])
            parts.append(rf"(?:{re.escape(char)}|(?i:{json_form}|\\+[xu]0*{ord(char):x}))")
    return "".join(parts)


def redacter(hidden: Sequence[str]) -> Callable[[str], str]:
    """A function that blackens what must not show."""
    if not hidden:
        return lambda text: text
    pattern = re.compile("|".join(loosely(text) for text in sorted(hidden, key=len, reverse=True)))
    return lambda text: pattern.sub(HIDDEN, text)


def redact_all(value: Any, redact: Callable[[str], str]) -> Any:
    """The same data with every text blackened."""
    if isinstance(value, Mapping):
        return {redact(str(key)): redact_all(item, redact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_all(item, redact) for item in value]
    return redact(value) if isinstance(value, str) else value


# what a vault holds


class Loader(yaml.SafeLoader):
    """YAML in which Ansible's own tags are texts."""


def _tagged(loader: Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    return loader.construct_sequence(node) if isinstance(node, yaml.SequenceNode) else None


Loader.add_multi_constructor("!", _tagged)


def leaves(value: Any) -> list[str]:
    """All texts and numbers in parsed YAML."""
    if isinstance(value, Mapping):
        return [text for item in value.values() for text in leaves(item)]
    if isinstance(value, list):
        return [text for item in value for text in leaves(item)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


class Vault(NamedTuple):
    """What was encrypted. `files`: path → text of whole files; `values`: single values in other files."""

    files: dict[str, str]
    values: list[str]

    def texts(self) -> list[str]:
        """All values, to hide them: without very short ones, such as ports, which would blacken half the log."""
        found = list(self.values)  # each is a text whatever it looks like
        for plain in self.files.values():
            try:
                found += leaves(yaml.load(plain, Loader=Loader))  # noqa: S506  a SafeLoader
            except yaml.YAMLError:
                found += plain.splitlines()
        return [text for text in found if len(text) >= SHORTEST]


def open_vault(texts: Mapping[str, str], password: str) -> Vault:
    """Decrypt encrypted files and values. Raises Failure if one cannot be opened; what is no text stays readable."""
    opened = Vault({}, [])
    encrypted = [(path, found) for path, text in texts.items() for found in envelopes(text)]
    if not encrypted:
        return opened
    from ansible.parsing.vault import AnsibleVaultError, VaultLib, VaultSecret  # takes long to import

    vault = VaultLib([("default", VaultSecret(password.encode()))])
    for path, text in encrypted:
        try:
            plain = vault.decrypt(text).decode(errors="replace")
        except AnsibleVaultError:
            raise Failure(f"{VAULT_PASSWORD} does not open {path}", UNUSABLE) from None
        if texts[path].startswith(ENCRYPTED):
            opened.files[path] = plain
        else:
            opened.values.append(plain)
    return opened


def envelopes(text: str) -> list[str]:
    """What ansible-vault encrypted in a file: all of it, or the values marked with !vault."""
    if text.startswith(ENCRYPTED):
        return [text]
    found = re.findall(r"(?m)^[ \t]*(\$ANSIBLE_VAULT;[^\n]+\n(?:[ \t]*[0-9a-f]+[ \t]*(?:\n|\Z))+)", text)
    return ["\n".join(line.strip() for line in one.splitlines()) for one in found]
