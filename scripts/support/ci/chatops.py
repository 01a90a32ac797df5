"""A command in a comment of an issue or pull request: who may give it, and what it asks for. Standard library only.

    /deploy ENVIRONMENT SHA      /canary ENVIRONMENT SHA SHARE      /rollback ENVIRONMENT [SHA]      /status ENVIRONMENT

The comment is untrusted text: it is matched as a whole, and only what was matched goes on.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

from support.common import Failure

REFUSED, NOTHING = 4, "none"
ENVIRONMENT = r"(?P<environment>[a-z][a-z0-9_-]{0,30})"
SHA = r"[0-9a-f]{6,40}"
SHARES = r"[1-9][0-9]?(?:,[1-9][0-9]?)*"
COMMANDS = {
    "deploy": (rf"/deploy +{ENVIRONMENT} +(?P<sha>{SHA})", "/deploy production abc123"),
    "canary": (rf"/canary +{ENVIRONMENT} +(?P<sha>{SHA}) +(?P<canary>{SHARES})", "/canary production abc123 5"),
    "rollback": (rf"/rollback +{ENVIRONMENT}(?: +(?P<to>{SHA}))?", "/rollback production"),
    "status": (rf"/status +{ENVIRONMENT}", "/status production"),
}  # fmt: skip
FIRST = re.compile(r"/(deploy|canary|rollback|status)\b")
LOGIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})(?:\[bot\])?")
OUTPUTS = ("verb", "environment", "sha", "canary", "to")


def names(text: str) -> list[str]:
    """Names with commas or blanks between them."""
    return [name for name in re.split(r"[,\s]+", text) if name]


def read(environment: Mapping[str, str]) -> dict[str, str]:
    """What a comment asks for: {verb, environment, …}; verb `none` where it is no command. Raises Failure (4).

    environment: COMMENT, ACTOR, and the lists PERMITTED (logins) and ENVIRONMENTS. An empty list permits nobody.
    """
    comment = environment.get("COMMENT", "").strip()
    found = FIRST.match(comment)
    if not found:
        return {"verb": NOTHING}
    actor, permitted = environment.get("ACTOR", ""), names(environment.get("PERMITTED", ""))
    if not LOGIN.fullmatch(actor) or actor.lower() not in {name.lower() for name in permitted}:
        raise Failure(f"{actor!a} may not give commands: the variable BLUEGREEN_PERMITTED names who may", REFUSED)
    pattern, example = COMMANDS[found[1]]
    matched = re.fullmatch(pattern, comment, re.ASCII)
    if not matched:
        raise Failure(f"/{found[1]} is not followed by what it needs, on one line; for example: {example}", REFUSED)
    given = {name: value for name, value in matched.groupdict().items() if value}
    known = names(environment.get("ENVIRONMENTS", ""))
    if given["environment"] not in known:
        raise Failure(f"{given['environment']} is not one of the environments {', '.join(known) or '(none)'}", REFUSED)
    return {"verb": "deploy" if found[1] == "canary" else found[1], **given}


def main(arguments: list[str]) -> int:
    """Write what the comment asks for to GITHUB_OUTPUT, or print it; returns the exit status."""
    argparse.ArgumentParser(
        prog="chatops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="environment: COMMENT, ACTOR, PERMITTED, ENVIRONMENTS. exit status: 0, or 4 if the command is refused",
    ).parse_args(arguments)  # fmt: skip
    found = read(os.environ)
    lines = "".join(f"{name}={found.get(name, '')}\n" for name in OUTPUTS)
    if target := os.environ.get("GITHUB_OUTPUT"):
        with Path(target).open("a", encoding="utf-8") as out:
            out.write(lines)
    print(lines, end="")
    return 0
