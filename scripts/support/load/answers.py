"""What comes of one request: a complete answer, a failure, or an end that is counted apart."""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = ("status", "reset", "truncated", "malformed", "timeout", "connect")
# refused: the server said, by the protocol's own words, that it did nothing with the request, which may be sent again.
# closed: a websocket ended by the server with a code that asks the visitor to come back.
APART = ("refused", "closed")


class Failed(Exception):
    """A request that failed; `category` is one of FAILURES."""

    def __init__(self, category: str, detail: str, status: int = 0) -> None:
        super().__init__(detail)
        self.category = category
        self.status = status


class Apart(Exception):
    """A request that neither failed nor was answered; `outcome` is one of APART."""

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome


@dataclass
class Answer:
    """A complete answer. `body` is kept only where it was asked for. marked: the end was said, not only met."""

    status: int
    release: str
    size: int
    body: bytes
    keep: bool
    marked: bool = True
