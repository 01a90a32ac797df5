"""Asks a Prometheus, within a bounded time. The only place that talks HTTP on the controller."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from plugins.module_utils import bluegreen_kpi as kpi
from plugins.module_utils.bluegreen_kpi import Sample

PATIENCE = 2.0  # seconds for all questions of a round together
MOST = 1 << 20  # bytes of an answer that are read


def ask_all(url: str, token: str, queries: Sequence[str], patience: float = PATIENCE) -> list[Sample]:
    """The answers to all queries, asked at the same time; who has not answered after `patience` seconds has none.

    A thread that still waits is left alone: a name server or a source that drips bytes cannot hold up a round. Raises
    nothing. The token stands in no answer.
    """
    import threading

    found: dict[int, Sample] = {}

    def ask_one(place: int) -> None:
        found[place] = ask(url, token, queries[place], patience)

    threads = [threading.Thread(target=ask_one, args=(place,), daemon=True) for place in range(len(queries))]
    until = time.monotonic() + patience
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late = Sample(None, no_answer(patience))
    return [found.get(place, late) for place in range(len(queries))]


def ask(url: str, token: str, query: str, patience: float) -> Sample:
    """The answer to one query. Raises nothing."""
    import http.client
    import urllib.error

    try:
        said = fetch(url, token, query, patience)
        if said.value is not None:
            # of a series alone this is the age of its last sample; the line end, as the query may end in a comment
            said = kpi.aged(said, fetch(url, token, f"timestamp(({query}\n))", patience), time.time())
    except urllib.error.URLError as problem:
        said = Sample(None, reason(problem.reason, patience))
    except (OSError, http.client.HTTPException) as problem:
        said = Sample(None, reason(problem, patience))
    except Exception as problem:  # noqa: BLE001  a round must not end because a source answered strangely
        said = Sample(None, f"it could not be asked ({type(problem).__name__})")
    return Sample(said.value, said.why.replace(token, "***") if token else said.why, said.mistake)


def fetch(url: str, token: str, query: str, patience: float) -> Sample:
    """What the source answers. Raises OSError, http.client.HTTPException."""
    import urllib.error
    import urllib.parse
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        """A redirection is an error: the token is for this address only."""

        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    # what is older is not found (2.42 does not know this yet): the moment in an answer is that of the question
    fields = {"query": query, "lookback_delta": f"{kpi.MAX_AGE:.0f}s", "timeout": f"{patience * 1000:.0f}ms"}
    request = urllib.request.Request(  # noqa: S310  the settings allow http and https only
        f"{url.rstrip('/')}/api/v1/query", urllib.parse.urlencode(fields).encode(), {"Accept": "application/json"}
    )
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.build_opener(Stay).open(request, timeout=patience) as answer:
            status, body = int(answer.status), answer.read(MOST)
    except urllib.error.HTTPError as problem:
        with problem:
            status, body = int(problem.code), problem.read(MOST)
    # an answer may repeat the question; taken out before anything is shortened
    return kpi.read(status, body.replace(token.encode(), b"***") if token else body, time.time())


def reason(problem: object, patience: float) -> str:
    """Why there was no answer, in a few words."""
    if isinstance(problem, TimeoutError) or "timed out" in str(problem):
        return no_answer(patience)
    said = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return f"no answer: {kpi.short(said)}"


def no_answer(patience: float) -> str:
    """The words for a source that takes too long."""
    return f"no answer within {patience:g} s"


def samples(
    url: str, token: str, asked: Sequence[tuple[str, str, Sequence[str]]], patience: float = PATIENCE
) -> list[Mapping[str, Any]]:
    """The KPIs of one round, {name, value, why}. `asked`: name, query, and the placeholders that are not known."""
    known = [query for _, query, lacking in asked if not lacking]
    answers = iter(ask_all(url, token, known, patience))
    found: list[Mapping[str, Any]] = []
    for name, _, lacking in asked:
        said = Sample(None, f"${lacking[0]} is not known or not the same on all hosts") if lacking else next(answers)
        found.append({"name": name, "value": said.value, "why": said.why})
    return found
