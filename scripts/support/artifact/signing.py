"""Signing manifests with ssh-keygen: a key file, or an agent's key named by its public half."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bluegreen import signature
from bluegreen.errors import BluegreenError
from support.artifact.errors import InputError
from support.common import last_line, program

PATIENCE = 120  # seconds: a person may be asked for a passphrase, or to touch a security key


def sign(message: bytes, key: Path) -> str:
    """The signature of a message. Raises InputError that says why the key cannot sign.

    key: a private key, or a public one whose private half an ssh-agent holds.
    """
    command = [program("ssh-keygen"), "-q", "-Y", "sign", "-n", signature.NAMESPACE, "-f", str(key)]
    try:
        done = subprocess.run(
            command,
            input=message,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            # without a person at a terminal nobody can type a passphrase: it fails instead of waiting
            start_new_session=not sys.stdin.isatty(),
            env={**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
        )
    except subprocess.TimeoutExpired:
        raise InputError(f"--sign {key}: ssh-keygen did not end within {PATIENCE} s") from None
    if done.returncode != 0:
        raise InputError(f"--sign {key}: {why_not(last_line(done.stderr))}")
    return done.stdout.decode("ascii")


def why_not(said: str) -> str:
    """ssh-keygen's reason, with what to do."""
    if "incorrect passphrase" in said or "bad passphrase" in said:
        return "the key has a passphrase: ssh-add it, and give its .pub file"
    if "No private key found" in said or "agent" in said.lower():
        return f"{said}: no ssh-agent holds its private half (ssh-add -l)"
    if "bad permissions" in said:
        return "others may read the key: chmod 600"
    return f"it cannot sign: {said or 'no reason given'}"


def check_key(key: Path) -> str:
    """Sign something, so that a key that cannot sign costs no build. Returns the public key. Raises InputError."""
    if not key.is_file():
        raise InputError(f"--sign {key} is not a file: name a private key, or the .pub file of a key in ssh-agent")
    if not os.access(key, os.R_OK):
        raise InputError(f"--sign {key} cannot be read by this user")
    found = signature.parse(sign(b"a key that can sign", key))
    return found.key


def trusting(public: str, allowed: str, revoked: bytes = b"") -> Callable[[dict[str, Any], str], bool]:
    """Whether an artifact in the store may stand for the one to be built: signed by this key, or an allowed signer.

    Anybody may have put another one there; it must not be signed, and not be taken for ours.
    """
    kind = signature.type_of(public)
    signers = f"{allowed}\nthis-key {kind} {public}\n"

    def trusted(manifest: dict[str, Any], armoured: str) -> bool:
        try:
            signature.verify(signature.text(manifest), armoured, signers, revoked)
        except BluegreenError:
            return False
        return True

    return trusted
