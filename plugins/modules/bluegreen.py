#!/usr/bin/python
"""Documentation of the action plugin `bluegreen`; it runs on the controller and copies no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bluegreen
short_description: One phase of a deploy on one host
description:
  - Gives the host tool a batch of steps over the connection that Ansible holds, and returns its verdict as data.
  - The task never fails because a step failed.
  - What follows is decided from all hosts' verdicts by the filter C(bluegreen_runs).
  - The plugin completes the steps with what every call needs (release, generation, configuration, session).
  - Secrets are never arguments.
options:
  phase:
    description: The phase (C(PHASES) in C(module_utils/bluegreen_fleet.py)), or C(status), C(unlock) or C(manage).
    type: str
    required: true
  app:
    description: The application.
    type: str
    required: true
  steps:
    description:
      - Verbs of the host tool with their parameters, in order; the first that fails ends the batch.
      - C(only) names a condition (C(holds) in C(module_utils/bluegreen_fleet.py) knows them all).
      - C(id) is another name for the answer.
    type: list
    elements: dict
    required: true
  always:
    description: Steps that follow even if one of O(steps) failed.
    type: list
    elements: dict
author: the bluegreen authors
"""

EXAMPLES = r"""
- name: Ask the host
  bluegreen:
    phase: status
    app: orders
    steps:
      - {verb: status}
  register: __status_result
"""

RETURN = r"""
verdict:
  description: C(pass) or C(fail).
  type: str
  returned: always
results:
  description: The answer of each step, by its id or verb.
  type: dict
  returned: always
error:
  description: What failed, why, and what to type next; null after a pass.
  type: dict
  returned: always
"""
