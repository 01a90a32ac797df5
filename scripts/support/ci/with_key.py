"""One command beside an ssh-agent of its own, which holds the key of BLUEGREEN_SIGNING_KEY and ends with it."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess

from support.ci import hidden, secrets
from support.ci.private import private
from support.common import Failure, program

KEY = "BLUEGREEN_SIGNING_KEY"
PLACE = "@key"


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="with-key",
        description=f"Run a command with an ssh-agent that holds the key of {KEY} (or of the file {KEY}_FILE names).",
        epilog=f"{PLACE} in the command stands for the path of the public key, as build-artifact --sign takes it.",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")
    words = parser.parse_args(arguments).command
    words = words[1:] if words[:1] == ["--"] else words
    if not words:
        raise Failure("which command? for example: scripts/with-key scripts/build-artifact --sign @key", 2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    return run(words, key_of(hidden.given()))


def leave(number: int, _frame: object) -> None:
    """End through every `finally`."""
    raise SystemExit(128 + number)


def key_of(given: dict[str, str]) -> str:
    """The key as text. Raises Failure."""
    text = given.get(KEY, "")
    if not text and given.get(f"{KEY}_FILE"):
        text = secrets.read_file(f"{KEY}_FILE", given[f"{KEY}_FILE"])
    if not text.strip():
        raise Failure(f"{KEY} is missing: the private key of a signer (docs/ci.md)", secrets.UNUSABLE)
    return text.replace("\r\n", "\n").strip() + "\n"


def run(words: list[str], key: str) -> int:
    """Run a command beside an agent with that key."""
    with private() as place:
        environment = os.environ | {"SSH_AUTH_SOCK": str(place.start_agent(key, KEY))}
        public = subprocess.run([program("ssh-add"), "-L"], env=environment, capture_output=True, text=True, check=True)
        path = place.write("key.pub", public.stdout)
        with subprocess.Popen([str(path) if word == PLACE else word for word in words], env=environment) as child:
            try:
                return child.wait()
            except BaseException:
                child.terminate()
                raise
