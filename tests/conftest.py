"""What all tests share."""

import os
from pathlib import Path

import ansible.module_utils
import pytest
from hypothesis import HealthCheck, settings

# Plugins import their shared code as Ansible gives it to them: from ansible.module_utils.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "plugins" / "module_utils"))

# The tests run while images are built: how long an example takes says nothing.
settings.register_profile("bluegreen", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bluegreen")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the long suites to `scripts/test --full`."""
    if not os.environ.get("BLUEGREEN_TEST_FULL"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="only with scripts/test --full"))
