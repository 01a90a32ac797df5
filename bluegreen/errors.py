"""One exception, and the exit codes that callers may rely on."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any


class Code(enum.IntEnum):
    """Exit status of the program; part of the contract with the controller."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    REFUSED = 3
    CHECK_FAILED = 4
    LEASE_HELD = 5
    STALE_FENCE = 6
    NOT_PROVISIONED = 7
    BUSY = 75


class BluegreenError(Exception):
    """A failure a person can act on: what failed, why, and what to type next."""

    def __init__(self, code: Code, what: str, why: str = "", todo: str = "", details: dict[str, object] | None = None):
        super().__init__(what)
        self.code = code
        self.what = what
        self.why = why
        self.todo = todo
        self.details = details or {}

    def as_dict(self, verb: str) -> dict[str, object]:
        """The error as it appears in the answer of a verb."""
        return {"verb": verb, "what": self.what, "why": self.why, "next": self.todo, "code": int(self.code)}

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(self.why)
        return ": ".join(parts) + (f" ({self.todo})" if self.todo else "")


def from_dict(error: Mapping[str, Any]) -> BluegreenError:
    """The failure that another process told in the form of `as_dict`; a code of none of ours is CHECK_FAILED."""
    code = error["code"] if error.get("code") in set(Code) else Code.CHECK_FAILED
    return BluegreenError(Code(code), str(error["what"]), str(error["why"]), str(error["next"]))


class Silent(BluegreenError):
    """The register cannot be asked, or is not this application's: nothing is known, and nothing is guessed."""

    def __init__(self, what: str, why: str = "", todo: str = ""):
        super().__init__(Code.REFUSED, what, why, todo)


def bad_input(what: str, why: str = "", todo: str = "") -> BluegreenError:
    """The caller's words are wrong; nothing was changed."""
    return BluegreenError(Code.BAD_INPUT, what, why, todo)


def refused(what: str, why: str = "", todo: str = "") -> BluegreenError:
    """The state of the host does not allow it; nothing was changed."""
    return BluegreenError(Code.REFUSED, what, why, todo)


def check_failed(what: str, why: str = "", todo: str = "", details: dict[str, object] | None = None) -> BluegreenError:
    """A release did not do what it must; what served before still serves."""
    return BluegreenError(Code.CHECK_FAILED, what, why, todo, details)
