"""Where the fleet's Prometheus is, and what it scrapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

PORT = 9090


def place(address: str, port: object) -> str:
    """An address with its port: `192.0.2.41:9090`, `[2001:db8::1]:9090`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def prometheus_url(names: Sequence[str], hosts: Mapping[str, Any]) -> str:
    """The Prometheus of the group `monitoring`, on its first host by name; empty without one."""
    if not names:
        return ""
    first = min(names)
    values = hosts[first]
    return f"http://{place(str(values.get('ansible_host') or first), values.get('monitoring_port') or PORT)}"


def scrape_groups(targets: Sequence[Mapping[str, Any]], app: str) -> list[dict[str, Any]]:
    """What an application names, as Prometheus reads it from a file (file_sd_config); `app` is a label of all."""
    return [
        {
            "targets": [str(target) for target in one["targets"]],
            "labels": {
                "app": app,
                **{str(name): str(value) for name, value in (one.get("labels") or {}).items()},
                "job": str(one["job"]),
                "__metrics_path__": str(one.get("path") or "/metrics"),
                "__scheme__": str(one.get("scheme") or "http"),
            },
        }
        for one in targets
    ]


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Their names in templates."""
        return {
            "bluegreen_place": place,
            "bluegreen_scrape_groups": scrape_groups,
        }
