"""The lines that name what is wrong with the settings, and where the register of a fleet is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from bluegreen_settings import register, settings_problems
from hypothesis import given
from hypothesis import strategies as st

GOOD: dict[str, Any] = {
    "app_name": "orders",
    "app_domain": "orders.example.org",
    "app_settings_module": "orders.settings",
    "app_wsgi": "orders.wsgi:application",
    "bluegreen_database_url": "postgresql://agree:hunter2@192.0.2.31/agreed",
}
GROUPS = {"app_servers": ["web1", "web2"]}
KPI: dict[str, Any] = {"name": "orders", "query": 'sum(rate(orders_total{app="$app"}[$window]))', "min": 30}
SOURCE: dict[str, Any] = {"judge_kpis": [KPI], "judge_prometheus_url": "http://192.0.2.41:9090"}
TARGET: dict[str, Any] = {"job": "shop", "targets": ["192.0.2.11:8000", "[2001:db8::1]:80"]}
WHERE = "group_vars/all/secrets.yml or inventories/<environment>/group_vars/app_servers/"


def problems(groups: Mapping[str, list[str]] = GROUPS, **changes: Any) -> list[str]:
    values = {name: value for name, value in {**GOOD, **changes}.items() if value is not Ellipsis}
    return settings_problems(values, groups)


def test_the_shortest_good_settings_have_no_problem() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"app_wsgi": ..., "app_asgi": "orders.asgi:application"},
        {"app_domain": "192.0.2.7", "app_domain_aliases": ["shop.example.org"]},
        {"app_workers": "4"},  # -e app_workers=4
        {"migrations_snapshot_recipient": f"age1{'q' * 58}"},
        {"app_https": "true"},
        {
            "app_processes": {
                "worker": {"command": "celery", "count": 2},
                "beat": {"command": "beat", "singleton": True},
            }
        },
        {"app_secrets": {"SECRET_KEY": "x", "SIGNING": {"value": "y", "as": "file"}}},
        {"app_secrets": {"KEY": "x"}, "app_secrets_revoked": ["KEY"]},
        {"app_tls_certificate": "/etc/ssl/a.pem", "app_tls_key": "/etc/ssl/a.key"},
        {"app_static_url": "https://static.example.org/", "app_media_url": "/media/"},
        {"migration_host": "web2"},
        {"deploy_authorized_keys": ["ssh-ed25519 " + "A" * 68 + " somebody"]},
        {"app_trusted_proxies": ["192.0.2.0/24", "2001:db8::1"]},
        {"bluegreen_database_url": "postgres://a%40b:p%2Fq@[2001:db8::1]:6432/agreed?sslmode=verify-full"},
        {"bluegreen_database_url": "postgresql://a:b@db1,db2:6432/agreed?sslmode=require&target_session_attrs=primary"},
        {"rollout_lease_ttl": 5, "rollout_lease_cap": "5"},
        {"rollout_canary_steps": [5, "25", 95], "rollout_max_reverts": 0},
        {"judge_groups": [{"name": "shop", "paths": ["/orders/", "^/p/[0-9]+$"]}]},
        SOURCE | {"judge_kpis": [KPI, KPI | {"name": "x", "max": 40.5, "for": "watch"}], "judge_prometheus_token": "t"},
        {"judge_prometheus_url": "https://[2001:db8::1]:9090/prefix/"},
        {"monitoring_targets": [TARGET, TARGET | {"path": "/m", "scheme": "https", "labels": {"tier": "web"}}]},
        {"judge_max_p95": 0, "judge_max_error_share": "0.1", "judge_latency_factor": 1.5},
        {"artifact_store": "https://store.example.org:8443/orders", "artifact_fetch": "host", "artifact_token": "t"},
        {"artifact_store": "/srv/artifacts", "artifact_signers": "signers.txt", "artifact_require_signature": True},
        {"artifact_require_signature": False, "artifact_signers": ""},
    ],
)
def test_good_settings(changes: dict[str, Any]) -> None:
    assert problems(**changes) == []


@pytest.mark.parametrize("name", ["app_name", "app_domain", "app_settings_module"])
@pytest.mark.parametrize("value", [..., None, ""])
def test_a_missing_setting_is_named_with_its_file(name: str, value: object) -> None:
    line = f"{name} is not set: set it in group_vars/all/app.yml or inventories/<environment>/group_vars/app_servers/"
    assert problems(**{name: value}) == [line]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"app_name": "Orders"}, "app_name is 'Orders'"),
        ({"artifact_store": "http://store.example.org"}, "artifact_store must be a directory, or an https address"),
        ({"artifact_store": "https://me:secret@store.example.org/"}, "artifact_store must be a directory, or an https"),
        ({"artifact_store": "https://store.example.org/?key=secret"}, "artifact_store must have no query"),
        ({"artifact_fetch": "hosts"}, "artifact_fetch is 'hosts'; it must be controller or host"),
        ({"artifact_fetch": "host"}, "artifact_fetch is host; hosts fetch for themselves from an https artifact_store"),
        ({"artifact_token": "two words"}, "artifact_token must not contain blanks"),
        ({"artifact_require_signature": True}, "artifact_require_signature is true and artifact_signers is not set"),
        ({"artifact_require_signature": "yes"}, "artifact_require_signature must be true or false"),
        ({"artifact_timeout": 0}, "artifact_timeout must be at least 1"),
        ({"app_name": "orders\n"}, "app_name is"),
        ({"app_name": "orders-blue"}, "must not end in -blue"),
        ({"app_name": "postgres"}, "taken on every host"),
        ({"app_name": "orders-bluegreen"}, "must not end in -bluegreen"),
        ({"database_name": "orders_bluegreen"}, "which is the name of the fleet's register"),
        ({"database_user": "orders_bluegreen"}, "which is the name of the fleet's register"),
        ({"rollout_lease_ttl": 0}, "rollout_lease_ttl must be at least 1"),
        ({"rollout_lease_ttl": 120, "rollout_lease_cap": 60}, "must not be less than rollout_lease_ttl (120)"),
        ({"app_name": 7}, "app_name must be a string, not a whole number"),
        ({"app_wsgi": ...}, "app_wsgi and app_asgi are both unset"),
        ({"app_asgi": "a.b:c"}, "app_wsgi and app_asgi are both set"),
        ({"app_wsgi": "orders.wsgi"}, "must look like package.module:application"),
        ({"app_domain": "https://orders.example.org"}, "a host name has no scheme"),
        ({"app_domain_aliases": "www.example.org"}, "app_domain_aliases must be a list, not a string"),
        ({"app_domain_aliases": ["a b"]}, "app_domain_aliases has 'a b'"),
        ({"app_workers": "two"}, "app_workers must be a whole number, not a string"),
        ({"app_workers": True}, "app_workers must be a whole number, not true or false"),
        ({"app_workers": 0}, "app_workers must be at least 1"),
        ({"app_port": 70000}, "the last port"),
        ({"app_python": "3.12"}, 'it must be "3.13" (Debian 13)'),
        ({"app_python": 3.13}, "app_python must be a string"),
        ({"app_env": ["A=1"]}, "app_env must be a mapping"),
        ({"app_env": {"A-B": "1"}}, "has the name 'A-B'"),
        ({"app_env": {"A": {"b": 1}}}, "app_env A must be a string"),
        ({"app_secrets": {"KEY": ""}}, "app_secrets KEY is empty, and an empty secret is a missing one"),
        ({"app_secrets": {"KEY": {"value": "", "as": "file"}}}, "app_secrets KEY is empty"),
        ({"app_secrets_revoked": ["KEY"]}, "app_secrets_revoked has 'KEY', which is not in app_secrets"),
        (
            {"app_secrets": {"KEY": "x"}, "app_secrets_revoked": "KEY"},
            "app_secrets_revoked must be a list, not a string",
        ),
        ({"app_secrets_revoked": [5]}, "app_secrets_revoked must be a list of strings"),
        ({"app_files": {"../x.py": ""}}, "relative path"),
        ({"app_writable_dirs": ["/srv"]}, "relative path"),
        ({"app_static_url": "static"}, "must begin and end with a slash"),
        ({"app_static_url": "/"}, "must begin and end with a slash"),
        ({"migrations_snapshot_recipient": "AGE-SECRET-KEY-1"}, "is not a public key of age: age-keygen -y"),
        ({"app_max_body": "100 MB"}, "nginx's notation"),
        ({"app_tls_certificate": "/etc/a.pem"}, "app_tls_certificate is set and app_tls_key is not"),
        ({"app_tls_key": "/etc/a.key"}, "app_tls_key is set and app_tls_certificate is not"),
        ({"app_tls_key": "a.key", "app_tls_certificate": "/a.pem"}, "absolute path"),
        ({"app_processes": {"My-Worker": {"command": "x"}}}, "has the name 'My-Worker'"),
        ({"app_processes": {"worker": {}}}, "worker needs a command"),
        ({"app_processes": {"worker": {"command": "x", "cuont": 2}}}, "unknown key 'cuont'"),
        ({"app_processes": {"worker": {"command": "x", "count": 0}}}, "count must be at least 1"),
        ({"app_processes": {"beat": {"command": "x", "singleton": True, "count": 2}}}, "a singleton runs once"),
        ({"app_smoke": [{"name": "home"}]}, "entry 1 needs a path"),
        ({"deploy_user": "root"}, "must not be root"),
        ({"deploy_authorized_keys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}, "entry 1 is not a public SSH key"),
        ({"migration_host": "web9"}, "choose one of web1, web2"),
        ({"app_trusted_proxies": ["proxy"]}, "must be an address or a network"),
        (
            {"rollout_canary_steps": [7]},
            "shares of 5 to 95 percent in steps of 5, such as [5, 25], and the nearest to 7 is 5",
        ),
        ({"rollout_canary_steps": ["x"]}, "shares of 5 to 95 percent in steps of 5"),
        ({"rollout_canary_steps": [5, "100"]}, "the nearest to 100 is 95"),
        ({"rollout_canary_steps": [12.6]}, "the nearest to 12.6 is 15"),
        ({"rollout_canary_steps": [-5]}, "the nearest to -5 is 5"),
        ({"rollout_canary_steps": [25, 5]}, "must rise"),
        ({"rollout_canary_steps": 5}, "must be a list, not a whole number"),
        ({"rollout_canary_watch": 4}, "must be at least 5"),
        ({"judge_max_error_share": 5}, "must be a share between 0 and 1"),
        ({"judge_error_budget": "lots"}, "must be a number, not a string"),
        ({"judge_max_p95": -1}, "must be seconds, or 0"),
        ({"judge_max_p95": True}, "must be a number, not true or false"),
        ({"judge_latency_factor": 1}, "must be above 1"),
        ({"judge_latency_factor": math.nan}, "must be a finite number, not nan"),
        ({"judge_latency_factor": math.inf}, "must be a finite number, not inf"),
        ({"judge_max_p95": math.nan}, "must be a finite number, not nan"),
        ({"judge_min_requests": 0.5}, "must be a whole number, not a number"),
        ({"judge_min_requests": 0}, "must be at least 1"),
        ({"judge_inconclusive": "confirm"}, "must be revert or go_on"),
        ({"judge_groups": [{"name": "shop"}]}, "entry 1 must look like"),
        ({"judge_groups": [{"name": "", "paths": ["/"]}]}, "entry 1 must look like"),
        ({"judge_groups": [{"name": "shop", "paths": ["orders"]}]}, "entry 1 must look like"),
        ({"judge_groups": [{"name": "shop", "paths": ["^("]}]}, "is not a regular expression"),
        ({"judge_kpis": [KPI]}, "neither judge_prometheus_url nor a host in the group monitoring: set it"),
        (SOURCE | {"judge_prometheus_url": "192.0.2.41:9090"}, "must be an address such as http://192.0.2.41:9090"),
        (SOURCE | {"judge_prometheus_url": "http://me:hunter2@p/"}, "with no account"),
        (SOURCE | {"judge_prometheus_url": "http://p:99999"}, "must be an address"),
        (SOURCE | {"judge_prometheus_url": "http://p/?a=b"}, "must be an address"),
        (SOURCE | {"judge_prometheus_token": "hunter2\n"}, "must not contain blanks, line ends"),
        (SOURCE | {"judge_kpis": KPI}, "must be a list, not a mapping"),
        (SOURCE | {"judge_kpis": ["up"]}, "entry 1 must look like {name: orders_per_minute"),
        (SOURCE | {"judge_kpis": [KPI, KPI]}, "entry 2 has the name 'orders' of another one"),
        (SOURCE | {"judge_kpis": [KPI | {"name": "Orders/min"}]}, "entry 1 has the name 'Orders/min'"),
        (SOURCE | {"judge_kpis": [KPI | {"min": None}]}, "entry 1 (orders) needs min or max, or both"),
        (SOURCE | {"judge_kpis": [KPI | {"min": "30"}]}, "entry 1 (orders) has a min that is not a number"),
        (SOURCE | {"judge_kpis": [KPI | {"min": True}]}, "entry 1 (orders) has a min that is not a number"),
        (SOURCE | {"judge_kpis": [KPI | {"max": float("nan")}]}, "entry 1 (orders) has a max that is not a number"),
        (SOURCE | {"judge_kpis": [KPI | {"max": 3}]}, "has a min above its max"),
        (SOURCE | {"judge_kpis": [KPI | {"for": "smoke"}]}, "is for 'smoke'; it must be canary, watch, both"),
        (SOURCE | {"judge_kpis": [KPI | {"query": " "}]}, "needs a query in PromQL"),
        (SOURCE | {"judge_kpis": [KPI | {"query": "x[$range]"}]}, "has $range in its query; known are $app, $sha"),
        (SOURCE | {"judge_kpis": [KPI | {"minimum": 3}]}, "has an unknown key 'minimum'"),
        ({"monitoring_targets": TARGET}, "must be a list, not a mapping"),
        ({"monitoring_targets": ["192.0.2.11:8000"]}, "entry 1 must look like {job: orders"),
        ({"monitoring_targets": [TARGET, {"job": "db"}]}, "entry 2 must look like {job: orders"),
        ({"monitoring_targets": [TARGET | {"targets": ["192.0.2.11"]}]}, "(shop) has targets that are not addresses"),
        ({"monitoring_targets": [TARGET | {"targets": "192.0.2.11:80"}]}, "(shop) has targets that are not addresses"),
        ({"monitoring_targets": [TARGET | {"port": 80}]}, "entry 1 has an unknown key 'port'; known are job, targets"),
        ({"monitoring_targets": [TARGET | {"path": "metrics"}]}, "has a path that does not begin with a slash"),
        ({"monitoring_targets": [TARGET | {"scheme": "ftp"}]}, "has the scheme 'ftp'"),
        ({"monitoring_targets": [TARGET | {"labels": {"__address__": "x"}}]}, "has labels that are not letters"),
    ],
)
def test_a_wrong_setting_is_one_line(changes: dict[str, Any], part: str) -> None:
    found = problems(**changes)
    assert len(found) == 1
    assert part in found[0]
    assert found[0].isprintable()
    assert "hunter2" not in found[0]


@pytest.mark.parametrize(("group", "name"), [("databases", "database_password"), ("caches", "cache_password")])
def test_a_group_needs_its_password(group: str, name: str) -> None:
    groups = {**GROUPS, group: ["db1"]}
    assert problems(groups) == [f"{name} is not set, and the inventory has {group}: set it in {WHERE}"]
    assert problems(groups, **{name: "secret"}) == []


def test_several_app_servers_need_a_place_to_agree() -> None:
    line = "2 app servers need a PostgreSQL database in which they agree on a release, and there is neither "
    line += f"a group databases nor bluegreen_database_url: set bluegreen_database_url in {WHERE}"
    assert problems(bluegreen_database_url="") == [line]
    assert problems({"app_servers": ["web1"]}, bluegreen_database_url=...) == []


def test_the_register_on_our_own_database_host_needs_a_password() -> None:
    groups = {**GROUPS, "databases": ["db1"]}
    settings: dict[str, Any] = {"database_password": "x", "bluegreen_database_url": ...}
    line = "bluegreen_database_password is not set, and the inventory has databases and 2 app servers"
    assert problems(groups, **settings) == [f"{line}: set it in {WHERE}"]
    assert problems(groups, **settings, bluegreen_database_password="y") == []
    assert problems({**groups, "app_servers": ["web1"]}, **settings) == []
    assert "must not contain blanks" in problems(groups, **settings, bluegreen_database_password="x y")[0]


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("mysql://a:hunter2@192.0.2.31/agreed", "does not begin with postgresql://"),
        ("192.0.2.31", "does not begin with postgresql://"),
        ("postgresql://192.0.2.31/agreed", "is not complete"),
        ("postgresql://hunter2@192.0.2.31/agreed", "is not complete"),
        ("postgresql://a:hunter2@/agreed", "is not complete"),
        ("postgresql://a:hunter2@192.0.2.31", "is not complete"),
        ("postgresql://a:hunter2@192.0.2.31/", "is not complete"),
        ("postgresql://a:hunter2@192.0.2.31/agreed/more", "is not complete"),
        ("postgresql://a:hunter2@192.0.2.31/agreed#more", "is not complete"),
        ("postgresql://a:hunt/er2@192.0.2.31/agreed", "is not complete"),
        ("postgresql://a:hunter2@192.0.2.31:x/agreed", "has a wrong address or port"),
        ("postgresql://a:hunter2@192.0.2.31:0/agreed", "has a wrong address or port"),
        ("postgresql://a:hunter2@192.0.2.31:70000/agreed", "has a wrong address or port"),
        ("postgresql://a:hunter2@db1,,db2/agreed", "has a wrong address or port"),
        ("postgresql://a:hunter2@[2001:db8/agreed", "has a wrong address or port"),
        ("postgresql://a:hunter 2@192.0.2.31/agreed", "has blanks or characters outside of ASCII"),
        ("postgresql://a:hünter2@192.0.2.31/agreed", "has blanks or characters outside of ASCII"),
        ("postgresql://a:hunter2@192.0.2.31/agreed\n", "has blanks or characters outside of ASCII"),
        ("postgresql://a:100%hunter2@192.0.2.31/agreed", "has a percent sign that encodes nothing"),
        ("postgresql://a:hunter2%0A@192.0.2.31/agreed", "has a percent sign that encodes nothing"),
        ("postgresql://a:hunter2@192.0.2.31/agreed?options=-c", "has an option that is not understood"),
        ("postgresql://a:hunter2@192.0.2.31/agreed?sslmode=never", "has an option that is not understood"),
    ],
)
def test_a_wrong_url_of_the_register_is_one_line_without_its_secret(url: str, part: str) -> None:
    found = problems(bluegreen_database_url=url)
    assert len(found) == 1
    assert found[0].startswith(f"bluegreen_database_url {part}")
    assert WHERE in found[0]
    assert found[0].isprintable()
    assert "hunter" not in found[0]


@given(st.text() | st.from_regex(r"postgres(ql)?://[!-~]{1,4}:[!-~]{1,4}@[!-~]{1,9}/[!-~]{1,9}", fullmatch=True))
def test_any_url_of_the_register_is_refused_in_a_line_or_can_be_used(url: str) -> None:
    found = problems(bluegreen_database_url=url)
    assert len(found) <= 1
    if url and not found:
        parts = urlsplit(register(GOOD | {"bluegreen_database_url": url}, GROUPS, {})["url"])
        assert parts.scheme == "postgresql"
        assert parts.username
        assert parts.password
        assert parts.netloc.rpartition("@")[2].rpartition(":")[2].isdigit()
        assert len(parts.path) > 1


@given(st.text(st.characters(min_codepoint=33, exclude_categories=["C", "Z"]), min_size=1))
def test_the_register_on_our_own_database_host(password: str) -> None:
    values = {"app_name": "my-orders", "bluegreen_database_password": password}
    groups = {**GROUPS, "databases": ["db1", "db2"]}
    found = register(values, groups, {"db1": {"ansible_host": "2001:db8::31"}, "db2": {}})
    parts = urlsplit(found.pop("url"))
    assert found == {
        "address": "[2001:db8::31]:5432",
        "user": "my_orders_bluegreen",
        "password": password,
        "database": "my_orders_bluegreen",
        "owner": "db1",
    }
    assert (parts.hostname, parts.port, parts.username) == ("2001:db8::31", 5432, "my_orders_bluegreen")
    assert unquote(parts.password or "") == password
    assert parts.path == "/my_orders_bluegreen"
    assert parts.query == ""


def test_the_register_elsewhere_wins_and_one_app_server_has_none() -> None:
    url = "postgres://agree:p%2Fq@db.example.org/agreed?sslmode=require"
    values = {"app_name": "orders", "bluegreen_database_url": url, "bluegreen_database_password": "x"}
    groups = {**GROUPS, "databases": ["db1"]}
    found = register(values, groups, {"db1": {}})
    assert found["url"] == "postgresql://agree:p%2Fq@db.example.org:5432/agreed?sslmode=require"
    assert (found["owner"], found["password"], found["address"]) == ("", "p/q", "db.example.org:5432")
    assert register(values, {**groups, "app_servers": ["web1"]}, {}) == {}
    values["bluegreen_database_url"] = "postgresql://a:b@db1,db2:6432/agreed?target_session_attrs=read-write"
    assert register(values, groups, {})["address"] == "db1:5432,db2:6432"


def test_one_port_for_two_servers_is_refused() -> None:
    groups = {**GROUPS, "load_balancers": ["web1"]}
    assert "web1 is an app server and a load balancer" in problems(groups)[0]
    assert problems(groups, app_port=8080) == []


def test_no_secret_is_shown() -> None:
    found = problems(
        app_secrets={"KEY": ["hunter2"], "FILE": {"value": 5, "as": "hunter2"}}, database_password=["hunter2"]
    )
    assert len(found) == 3
    assert "hunter2" not in " ".join(found)


def test_a_value_that_cannot_be_computed_is_named() -> None:
    class Values(Mapping[str, Any]):
        def __getitem__(self, name: str) -> object:
            if name == "app_env":
                raise RuntimeError("'vault_x' is undefined.\nmore")
            return GOOD[name]

        def __iter__(self) -> Iterator[str]:
            return iter([*GOOD, "app_env"])

        def __len__(self) -> int:
            return len(GOOD) + 1

    line = "app_env cannot be computed: 'vault_x' is undefined: correct it in group_vars/all/app.yml"
    assert settings_problems(Values(), GROUPS)[0].startswith(line)


@given(
    st.dictionaries(
        st.sampled_from(sorted({*GOOD, "app_env", "app_processes", "app_port", "app_smoke"})),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda some: st.lists(some) | st.dictionaries(st.text(), some),
        ),
    )
)
def test_anything_gives_lines_and_no_exception(values: dict[str, Any]) -> None:
    assert all(isinstance(line, str) and line for line in settings_problems(values, GROUPS))


def test_a_host_that_monitors_is_where_kpis_are_asked() -> None:
    assert problems(GROUPS | {"monitoring": ["mon1"]}, judge_kpis=[KPI]) == []
