#!/usr/bin/python
"""Documentation of the action plugin `bluegreen_inputs`; it runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bluegreen_inputs
short_description: Check what a run is asked for
description:
  - Checks the values of C(-e), the inventory and the settings.
  - Finds the artifact, verifies its image, and names the run.
  - Values of C(-e) are taken as they were typed and never templated by this plugin.
options:
  verb:
    description: The playbook that asks.
    type: str
    required: true
    choices: [deploy, rollback, restore, status, unlock, manage]
author: the bluegreen authors
"""

EXAMPLES = r"""
- name: Check the inputs
  bluegreen_inputs:
    verb: deploy
  register: __inputs_result
"""

RETURN = r"""
deploy_id:
  description: The name of this run.
  type: str
  returned: success
"""
