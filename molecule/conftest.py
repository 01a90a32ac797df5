"""What every scenario's tests have: the shared helpers, and evidence when a promise is broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent / "shared"))

from promises import EVIDENCE, Deployment, deployment


@pytest.fixture(scope="session")
def fleet() -> Deployment:
    """The orders on three app servers."""
    return deployment("fleet")


@pytest.fixture(scope="session")
def pair() -> Deployment:
    """The orders on two app servers, with all else on one host."""
    return deployment("pair")


@pytest.fixture(scope="session")
def vm() -> Deployment:
    """The notes on one VM."""
    return deployment("vm")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the last playbooks and what the hosts say, below a promise that was not kept."""
    report: Any = yield
    if report.when == "call" and report.failed:
        promise = item.name.removeprefix("test_").replace("_", " ")
        report.sections.append(("the promise that was not kept", promise))
        for ran in EVIDENCE.ran[-2:]:
            report.sections.append(("what was typed", ran.tail()))
        for one in EVIDENCE.deployments.values():
            report.sections.append((f"what the hosts of {one.app} say", one.evidence()))
    return report


@pytest.fixture(autouse=True)
def _only_this_tests_evidence() -> None:
    """Evidence of earlier tests would mislead."""
    EVIDENCE.ran.clear()
    EVIDENCE.deployments.clear()
