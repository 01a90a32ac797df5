"""Signatures of manifests, made and verified by ssh-keygen.

The build signs, the controller verifies before anything is sent, and every host verifies again before an image is
opened. What is signed is the manifest's text (`text`), so that what was verified is what is used.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import struct
from pathlib import Path
from typing import Any, NamedTuple

from bluegreen.errors import BluegreenError, Code, check_failed

NAMESPACE = "bluegreen-artifact"  # a signature made for something else must not pass for one of an artifact
MOST = 64 << 10  # bytes of a signature; those of the largest keys and certificates have a few thousand
PATIENCE = 20.0  # seconds for one call of ssh-keygen
ARMOUR = re.compile(r"\s*-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)-----END SSH SIGNATURE-----\s*")
GOOD = re.compile(r'Good "[^"]*" signature for .* with (\S+) key (SHA256:\S+)')
EXPIRED = re.compile(r"key (?:has expired|is not yet valid)[^\n]*?(valid-(?:before|after) [\dT:+-]+)")


class Envelope(NamedTuple):
    """What a signature says of itself; nothing of it is proven yet."""

    namespace: str
    key: str  # base64, as in a file of public keys
    fingerprint: str  # SHA256:…


def text(manifest: dict[str, Any]) -> bytes:
    """The bytes that are signed: the manifest as it lies in the store."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def parse(armoured: str) -> Envelope:
    """The parts of a signature, by OpenSSH's PROTOCOL.sshsig. Raises BluegreenError."""
    found = ARMOUR.fullmatch(armoured) if len(armoured) <= MOST else None
    try:
        blob = base64.b64decode(found[1]) if found else b""
        if blob[:6] != b"SSHSIG":
            raise ValueError
        key, rest = _string(blob[10:])
        namespace, _ = _string(rest)
        return Envelope(namespace.decode(), base64.b64encode(key).decode(), fingerprint(key))
    except (ValueError, struct.error, binascii.Error):
        raise rejected("the signature of the manifest cannot be read", "it is not one of ssh-keygen") from None


def _string(data: bytes) -> tuple[bytes, bytes]:
    """A string with its length before it, and what follows."""
    (length,) = struct.unpack(">I", data[:4])
    if len(data) < 4 + length:
        raise ValueError
    return data[4 : 4 + length], data[4 + length :]


def type_of(key: str) -> str:
    """The kind of a public key in base64: its first string, such as ssh-ed25519."""
    return _string(base64.b64decode(key))[0].decode("ascii")


def fingerprint(key: bytes) -> str:
    """A public key's fingerprint, as ssh-keygen -l shows it."""
    import hashlib  # slow to import

    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def rejected(what: str, why: str = "", todo: str = "") -> BluegreenError:
    """An artifact whose origin is not proven."""
    return check_failed(what, why, todo or "sign it with a key of artifact_signers: scripts/build-artifact --sign KEY")


def verify(message: bytes, armoured: str, allowed: str, revoked: bytes = b"") -> dict[str, str]:
    """Who signed: {principal, key, type}. Raises BluegreenError that says why nobody trusted did.

    allowed: the text of a file of allowed signers (ssh-keygen(1), ALLOWED SIGNERS), judged at this moment.
    revoked: a key revocation list, or public keys, one on a line; empty for none.
    """
    said = parse(armoured)
    if said.namespace != NAMESPACE:
        raise rejected(
            "the manifest's signature was not made for an artifact", f"its namespace is {said.namespace[:60]!a}"
        )
    # not tempfile, which is slow to import: a name nobody can guess, and a directory nobody else enters
    place = Path(os.environ.get("TMPDIR") or "/tmp", f"bluegreen-{os.urandom(12).hex()}")  # noqa: S108
    place.mkdir(mode=0o700)
    try:
        (place / "allowed").write_text(allowed, encoding="utf-8")
        (place / "signature").write_text(armoured, encoding="utf-8")
        (place / "revoked").write_bytes(revoked)
        return _verify(place, message, said, allowed, bool(revoked))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _verify(place: Path, message: bytes, said: Envelope, allowed: str, revoking: bool) -> dict[str, str]:
    """The same with all files in `place`."""
    revocation = ("-r", str(place / "revoked")) if revoking else ()
    principal, err = principal_of(said.key, allowed), ""
    status, out, err = _keygen("verify", place, message, *_words(principal), *revocation) if principal else (1, "", "")
    if status != 0:
        # perhaps another line, or an authority's: ssh-keygen knows them all
        status, out, err = _keygen("find-principals", place, b"")
        names = out.splitlines() if status == 0 else []
        principal = next((name for name in names if name and not name.startswith("!")), "")
        if not principal:
            raise rejected(*_untrusted(said, allowed, err))
        status, out, err = _keygen("verify", place, message, *_words(principal), *revocation)
    good = GOOD.search(out)
    if status == 0 and good is not None:
        return {"principal": principal, "key": good[2], "type": good[1]}
    if "not permitted for use in signature namespace" in err:
        raise rejected(f"the key of {principal} may not sign artifacts", "its line of artifact_signers says so")
    if revoking and _keygen("verify", place, message, *_words(principal))[0] == 0:
        raise rejected(f"the key of {principal} is revoked", f"{said.fingerprint} is in artifact_revoked")
    raise rejected("the manifest was changed after it was signed", f"its signature is of {principal}")


def _words(principal: str) -> tuple[str, ...]:
    return ("-I", principal, "-n", NAMESPACE)


def principal_of(key: str, allowed: str) -> str:
    """The name on the first line that has this key; empty where it must be asked for. It only saves a question."""
    for line in allowed.splitlines():
        words = line.split()
        if key in words and re.fullmatch(r"[A-Za-z0-9@._+-]+", words[0]):
            return words[0]
    return ""


def _untrusted(said: Envelope, allowed: str, err: str) -> tuple[str, str]:
    """Why no line of the signers fits."""
    if expired := EXPIRED.search(err):
        return "the manifest was signed with a key that is not valid now", f"artifact_signers says {expired[1]}"
    if said.key in allowed:
        return "the manifest was signed with a key that is not valid now", f"see {said.fingerprint} in artifact_signers"
    return "the manifest was signed by a stranger", f"{said.fingerprint} is not in artifact_signers"


def _keygen(action: str, place: Path, message: bytes, *words: str) -> tuple[int, str, str]:
    """One call of ssh-keygen -Y on the files in `place`."""
    import subprocess  # imported already wherever this is used, and slow to import

    command = ["ssh-keygen", "-Y", action, *words, "-f", str(place / "allowed"), "-s", str(place / "signature")]
    try:
        # English words are looked for in what it says
        done = subprocess.run(command, input=message, capture_output=True, timeout=PATIENCE, env=_env(), check=False)
    except FileNotFoundError:
        raise BluegreenError(
            Code.NOT_PROVISIONED, "ssh-keygen is not installed", "", "apt-get install openssh-client"
        ) from None
    except subprocess.TimeoutExpired:
        raise rejected("the signature cannot be verified", f"ssh-keygen did not end within {PATIENCE:g} s") from None
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _env() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH") or "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
