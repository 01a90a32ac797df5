"""gunicorn's configuration: what a release's environment makes of it."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

CONFIGURATION = Path(__file__).parents[3] / "bluegreen" / "serve" / "bluegreen_gunicorn.py"


def configuration(monkeypatch: pytest.MonkeyPatch, **values: str) -> dict[str, Any]:
    given = {
        "APP": "shop",
        "COLOUR": "blue",
        "WORKERS": "2",
        "THREADS": "4",
        "REQUEST_TIMEOUT": "60",
        "INTERFACE": "wsgi",
    }
    for name, value in (given | values).items():
        monkeypatch.setenv(f"BLUEGREEN_{name}", value)
    return runpy.run_path(str(CONFIGURATION))


@pytest.mark.parametrize(("threads", "worker"), [("4", "gthread"), ("1", "sync")])
def test_one_thread_is_a_sync_worker(monkeypatch: pytest.MonkeyPatch, threads: str, worker: str) -> None:
    found = configuration(monkeypatch, THREADS=threads)
    assert (found["worker_class"], found["threads"]) == (worker, int(threads))


def test_a_colour_listens_where_the_route_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "uvicorn_worker")
    own = "unix:/run/bluegreen/shop/green"
    assert configuration(monkeypatch, COLOUR="green")["bind"] == [f"{own}.sock"]
    assert configuration(monkeypatch, COLOUR="green", INTERFACE="asgi")["bind"] == [f"{own}.sock", f"{own}.ws.sock"]


def test_a_worker_has_as_long_to_finish_as_a_request_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    found = configuration(monkeypatch, REQUEST_TIMEOUT="90")
    assert found["timeout"] == found["graceful_timeout"] == 90
