"""What is wrong with the settings of one app server, a line for each problem; and where the fleet's register is.

A line says which setting, what would be right and in which file to set it; values that may be secret are never named.
"""

from __future__ import annotations

import ipaddress
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)

from plugins.module_utils import bluegreen_artifacts as artifacts  # noqa: E402
from plugins.module_utils import bluegreen_kpi as figures  # noqa: E402
from plugins.module_utils.bluegreen_inputs import APP_FILE as APP  # noqa: E402
from plugins.module_utils.bluegreen_inputs import APP_NAME, NUMBER, first_line, nearest_share  # noqa: E402

ROLLOUT = "group_vars/all/rollout.yml"
SECRETS = "group_vars/all/secrets.yml"
ENVIRONMENT = "inventories/<environment>/group_vars/app_servers/"

# Accounts and units that belong to Debian or to the toolkit: no application may take their name.
RESERVED = {
    "backup",
    "bin",
    "bluegreen",
    "daemon",
    "deploy",
    "games",
    "getty",
    "lp",
    "mail",
    "man",
    "messagebus",
    "modprobe",
    "mysql",
    "news",
    "nginx",
    "nobody",
    "openvpn",
    "postgres",
    "postgresql",
    "proxy",
    "redis",
    "redis-server",
    "root",
    "serial-getty",
    "ssh",
    "sshd",
    "sync",
    "sys",
    "systemd",
    "user",
    "uucp",
    "www-data",
}

WORDS = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping (name: value)",
    list: "a list",
}

# setting: (type, file, required)
SETTINGS: dict[str, tuple[type, str, bool]] = {
    "app_name": (str, APP, True),
    "app_domain": (str, APP, True),
    "app_settings_module": (str, APP, True),
    "app_wsgi": (str, APP, False),
    "app_asgi": (str, APP, False),
    "app_source": (str, APP, False),
    "app_domain_aliases": (list, APP, False),
    "app_source_dir": (str, APP, False),
    "app_pythonpath": (list, APP, False),
    "app_python": (str, APP, False),
    "app_requirements": (str, APP, False),
    "app_extra_requirements": (list, APP, False),
    "app_build_commands": (list, APP, False),
    "app_build_env": (dict, APP, False),
    "app_system_packages": (list, APP, False),
    "app_env": (dict, APP, False),
    "app_files": (dict, APP, False),
    "app_writable_dirs": (list, APP, False),
    "app_workers": (int, APP, False),
    "app_threads": (int, APP, False),
    "app_request_timeout": (int, APP, False),
    "app_processes": (dict, APP, False),
    "app_warm": (list, APP, False),
    "app_smoke": (list, APP, False),
    "app_static_url": (str, APP, False),
    "app_media_url": (str, APP, False),
    "app_media_dir": (str, APP, False),
    "app_port": (int, APP, False),
    "app_max_body": (str, APP, False),
    "app_tls_certificate": (str, APP, False),
    "app_tls_key": (str, APP, False),
    "app_trusted_proxies": (list, APP, False),
    "app_https": (bool, APP, False),
    "migration_host": (str, APP, False),
    "database_name": (str, APP, False),
    "database_user": (str, APP, False),
    "provision_user": (str, APP, False),
    "deploy_user": (str, APP, False),
    "deploy_authorized_keys": (list, APP, False),
    "releases_keep": (int, ROLLOUT, False),
    "rollout_ttl": (int, ROLLOUT, False),
    "rollout_watch": (int, ROLLOUT, False),
    "rollout_start_timeout": (int, ROLLOUT, False),
    "rollout_smoke_timeout": (int, ROLLOUT, False),
    "rollout_drain_ceiling": (int, ROLLOUT, False),
    "rollout_websocket_patience": (int, ROLLOUT, False),
    "rollout_lease_ttl": (int, ROLLOUT, False),
    "rollout_lease_cap": (int, ROLLOUT, False),
    "rollout_min_free_mb": (int, ROLLOUT, False),
    "rollout_process_settle": (int, ROLLOUT, False),
    "rollout_canary_steps": (list, ROLLOUT, False),
    "rollout_canary_watch": (int, ROLLOUT, False),
    "rollout_max_reverts": (int, ROLLOUT, False),
    "rollout_report_dir": (str, ROLLOUT, False),
    "migrations_databases": (dict, ROLLOUT, False),
    "migrations_lock_timeout": (float, ROLLOUT, False),
    "migrations_statement_timeout": (int, ROLLOUT, False),
    "migrations_patience": (int, ROLLOUT, False),
    "migrations_snapshots_keep": (int, ROLLOUT, False),
    "migrations_snapshot_recipient": (str, ROLLOUT, False),
    "migrations_shadow": (bool, ROLLOUT, False),
    "judge_groups": (list, ROLLOUT, False),
    "judge_max_error_share": (float, ROLLOUT, False),
    "judge_max_p95": (float, ROLLOUT, False),
    "judge_error_budget": (float, ROLLOUT, False),
    "judge_min_requests": (int, ROLLOUT, False),
    "judge_latency_factor": (float, ROLLOUT, False),
    "judge_inconclusive": (str, ROLLOUT, False),
    "judge_kpis": (list, ROLLOUT, False),
    "judge_prometheus_url": (str, ROLLOUT, False),
    "monitoring_targets": (list, ROLLOUT, False),
    "judge_prometheus_token": (str, SECRETS, False),
    "artifact_store": (str, ROLLOUT, False),
    "artifact_fetch": (str, ROLLOUT, False),
    "artifact_timeout": (int, ROLLOUT, False),
    "artifact_max_mb": (int, ROLLOUT, False),
    "artifact_signers": (str, ROLLOUT, False),
    "artifact_revoked": (str, ROLLOUT, False),
    "artifact_require_signature": (bool, ROLLOUT, False),
    "artifact_token": (str, SECRETS, False),
    "app_secrets": (dict, SECRETS, False),
    "app_secrets_revoked": (list, SECRETS, False),
    "database_password": (str, SECRETS, False),
    "cache_password": (str, SECRETS, False),
    "bluegreen_database_password": (str, SECRETS, False),
    "bluegreen_database_url": (str, SECRETS, False),
}
LISTS_OF_STRINGS = {
    "app_domain_aliases",
    "app_pythonpath",
    "app_extra_requirements",
    "app_build_commands",
    "app_system_packages",
    "app_writable_dirs",
    "app_secrets_revoked",
    "app_trusted_proxies",
    "deploy_authorized_keys",
}
LEAST = {
    "app_workers": 1,
    "app_threads": 1,
    "app_request_timeout": 1,
    "app_port": 1,
    "releases_keep": 2,
    "rollout_ttl": 1,
    "rollout_start_timeout": 1,
    "rollout_smoke_timeout": 1,
    "rollout_lease_ttl": 1,
    "rollout_lease_cap": 1,
    "rollout_canary_watch": 5,
    "judge_min_requests": 1,
    "migrations_statement_timeout": 1,
    "migrations_patience": 1,
    "migrations_snapshots_keep": 1,
    "artifact_timeout": 1,
    "artifact_max_mb": 1,
}

HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
ENTRY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PROCESS = re.compile(r"[a-z][a-z0-9_]*")
KPI = re.compile(r"[a-z][a-z0-9_]{0,40}")
SOURCE = re.compile(
    r"https?://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:(?P<port>[0-9]{1,5}))?(/[A-Za-z0-9._~/-]*)?"
)
TOKEN = re.compile(r"[!-~]*")
MOST_KPIS = 20
TARGET = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")
TARGET_KEYS = ("job", "targets", "path", "scheme", "labels")
LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")  # two underscores at the beginning are Prometheus's own
RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
SIZE = re.compile(r"[0-9]+[kKmMgG]?")
LOCAL_URL = re.compile(r"/([A-Za-z0-9._~-]+/)+")
ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
PUBLIC_KEY = re.compile(r"(^|\s)(ssh-(ed25519|rsa|dss)|ecdsa-sha2-nistp\d+|sk-[\w@.-]+) +[A-Za-z0-9+/=]{40,}")
URL = re.compile(
    r"postgres(?:ql)?://(?P<user>[^:@/?#]+):(?P<password>[^:@/?#]+)@(?P<places>[^@/?#]+)/(?P<database>[^@/?#]+)"
    r"(?:\?(?P<options>[^?#]*))?"
)
PLACE = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>[0-9]{1,5}))?")
OPTIONS = ("sslmode", "sslrootcert", "target_session_attrs")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
PROCESS_KEYS: dict[str, type] = {
    "command": str,
    "count": int,
    "singleton": bool,
    "stop_timeout": int,
    "stop_first": bool,
    "schedule": str,
}


