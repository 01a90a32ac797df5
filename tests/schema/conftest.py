"""What the tests against a real PostgreSQL need: its server programs, and a Python with Django and psycopg."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen.schema import shadow

REPO = Path(__file__).parents[2]
REQUIRED = "BLUEGREEN_TEST_REQUIRE_POSTGRESQL"  # set: what is missing fails the tests, they do not skip


@functools.cache
def missing() -> str:
    """What is not here, or nothing."""
    if not shadow.find_binaries():
        return "no PostgreSQL server programs (Debian: postgresql)"
    done = subprocess.run([django_python(), "-c", "import django, psycopg"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "no Django and psycopg in the Python that BLUEGREEN_TEST_DJANGO_PYTHON names"


def django_python() -> str:
    """The Python that stands for an application's."""
    return os.environ.get("BLUEGREEN_TEST_DJANGO_PYTHON") or sys.executable


@pytest.fixture(scope="session")
def django() -> str:
    """The Python with Django; the tests that need it skip, or fail where it is required, if something is missing."""
    if what := missing():
        if os.environ.get(REQUIRED):
            pytest.fail(what)
        pytest.skip(what)
    return django_python()


@pytest.fixture(scope="session")
def server(django: str) -> Iterator[shadow.Server]:
    """A server for databases that are really migrated."""
    with shadow.cluster(shadow.find_binaries()) as found:
        yield found


def run_json(words: list[str], timeout: float = 300, **more: Any) -> Any:
    """Run a program of Python's from the repository's root; its stdout is JSON."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **more.pop("env", {})}
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False, env=environment, **more)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
