"""The command line of scripts/sign-artifact: a signature for an artifact of the store, where nothing of it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bluegreen import signature
from support.artifact import signing, store
from support.artifact.errors import InputError
from support.common import write_atomic


def checked(folder: Path, name: str, sha: str) -> dict[str, Any]:
    """The manifest of an artifact that is what it says: its name, the commit, and the digests of image and SBOM.

    Raises InputError.
    """
    path = folder / f"{name}.json"
    try:
        content = path.read_bytes()
        manifest: dict[str, Any] = json.loads(content)
        said = {part: (manifest[part]["file"], manifest[part]["sha256"]) for part in ("image", "sbom")}
        if signature.text(manifest) != content or (manifest["artifact"], manifest["sha"]) != (name, sha):
            raise InputError(f"{path} is not the manifest of {name} at {sha[:12]}: build it again")
        for part, ending in (("image", ".squashfs"), ("sbom", ".cdx.json")):
            if said[part] != (f"{name}{ending}", store.sha256(folder / f"{name}{ending}")):
                raise InputError(f"{folder / name}{ending} is not the one that its manifest describes: build it again")
    except OSError as problem:
        raise InputError(f"{problem.filename} cannot be read: {problem.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no manifest: build it again") from None
    return manifest


def parser() -> argparse.ArgumentParser:
    """The options; see --help."""
    parser = argparse.ArgumentParser(prog="sign-artifact", description="Sign an artifact that was built elsewhere.")
    parser.add_argument("name", metavar="NAME", help="of the artifact, as scripts/build-artifact printed it")
    parser.add_argument("store", type=Path, metavar="STORE", help="the directory where its files are")
    parser.add_argument("--sha", required=True, help="the commit that it must be of, 40 characters")
    parser.add_argument(
        "--sign", type=Path, required=True, metavar="KEY", help="a private key, or the .pub file of an agent's key"
    )
    return parser


def main(arguments: list[str]) -> int:
    """Sign what the arguments name; returns the exit status."""
    options = parser().parse_args(arguments)
    if Path(options.name).name != options.name:
        raise InputError(f"this is not the name of an artifact: {options.name!a}")
    message = signature.text(checked(options.store, options.name, options.sha))
    write_atomic(options.store / f"{options.name}{store.SIGNATURE}", signing.sign(message, options.sign))
    store.write_index(options.store)
    print(options.name)
    return 0
