#!/usr/bin/python
"""Documentation of the action plugin `bluegreen_kpis`; it runs on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: bluegreen_kpis
short_description: Ask for the KPIs of a round
description:
  - Asks the Prometheus of C(judge_prometheus_url) for each of C(judge_kpis), all at once, for at most 2 seconds.
  - Runs on the controller, on the turn of one host of each round (the filter C(bluegreen_asks)).
  - It does not ask when the hosts go back anyway.
  - The task never fails. A KPI that is not known is data like one that is.
options:
  phase:
    description: C(canary) or C(watch).
    type: str
    required: true
  ttl:
    description: Seconds until the hosts go back by themselves; answers are awaited for a quarter of it at most.
    type: int
    required: true
author: the bluegreen authors
"""

EXAMPLES = r"""
- name: Ask for the KPIs
  bluegreen_kpis:
    phase: canary
    ttl: 60
  when: hostvars | bluegreen_asks('canary', inventory_hostname, ansible_play_hosts)
  register: __canary_kpis
"""

RETURN = r"""
asked:
  description: The KPIs of all rounds so far, as JSON.
  type: str
  returned: always
"""
