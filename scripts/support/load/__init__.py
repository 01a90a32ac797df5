"""A load client that hides nothing: steady mixed HTTP traffic, every answer judged, no retries.

It speaks HTTP/1.1 itself over plain asyncio transports, because common client libraries reconnect and repeat
requests silently, and exactly those requests are the ones a careless deploy loses.

Use it as a program (`scripts/load`), inside an event loop (`await Load(...).run(...)`), or beside other work
(`with LoadThread(Load(...)) as traffic: ...; report = traffic.stop()`).

What counts as failed: an answer whose status was not expected, a reset or an empty answer (also on a reused
connection), a body shorter than announced, an answer that is not HTTP, a timeout, a refused connection.
What does not: a kept-alive connection that the server closed while it was idle. It is noticed before the next
request is sent on it, and replaced; no client can lose a request that way.
"""

from __future__ import annotations

from support.load.cli import main, summary
from support.load.shapes import Mix, Shape, Target, parse_profile, parse_target
from support.load.tally import Moment, Record, Tally, quantile
from support.load.traffic import Load, LoadThread

__all__ = [
    "Load",
    "LoadThread",
    "Mix",
    "Moment",
    "Record",
    "Shape",
    "Tally",
    "Target",
    "main",
    "parse_profile",
    "parse_target",
    "quantile",
    "summary",
]