def is_of(value: object, kind: type) -> bool:
    """Whether a value is of a type; a number that came by `-e name=4` is a string of digits."""
    if kind is int:
        return (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, str) and re.fullmatch(r"[0-9]+", value) is not None
        )
    if kind is float:
        return (isinstance(value, (int, float)) and not isinstance(value, bool)) or (
            isinstance(value, str) and re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) is not None
        )
    if kind is bool:
        return isinstance(value, bool) or value in ("true", "false", "True", "False")
    if kind is list:
        return isinstance(value, (list, tuple))
    return isinstance(value, Mapping if kind is dict else kind)


def inside(path: object) -> bool:
    """Whether a path stays below the directory it is relative to."""
    return isinstance(path, str) and path not in ("", "/") and not path.startswith("/") and ".." not in path.split("/")


def settings_problems(values: Mapping[str, Any], groups: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with the settings of one app server, most basic first.

    values: the variables of the host; groups: the inventory's groups and their hosts.
    """
    known: dict[str, Any] = {}
    problems: list[str] = []
    for name, (kind, file, required) in SETTINGS.items():
        try:
            present, value = name in values, values.get(name)
            look_through(value)
        except Exception as problem:  # noqa: BLE001  Ansible's template errors have no common public type
            problems.append(f"{name} cannot be computed: {first_line(problem)}: correct it in {file} or {ENVIRONMENT}")
            continue
        if not present or value is None or (required and value == ""):
            if required:
                problems.append(f"{name} is not set: set it in {file} or {ENVIRONMENT}")
        elif not is_of(value, kind):
            problems.append(wrong(name, f"must be {WORDS[kind]}, not {describe(value)}"))
        elif name in LISTS_OF_STRINGS and not all(isinstance(item, str) for item in value):
            problems.append(wrong(name, "must be a list of strings"))
        elif kind is float and not math.isfinite(float(value)):
            problems.append(wrong(name, f"must be a finite number, not {value}"))
        elif kind is int and int(value) < LEAST.get(name, 0):
            problems.append(wrong(name, f"must be at least {LEAST.get(name, 0)}, not {value}"))
        else:
            known[name] = value
    for check in CHECKS:
        problems += check(known)
    return [*problems, *group_problems(known, groups)]


def look_through(value: object) -> None:
    """Look at every part of a value: Ansible computes a nested template, and fails, only then."""
    if isinstance(value, Mapping):
        for item in value.values():
            look_through(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            look_through(item)


def wrong(name: str, what: str) -> str:
    """One line on a setting: what is wrong, and where to correct it."""
    return f"{name} {what}: correct it in {SETTINGS[name][1]} or {ENVIRONMENT}"


def describe(value: object) -> str:
    """A value's type in words; never the value, it may be secret."""
    for kind, words in (
        (bool, WORDS[bool]),
        (str, WORDS[str]),
        (int, WORDS[int]),
        (float, WORDS[float]),
        (Mapping, WORDS[dict]),
        (list, "a list"),
    ):
        if isinstance(value, kind):
            return words
    return f"a {type(value).__name__}"


def check_name(known: Mapping[str, Any]) -> Iterator[str]:
    """app_name: units, users and directories are named after it."""
    name = known.get("app_name")
    if name is None:
        return
    if not APP_NAME.fullmatch(name):
        yield wrong(
            "app_name", f"is {name!r}; it must be a small letter, then up to 30 small letters, digits or dashes"
        )
    elif name.endswith(("-blue", "-green")):
        yield wrong("app_name", f"is {name!r}; it must not end in -blue or -green (units of colours are named so)")
    elif name.endswith("-bluegreen"):
        yield wrong("app_name", f"is {name!r}; it must not end in -bluegreen (registers of fleets are named so)")
    elif name in RESERVED or name == known.get("deploy_user"):
        yield wrong("app_name", f"is {name!r}, which is taken on every host; choose another name")


def check_entry(known: Mapping[str, Any]) -> Iterator[str]:
    """What gunicorn imports: one of app_wsgi and app_asgi, and the settings."""
    given = [name for name in ("app_wsgi", "app_asgi") if known.get(name)]
    if len(given) != 1:
        what = "are both set" if given else "are both unset"
        yield f"app_wsgi and app_asgi {what}: set exactly one of them in {APP} or {ENVIRONMENT}"
    for name in given:
        if not ENTRY.fullmatch(known[name]):
            yield wrong(name, f"is {known[name]!r}; it must look like package.module:application")
    module = known.get("app_settings_module")
    if module is not None and not MODULE.fullmatch(module):
        yield wrong("app_settings_module", f"is {module!r}; it must look like package.settings")


def check_names_of_hosts(known: Mapping[str, Any]) -> Iterator[str]:
    """The names and addresses under which visitors and proxies come."""
    names = [("app_domain", known.get("app_domain"))]
    names += [("app_domain_aliases", alias) for alias in known.get("app_domain_aliases", [])]
    for setting, name in names:
        if name is not None and not HOST_NAME.fullmatch(name) and not is_address(name):
            yield wrong(setting, f"has {name!r}; a host name has no scheme, port, path or spaces (orders.example.org)")
    for proxy in known.get("app_trusted_proxies", []):
        try:
            ipaddress.ip_network(proxy, strict=False)
        except ValueError:
            yield wrong("app_trusted_proxies", f"has {proxy!r}; it must be an address or a network (192.0.2.0/24)")


def check_python(known: Mapping[str, Any]) -> Iterator[str]:
    """app_python: one that a supported Debian ships."""
    if known.get("app_python") not in (None, "3.11", "3.13"):
        yield wrong("app_python", f'is {known["app_python"]!r}; it must be "3.13" (Debian 13) or "3.11" (Debian 12)')


def check_paths(known: Mapping[str, Any]) -> Iterator[str]:
    """Paths, URLs and what else nginx is given."""
    single = [(name, known[name]) for name in ("app_source_dir", "app_requirements", "app_media_dir") if name in known]
    several = [(name, path) for name in ("app_pythonpath", "app_writable_dirs") for path in known.get(name, [])]
    for name, path in [*single, *several, *(("app_files", path) for path in known.get("app_files", {}))]:
        if not inside(path):
            yield wrong(name, f"has {path!r}; it must be a relative path that does not leave its directory")
    for name in ("app_static_url", "app_media_url"):
        url = known.get(name, "")
        if url and not LOCAL_URL.fullmatch(url) and not re.match(r"https?://", url):
            yield wrong(name, f"is {url!r}; it must begin and end with a slash, such as /static/")
    if known.get("app_static_url") and known.get("app_static_url") == known.get("app_media_url"):
        yield wrong("app_media_url", "must differ from app_static_url")
    if "app_max_body" in known and not SIZE.fullmatch(known["app_max_body"]):
        yield wrong(
            "app_max_body", f"is {known['app_max_body']!r}; it must be a size in nginx's notation, such as 100m"
        )
    if int(known.get("app_port", 80)) > 65535:
        yield wrong("app_port", f"is {known['app_port']}; the last port is 65535")


def check_recipient(known: Mapping[str, Any]) -> Iterator[str]:
    key = known.get("migrations_snapshot_recipient", "")
    if key and not RECIPIENT.fullmatch(key):
        # not shown: it may be the private one
        yield wrong(
            "migrations_snapshot_recipient", "is not a public key of age: age-keygen -y key.txt prints it (age1…)"
        )


def check_tls(known: Mapping[str, Any]) -> Iterator[str]:
    """A certificate and its key: both or neither."""
    pair = {name: known.get(name, "") for name in ("app_tls_certificate", "app_tls_key")}
    given = [name for name, path in pair.items() if path]
    if len(given) == 1:
        missing = next(name for name in pair if name not in given)
        yield f"{given[0]} is set and {missing} is not: set both or neither in {APP} or {ENVIRONMENT}"
    for name in given:
        if not pair[name].startswith("/"):
            yield wrong(
                name, f"is {pair[name]!r}; it must be the absolute path of a PEM file on the host that ends TLS"
            )


def check_environment(known: Mapping[str, Any]) -> Iterator[str]:
    """What the application finds in its environment, and its files."""
    for setting in ("app_env", "app_build_env", "app_secrets"):
        for name, value in known.get(setting, {}).items():
            if not isinstance(name, str) or not VARIABLE.fullmatch(name):
                yield wrong(setting, f"has the name {name!r}; a name has letters, digits and underscores")
            elif setting == "app_secrets":
                yield from check_secret(name, value)
            elif isinstance(value, (Mapping, list, tuple)) or value is None:
                yield wrong(setting, f"{name} must be a string")
    for name in known.get("app_secrets_revoked", []):
        if name not in known.get("app_secrets", {}):
            yield wrong("app_secrets_revoked", f"has {name!r}, which is not in app_secrets: what would replace it?")
    for name, content in known.get("app_files", {}).items():
        if not isinstance(content, str):
            yield wrong("app_files", f"{name} must be the file's content as a string")


def check_secret(name: str, value: object) -> Iterator[str]:
    """One of app_secrets; its value is never shown."""
    given = value
    if isinstance(value, Mapping):
        given = value.get("value")
        if not isinstance(given, str) or value.get("as", "file") != "file" or set(value) - {"value", "as"}:
            yield wrong("app_secrets", f"{name} must be a string, or {{value: …, as: file}}")
            return
    if given is None or isinstance(given, (list, tuple)):
        yield wrong("app_secrets", f"{name} must be a string")
    elif given == "":
        yield wrong("app_secrets", f"{name} is empty, and an empty secret is a missing one: set it or leave it out")


def check_processes(known: Mapping[str, Any]) -> Iterator[str]:
    """Background processes: their names, and that each has a command."""
    for name, process in known.get("app_processes", {}).items():
        if not isinstance(name, str) or not PROCESS.fullmatch(name):
            yield wrong(
                "app_processes", f"has the name {name!r}; it must be a small letter, then letters, digits, underscores"
            )
        elif (
            not isinstance(process, Mapping)
            or not isinstance(process.get("command"), str)
            or not process["command"].strip()
        ):
            yield wrong("app_processes", f"{name} needs a command: {name}: {{command: …}}")
        else:
            yield from check_process(name, process)


def check_process(name: str, process: Mapping[str, Any]) -> Iterator[str]:
    """The keys of one background process."""
    for key, value in process.items():
        if key not in PROCESS_KEYS:
            yield wrong("app_processes", f"{name} has an unknown key {key!r}; known are {', '.join(PROCESS_KEYS)}")
        elif not is_of(value, PROCESS_KEYS[key]):
            yield wrong("app_processes", f"{name}.{key} must be {WORDS[PROCESS_KEYS[key]]}, not {describe(value)}")
        elif key == "count" and int(value) < 1:
            yield wrong("app_processes", f"{name}.count must be at least 1")
    if process.get("singleton") is True and process.get("count") not in (None, 1, "1"):
        yield wrong("app_processes", f"{name} is a singleton and has a count; a singleton runs once")


def check_checks(known: Mapping[str, Any]) -> Iterator[str]:
    """Requests for warming and smoke; the host tool knows the rest of their keys."""
    for setting in ("app_warm", "app_smoke"):
        for number, check in enumerate(known.get(setting, []), 1):
            if not isinstance(check, Mapping) or not str(check.get("path", "")).startswith("/"):
                yield wrong(setting, f"entry {number} needs a path that begins with a slash: {{path: /}}")


def check_judging(known: Mapping[str, Any]) -> Iterator[str]:
    """Shares of a canary, and the limits that a release is judged by."""
    steps = known.get("rollout_canary_steps", [])
    strange = [step for step in steps if not is_of(step, int) or int(step) != nearest_share(int(step))]
    if strange:
        known_number = NUMBER.fullmatch(str(strange[0]))
        close = f", and the nearest to {strange[0]} is {nearest_share(float(str(strange[0])))}" if known_number else ""
        yield wrong(
            "rollout_canary_steps", f"must have shares of 5 to 95 percent in steps of 5, such as [5, 25]{close}"
        )
    elif [int(step) for step in steps] != sorted({int(step) for step in steps}):
        yield wrong("rollout_canary_steps", "must rise: each step routes more visitors than the last")
    for name in ("judge_max_error_share", "judge_error_budget"):
        if name in known and not 0 < float(known[name]) < 1:
            yield wrong(name, f"is {known[name]}; it must be a share between 0 and 1, such as 0.05 for 5 percent")
    if float(known.get("judge_max_p95", 0)) < 0:
        yield wrong("judge_max_p95", "must be seconds, or 0 for no limit")
    if float(known.get("judge_latency_factor", 2)) <= 1:
        yield wrong("judge_latency_factor", "must be above 1: how many times slower a release may not be")
    if known.get("judge_inconclusive", "revert") not in ("revert", "go_on"):
        yield wrong("judge_inconclusive", f"is {known['judge_inconclusive']!r}; it must be revert or go_on")
    for number, group in enumerate(known.get("judge_groups", []), 1):
        yield from check_group(number, group)


def check_group(number: int, group: object) -> Iterator[str]:
    """One of judge_groups."""
    paths = group.get("paths") if isinstance(group, Mapping) else None
    if (
        not isinstance(group, Mapping)
        or not isinstance(group.get("name"), str)
        or not group["name"]
        or not isinstance(paths, (list, tuple))
        or not all(isinstance(path, str) and path[:1] in ("/", "^") for path in paths)
        or set(group) - {"name", "paths"}
    ):
        example = "{name: shop, paths: [/orders/, '^/p/[0-9]+$']}"
        yield wrong("judge_groups", f"entry {number} must look like {example}")
        return
    for path in paths:
        try:
            re.compile(path)
        except re.error as problem:
            yield wrong("judge_groups", f"entry {number}: {path!r} is not a regular expression ({problem})")


def check_kpis(known: Mapping[str, Any]) -> Iterator[str]:
    """KPIs, and the Prometheus that is asked for them."""
    kpis, url = known.get("judge_kpis", []), known.get("judge_prometheus_url", "")
    found = SOURCE.fullmatch(url)
    if url and (found is None or not 0 < int(found["port"] or 80) < 65536):
        # never the value: a password may stand in it
        yield wrong(
            "judge_prometheus_url",
            "must be an address such as http://192.0.2.41:9090, with no account, query or fragment in it "
            "(judge_prometheus_token is for the secret)",
        )
    if not TOKEN.fullmatch(known.get("judge_prometheus_token", "")):
        yield wrong("judge_prometheus_token", "must not contain blanks, line ends or characters outside of ASCII")
    if len(kpis) > MOST_KPIS:
        yield wrong("judge_kpis", f"has {len(kpis)} entries; {MOST_KPIS} may be")
    names = [kpi.get("name") for kpi in kpis if isinstance(kpi, Mapping)]
    for number, kpi in enumerate(kpis, 1):
        problem = kpi_problem(kpi)
        if not problem and kpi["name"] in names[: number - 1]:
            problem = f"has the name {kpi['name']!r} of another one"
        if problem:
            yield wrong("judge_kpis", f"entry {number} {problem}")


def kpi_problem(kpi: object) -> str:
    """What is wrong with a KPI; empty if nothing is."""
    if not isinstance(kpi, Mapping) or not all(isinstance(kpi.get(key), str) for key in ("name", "query")):
        return "must look like {name: orders_per_minute, query: 'sum(rate(orders_total[1m])) * 60', min: 30}"
    if strange := [str(key) for key in kpi if key not in figures.KEYS]:
        return f"has an unknown key {strange[0]!r}; known are {', '.join(figures.KEYS)}"
    if not KPI.fullmatch(kpi["name"]):
        return f"has the name {kpi['name']!r}; it must be small letters, digits and underscores, 41 at most"
    bounds = {key: kpi[key] for key in ("min", "max") if kpi.get(key) is not None}
    if not bounds:
        return f"({kpi['name']}) needs min or max, or both"
    for key, value in bounds.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return f"({kpi['name']}) has a {key} that is not a number"
    if len(bounds) == 2 and bounds["min"] > bounds["max"]:
        return f"({kpi['name']}) has a min above its max"
    if kpi.get("for", "both") not in figures.PHASES:
        return f"({kpi['name']}) is for {kpi['for']!r}; it must be {', '.join(figures.PHASES)}"
    if not kpi["query"].strip() or not " ".join(kpi["query"].split()).isprintable():
        return f"({kpi['name']}) needs a query in PromQL"
    if unknown := figures.unknown_placeholders(kpi["query"]):
        known = ", ".join(f"${name}" for name in figures.PLACEHOLDERS)
        return f"({kpi['name']}) has ${unknown[0]} in its query; known are {known}"
    return ""


def check_targets(known: Mapping[str, Any]) -> Iterator[str]:
    """What the Prometheus of the group monitoring scrapes."""
    for number, target in enumerate(known.get("monitoring_targets", []), 1):
        if problem := target_problem(target):
            yield wrong("monitoring_targets", f"entry {number} {problem}")


def target_problem(target: object) -> str:
    """What is wrong with something to scrape; empty if nothing is."""
    places = target.get("targets") if isinstance(target, Mapping) else None
    if not isinstance(target, Mapping) or not isinstance(target.get("job"), str) or not target["job"] or not places:
        return 'must look like {job: orders, targets: ["192.0.2.11:8000"], path: /metrics}'
    if strange := [str(key) for key in target if key not in TARGET_KEYS]:
        return f"has an unknown key {strange[0]!r}; known are {', '.join(TARGET_KEYS)}"
    if not isinstance(places, (list, tuple)) or not all(
        isinstance(one, str) and TARGET.fullmatch(one) for one in places
    ):
        return f"({target['job']}) has targets that are not addresses with a port, such as 192.0.2.11:8000"
    if not re.fullmatch(r"/[!-~]*", str(target.get("path", "/"))):
        return f"({target['job']}) has a path that does not begin with a slash"
    if target.get("scheme", "http") not in ("http", "https"):
        return f"({target['job']}) has the scheme {target['scheme']!r}; it must be http or https"
    labels = target.get("labels", {})
    if not isinstance(labels, Mapping) or not all(isinstance(name, str) and LABEL.fullmatch(name) for name in labels):
        return f"({target['job']}) has labels that are not letters, digits and underscores: {{tier: web}}"
    return ""


def check_accounts(known: Mapping[str, Any]) -> Iterator[str]:
    """Who provisions and deploys, and the keys of the second."""
    for name in ("provision_user", "deploy_user"):
        if name in known and not ACCOUNT.fullmatch(known[name]):
            yield wrong(name, f"is {known[name]!r}; it must be the name of an account")
    if known.get("deploy_user") in ("root", "bluegreen"):
        yield wrong("deploy_user", f"must not be {known['deploy_user']}: deploys need no more than one program as root")
    for number, key in enumerate(known.get("deploy_authorized_keys", []), 1):
        if not PUBLIC_KEY.search(key) or len(key.strip().splitlines()) != 1:
            yield wrong("deploy_authorized_keys", f"entry {number} is not a public SSH key (ssh-ed25519 AAAA… name)")


def check_artifacts(known: Mapping[str, Any]) -> Iterator[str]:
    """The store, who fetches from it, and who must have signed."""
    store, web = known.get("artifact_store", ""), artifacts.is_url(known.get("artifact_store", ""))
    if web and (problem := artifacts.url_problem(store)):
        # never the value: a password may stand in it
        yield wrong("artifact_store", problem)
    fetch = known.get("artifact_fetch", "controller")
    if fetch not in ("controller", "host"):
        yield wrong("artifact_fetch", f"is {fetch!r}; it must be controller or host")
    elif fetch == "host" and not web:
        yield wrong("artifact_fetch", "is host; hosts fetch for themselves from an https artifact_store only")
    if not TOKEN.fullmatch(known.get("artifact_token", "")):
        yield wrong("artifact_token", "must not contain blanks, line ends or characters outside of ASCII")
    if str(known.get("artifact_require_signature", False)).lower() == "true" and not known.get("artifact_signers"):
        yield (
            "artifact_require_signature is true and artifact_signers is not set: name the file of those who may sign "
            f"in {ROLLOUT} or {ENVIRONMENT}"
        )


def check_register(known: Mapping[str, Any]) -> Iterator[str]:
    """The register's URL, and that no other database has its name."""
    url = known.get("bluegreen_database_url")
    problem = url_problem(url) if url else ""
    if problem:
        yield wrong(
            "bluegreen_database_url",
            f"{problem}; it must look like postgresql://user:password@192.0.2.31:5432/database?sslmode=require "
            "(special characters percent-encoded; port and sslmode may be left out)",
        )
    for name in ("database_name", "database_user"):
        if "app_name" in known and known.get(name) == register_name(known["app_name"]):
            yield wrong(name, f"is {known[name]!r}, which is the name of the fleet's register; choose another one")


def check_lease(known: Mapping[str, Any]) -> Iterator[str]:
    """Both limits of the lease, which must fit each other."""
    ttl, cap = known.get("rollout_lease_ttl"), known.get("rollout_lease_cap")
    if ttl is not None and cap is not None and int(cap) < int(ttl):
        yield wrong("rollout_lease_cap", f"is {cap}; it must not be less than rollout_lease_ttl ({ttl})")


CHECKS: tuple[Callable[[Mapping[str, Any]], Iterator[str]], ...] = (
    check_name,
    check_entry,
    check_names_of_hosts,
    check_python,
    check_paths,
    check_tls,
    check_recipient,
    check_environment,
    check_processes,
    check_checks,
    check_judging,
    check_kpis,
    check_targets,
    check_accounts,
    check_artifacts,
    check_register,
    check_lease,
)


def group_problems(known: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit between the settings and the inventory's groups."""
    servers = list(groups.get("app_servers", []))
    host = known.get("migration_host")
    if host and host not in servers:
        yield wrong(
            "migration_host", f"is {host!r}, which is not in app_servers; choose one of {', '.join(sorted(servers))}"
        )
    for group, name in (("databases", "database_password"), ("caches", "cache_password")):
        if groups.get(group) and not known.get(name):
            yield f"{name} is not set, and the inventory has {group}: set it in {SECRETS} or {ENVIRONMENT}"
    if known.get("judge_kpis") and not known.get("judge_prometheus_url") and not groups.get("monitoring"):
        yield (
            "judge_kpis is set, and there is neither judge_prometheus_url nor a host in the group monitoring: "
            f"set it in {ROLLOUT} or {ENVIRONMENT}"
        )
    yield from register_problems(known, groups)
    for name in ("database_password", "cache_password", "bluegreen_database_password"):
        if re.search(r"\s", known.get(name, "")) or not known.get(name, "").isprintable():
            yield wrong(name, "must not contain blanks, line ends or control characters")
    shared = sorted(set(servers) & set(groups.get("load_balancers", [])))
    if shared and int(known.get("app_port", 80)) == 80:
        yield (
            f"{', '.join(shared)} is an app server and a load balancer, and both would listen on port 80: "
            f"take it out of load_balancers, or set another app_port in {APP}"
        )


def register_problems(known: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[str]:
    """What several app servers lack to share a register."""
    servers = len(groups.get("app_servers", []))
    if servers < 2 or known.get("bluegreen_database_url"):
        return
    if not groups.get("databases"):
        yield (
            f"{servers} app servers need a PostgreSQL database in which they agree on a release, and there is neither "
            f"a group databases nor bluegreen_database_url: set bluegreen_database_url in {SECRETS} or {ENVIRONMENT}"
        )
    elif not known.get("bluegreen_database_password"):
        yield (
            f"bluegreen_database_password is not set, and the inventory has databases and {servers} app servers: "
            f"set it in {SECRETS} or {ENVIRONMENT}"
        )


# --- the register of a fleet ----------------------------------------------------------------------------------------


def url_problem(url: str) -> str:
    """What is wrong with a register's URL, without naming any part of it; "" if nothing is."""
    if not re.fullmatch(r"[!-~]+", url):
        return "has blanks or characters outside of ASCII"
    if not re.match(r"postgres(ql)?://", url):
        return "does not begin with postgresql://"
    parts = URL.fullmatch(url)
    if parts is None:
        return "is not complete, or has special characters that are not percent-encoded"
    if re.search(r"%(?![0-9A-Fa-f]{2})", url) or not unquote(url).isprintable():
        return "has a percent sign that encodes nothing of use"
    for place in parts["places"].split(","):
        found = PLACE.fullmatch(place)
        host = found["host"] if found else ""
        known = is_address(host[1:-1]) if host.startswith("[") else HOST_NAME.fullmatch(host)
        if found is None or not known or not 0 < int(found["port"] or 5432) < 65536:
            return "has a wrong address or port"
    for option in parts["options"].split("&") if parts["options"] else []:
        name, _, value = option.partition("=")
        if name not in OPTIONS or not value or (name == "sslmode" and value not in SSL_MODES):
            return f"has an option that is not understood (known: {', '.join(OPTIONS)})"
    return ""


def register_name(app: str) -> str:
    """The name of an application's register: of the database, and of the one role that uses it."""
    return f"{app.replace('-', '_')}_bluegreen"


def register(values: Mapping[str, Any], groups: Mapping[str, Any], hosts: Mapping[str, Any]) -> dict[str, Any]:
    """The register of the fleet that an app server belongs to: {} if it is alone, else what connects to it. Secret.

    values: the variables of the app server; groups and hosts: the inventory's groups and every host's variables.
    `url` is complete, with every part percent-encoded. `owner`: the host on which provisioning makes it, "" if the
    database is somebody else's.
    """
    if len(groups.get("app_servers", [])) < 2:
        return {}
    name, owner = register_name(values["app_name"]), ""
    parts = URL.fullmatch(str(values.get("bluegreen_database_url") or ""))
    if parts:
        user, password, database = (unquote(parts[key]) for key in ("user", "password", "database"))
        places, options = parts["places"].split(","), parts["options"] or ""
    else:
        owner = groups["databases"][0]
        user, password, database = name, str(values["bluegreen_database_password"]), name
        address = str(hosts[owner].get("ansible_host") or owner)
        places, options = [f"[{address}]" if ":" in address else address], ""
    where = ",".join(place if re.search(r":\d+$", place) else f"{place}:5432" for place in places)
    account = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return {
        "url": f"postgresql://{account}@{where}/{quote(database, safe='')}" + (f"?{options}" if options else ""),
        "address": where,
        "user": user,
        "password": password,
        "database": database,
        "owner": owner,
    }


def is_address(text: object) -> bool:
    """Whether a text is an IP address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Their names in templates."""
        return {
            "bluegreen_settings_problems": settings_problems,
            "bluegreen_is_address": is_address,
            "bluegreen_register": register,
        }
