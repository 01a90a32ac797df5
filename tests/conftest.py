"""What all tests share."""

import os
from pathlib import Path

import ansible.module_utils
from hypothesis import HealthCheck, settings

# Plugins import their shared code as Ansible gives it to them: from ansible.module_utils.
ansible.module_utils.__path__.append(str(Path(__file__).parents[1] / "plugins" / "module_utils"))

# The tests run while images are built: how long an example takes says nothing.
USUAL = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("bluegreen", USUAL, max_examples=40)
settings.register_profile("full", USUAL, max_examples=500)  # scripts/test --full
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "bluegreen"))
