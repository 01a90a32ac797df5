"""The fleet's answers out of Ansible's variables: the only place that knows where they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plugins.module_utils.bluegreen_fleet import ASKED, PARTS, PHASES, Fleet, build
from plugins.module_utils.bluegreen_inputs import plain

INPUTS = "__inputs_result"
NAMES = frozenset(f"__{phase}_{part}" for phase in PHASES for part in PARTS) | frozenset(ASKED.values())


def raw(hostvars: Any, host: str) -> Mapping[str, Any]:
    """A host's variables as they are: registered answers hold no templates, so none is worked out."""
    if host not in hostvars:
        return {}
    found = hostvars.raw_get(host) if hasattr(hostvars, "raw_get") else hostvars[host]
    return found if isinstance(found, Mapping) else {}


def read_inputs(hostvars: Any) -> dict[str, Any]:
    """What the first play found out about this run; empty if it did not run."""
    found = raw(hostvars, "localhost").get(INPUTS)
    return dict(plain(found)) if isinstance(found, Mapping) else {}


def read_fleet(hostvars: Any, hosts: Sequence[str]) -> Fleet:
    """The fleet so far."""
    inputs = read_inputs(hostvars)
    order = inputs.get("hosts") or [str(host) for host in hosts]
    variables = {
        host: {name: plain(value) for name, value in raw(hostvars, host).items() if name in NAMES} for host in order
    }
    return build(inputs, order, variables)
