#!/usr/bin/python
"""Documentation of the action plugin `bluegreen_outcome`; it runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bluegreen_outcome
short_description: Say how a run ended
description:
  - Works out the end of a run from all hosts' answers, and fails if it is not what was asked for.
options: {}
author: the bluegreen authors
"""

EXAMPLES = r"""
- name: Say how it ended
  bluegreen_outcome:
"""

RETURN = r"""
outcome:
  description: The end, the release, what served before, notes, and what failed.
  type: dict
  returned: always
"""
