"""Where the fleet's Prometheus is, and what it is told to scrape."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plugins.action import bluegreen_inputs
from plugins.filter.bluegreen_monitoring import place, prometheus_url, scrape_groups
from tests.unit.plugins import test_settings as settings
from tests.unit.plugins.test_action import HostVars


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        ({}, ""),
        ({"mon1": {"ansible_host": "192.0.2.41"}}, "http://192.0.2.41:9090"),
        ({"mon1.example.org": {}}, "http://mon1.example.org:9090"),
        (
            {"mon2": {"ansible_host": "192.0.2.42"}, "mon1": {"ansible_host": "2001:db8::1"}},
            "http://[2001:db8::1]:9090",
        ),
        ({"mon1": {"ansible_host": "192.0.2.41", "monitoring_port": 9191}}, "http://192.0.2.41:9191"),
    ],
)
def test_kpis_are_asked_of_the_first_host_of_the_group(hosts: dict[str, Any], url: str) -> None:
    assert prometheus_url(list(hosts), hosts) == url


def test_an_address_is_written_with_its_port() -> None:
    assert (place("127.0.0.1", 9090), place("::1", "9090")) == ("127.0.0.1:9090", "[::1]:9090")


def test_what_is_scraped_carries_its_application() -> None:
    short = {"job": "orders", "targets": ["192.0.2.11:8000"]}
    whole = {
        "job": "db",
        "targets": ["192.0.2.31:9187"],
        "path": "/m",
        "scheme": "https",
        "labels": {"app": "x", "n": 1},
    }
    assert scrape_groups([short, whole], "shop") == [
        {
            "targets": ["192.0.2.11:8000"],
            "labels": {"app": "shop", "job": "orders", "__metrics_path__": "/metrics", "__scheme__": "http"},
        },
        {
            "targets": ["192.0.2.31:9187"],
            "labels": {"app": "x", "n": "1", "job": "db", "__metrics_path__": "/m", "__scheme__": "https"},
        },
    ]


def test_a_deploy_asks_the_host_of_the_group_unless_an_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = bluegreen_inputs.ActionModule.__new__(bluegreen_inputs.ActionModule)
    plugin._task = SimpleNamespace(args={}, check_mode=False)
    found: list[str] = []
    monkeypatch.setattr(
        plugin, "_deploy", lambda _, settings, app: found.append(settings["judge_prometheus_url"]) or {}
    )
    for own in ("", "http://192.0.2.7:9090"):
        web = settings.GOOD | {"judge_kpis": [settings.KPI], "judge_prometheus_url": own}
        hostvars = HostVars({"web1": web, "mon1": {"ansible_host": "192.0.2.41"}})
        plugin._inputs("deploy", {"groups": {"app_servers": ["web1"], "monitoring": ["mon1"]}, "hostvars": hostvars})
    assert found == ["http://192.0.2.41:9090", "http://192.0.2.7:9090"]
