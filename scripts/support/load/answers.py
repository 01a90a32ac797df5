"""What comes of one request: a complete answer, a failure, or an end that is counted apart."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = ("status", "reset", "truncated", "malformed", "timeout", "connect")


class Failed(Exception):
    """A request that failed; `category` is one of FAILURES."""

    def __init__(self, category: str, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.category = category
        self.status = status


@dataclass
class Answer:
    """A complete answer. `body` is kept only where it was asked for."""

    status: int
    release: str
    size: int
    body: bytes
    keep: bool
