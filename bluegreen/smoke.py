"""Smoke checks: data in, verdict out. Runs without privileges (see privileges.py).

A check is `{name, path, method, headers, body, form: {fields, csrf}, session, once, expect, contains, json, assets,
on_live, timeout}`. `parse_checks` refuses what it does not know; `judge` decides from an answer alone.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bluegreen.errors import bad_input
from bluegreen.web import STAMP, NoAnswer, Response, Visitor, Where, request

TRANSIENT = (429, 502, 503, 504)
ATTEMPTS = 3
PAUSE = 0.2
WRONG = 3.0  # seconds another release may answer: longer, and it is not the old process on its way out
NOT_YET = 10.0  # seconds that JSON may still say something else: workers of a colour that was idle are just starting


@dataclasses.dataclass(frozen=True)
class Check:
    """One smoke check; the fields are the keys of app_smoke."""

    name: str
    path: str = "/"
    method: str = "GET"
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: str = ""
    form: dict[str, Any] = dataclasses.field(default_factory=dict)
    session: str = ""
    command: str = ""
    once: bool = False
    expect: list[int] = dataclasses.field(default_factory=list)
    contains: list[str] = dataclasses.field(default_factory=list)
    json: dict[str, Any] = dataclasses.field(default_factory=dict)
    assets: bool = False
    on_live: bool = True
    timeout: int = 10

    @property
    def expected(self) -> list[int]:
        """The statuses that pass: a form ends in a redirect, everything else in 200, unless told otherwise."""
        return self.expect or ([302, 303] if self.form else [200])


TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "path": str,
    "method": str,
    "headers": dict,
    "body": (str, dict, list),
    "form": dict,
    "session": str,
    "command": str,
    "once": bool,
    "expect": (int, list),
    "contains": (str, list),
    "json": dict,
    "assets": bool,
    "on_live": bool,
    "timeout": int,
}


def parse_checks(raw: Any) -> list[Check]:
    """The checks of app_smoke. Raises BluegreenError that names the check, the key and what would be right."""
    if not isinstance(raw, list):
        raise bad_input("app_smoke must be a list of checks", "for example: [{name: home, path: /}]")
    found = [parse_check(item, f"app_smoke[{number}]") for number, item in enumerate(raw)]
    if sum(check.session == "start" for check in found) > 1:
        raise bad_input("app_smoke: one sign-in per deploy", "more than one check has session: start")
    return found


def parse_check(item: Any, where: str) -> Check:
    """One check, its short forms spelled out."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise bad_input(f"{where} needs a name", "for example: {name: home, path: /}")
    where = f"app_smoke ({item['name']})"
    for key, value in item.items():
        if key not in TYPES:
            raise bad_input(f"{where} has an unknown key {key}", f"known: {', '.join(TYPES)}")
        wanted = TYPES[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
            raise bad_input(f"{where}: {key} has the wrong type", f"it is {type(value).__name__}")
    problem = contradiction(item)
    if problem:
        raise bad_input(f"{where}: {problem}")
    values = dict(item)
    for key in ("expect", "contains"):
        if key in values and not isinstance(values[key], list):
            values[key] = [values[key]]
    if isinstance(values.get("body"), (dict, list)):
        values["body"] = json.dumps(values["body"])
        values["headers"] = {"Content-Type": "application/json", **values.get("headers", {})}
    default = "POST" if values.get("form") or values.get("body") else "GET"
    values["method"] = str(values.get("method", default)).upper()
    return Check(**values)


def contradiction(item: dict[str, Any]) -> str:
    """What is wrong with a check whose keys and types are right; an empty text if nothing."""
    if not str(item.get("path", "/")).startswith("/"):
        return f"path must begin with /, it is {item['path']!r}"
    if item.get("session", "") not in ("", "start", "use"):
        return f"session is start or use, not {item['session']!r}"
    if "command" in item and item.get("session") != "start":
        return "command makes a session, so session must be start"
    for key, kind, words in (("expect", int, "statuses"), ("contains", str, "texts")):
        values = item[key] if isinstance(item.get(key), list) else []
        if not all(type(value) is kind for value in values):
            return f"{key} must be one or several {words}"  # the values may be secret
    if not str(item.get("path", "/")).isascii() or not str(item.get("path", "/")).isprintable():
        return f"path must be written as in a URL, it is {item['path']!r}"
    for name, value in item.get("headers", {}).items():
        if not isinstance(value, str) or not (name.isascii() and value.isascii() and value.isprintable()):
            return f"the header {name} must be a text of printable ASCII characters"
    if item.get("form") and not isinstance(item["form"].get("fields"), dict):
        return "form needs fields, for example: {fields: {username: smoke, password: …}, csrf: true}"
    return ""


def order(checks: Sequence[Check]) -> list[Check]:
    """The sign-in first, because others use its session; the rest as written."""
    return sorted(checks, key=lambda check: check.session != "start")


def select(checks: Sequence[Check], target: str, first: bool, has_session: bool) -> tuple[list[Check], list[str]]:
    """The checks to run on a target, and the names of those left out.

    `first` is the host that signs in and does the `once` checks; the others use its session. Through the front only
    what a visitor may repeat without harm is asked.
    """
    signs_in = first and not has_session and target != "front" and any(check.session == "start" for check in checks)

    def wanted(check: Check) -> bool:
        if check.session == "start":
            return signs_in
        if check.session == "use" and not (has_session or signs_in):
            return False
        if check.once and not (first and target == "idle"):
            return False
        if target == "front":
            return check.method == "GET" and not check.form
        return check.on_live or target != "live"

    ordered = order(checks)
    return [check for check in ordered if wanted(check)], [check.name for check in ordered if not wanted(check)]


def judge(check: Check, answer: Response, release: str) -> str:
    """What is wrong with an answer; an empty text if nothing is."""
    stamp = answer.header(STAMP)
    if stamp != release:
        return f"answered by {stamp or 'something that is not a release'}, not by {release}"
    if answer.status not in check.expected:
        where = f" to {answer.header('Location')}" if answer.header("Location") else ""
        return f"status {answer.status}{where}, expected {' or '.join(map(str, check.expected))}"
    for text in check.contains:
        if text not in answer.text:
            return f"the answer does not contain {text!r}"
    if check.json:
        try:
            value = json.loads(answer.body)
        except ValueError:
            return "the answer is not JSON"
        return compare(check.json, value, "")
    return ""


def compare(wanted: Any, found: Any, path: str) -> str:
    """The first place where `found` lacks what `wanted` asks for; an empty text if nowhere."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return f"{path or 'the answer'} is not an object"
        for key, value in wanted.items():
            here = f"{path}.{key}" if path else str(key)
            if key not in found:
                return f"{here} is missing"
            if problem := compare(value, found[key], here):
                return problem
        return ""
    return "" if wanted == found else f"{path} is {found!r}, expected {wanted!r}"


def read_page(text: str) -> tuple[list[str], str]:
    """The paths of a page's own assets, and its CSRF token."""
    from html.parser import HTMLParser  # slow to import
    from urllib.parse import urlsplit

    links: list[str] = []
    tokens: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            values = {name: value or "" for name, value in attrs}
            if tag == "link" and {"stylesheet", "icon", "modulepreload", "preload"} & set(
                values.get("rel", "").split()
            ):
                links.append(values.get("href", ""))
            elif tag in ("script", "img", "source"):
                links.append(values.get("src", ""))
            elif tag == "input" and values.get("name") == "csrfmiddlewaretoken":
                tokens.append(values.get("value", ""))

    Reader().feed(text)
    urls = [urlsplit(link) for link in links]
    paths = [url.path for url in urls if url.path.startswith("/") and not url.netloc]
    return list(dict.fromkeys(paths)), (tokens or [""])[0]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a run of checks talks to."""

    where: Where
    visitor: Visitor
    release: str
    static_url: str = "/static/"
    static_root: str = ""  # where nginx finds this release's files; empty: ask over HTTP


def run_check(check: Check, target: Target, cookies: dict[str, str]) -> str:
    """Do one check once. Returns what is wrong. Raises NoAnswer."""

    def ask(method: str, path: str, headers: dict[str, str], body: bytes | None) -> Response:
        return request(target.where, target.visitor, method, path, headers, body, cookies, check.timeout)

    from urllib.parse import urlencode  # slow to import

    headers, body = dict(check.headers), check.body.encode() or None
    if check.form:
        fields = {name: str(value) for name, value in check.form["fields"].items()}
        if check.form.get("csrf", True):
            page = ask("GET", check.path, check.headers, None)
            if page.status != 200:
                return f"the form's page answers {page.status}, expected 200"
            token = read_page(page.text)[1] or cookies.get("csrftoken", "")
            if not token:
                return "the form's page has no CSRF token"
            fields["csrfmiddlewaretoken"] = token
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = urlencode(fields).encode()
    before = set(cookies)
    answer = ask(check.method, check.path, headers, body)
    problem = judge(check, answer, target.release)
    if not problem and check.session == "start" and not set(cookies) - before - {"csrftoken"}:
        problem = "the sign-in set no session cookie"
    if not problem and check.assets:
        problem = check_assets(read_page(answer.text)[0], target, check.timeout)
    return problem


def check_assets(paths: Sequence[str], target: Target, timeout: float) -> str:
    """Whether every asset of a page is there. Behind nginx they are files; through the front they are asked for."""
    from urllib.parse import unquote  # slow to import

    if not paths:
        return "the page names no assets"
    for path in paths:
        if path.startswith(target.static_url) and target.static_root:
            if not Path(target.static_root, unquote(path.removeprefix(target.static_url))).is_file():
                return f"{path} is not among the release's static files"
            continue
        status = request(target.where, target.visitor, "GET", path, timeout=timeout).status
        if status != 200:
            return f"{path} answers {status}"
    return ""


def attempt(
    check: Check, target: Target, cookies: dict[str, str], deadline: float, clock: Callable[[], float] = time.monotonic
) -> dict[str, Any]:
    """Do a check until it passes, fails for good, or the deadline (on `clock`, seconds) is reached."""
    started = clock()
    tries = 0
    repeatable = check.method in ("GET", "HEAD")
    while True:
        tries += 1
        jar = dict(cookies)
        transient = False
        try:
            problem = run_check(check, target, jar)
            transient = repeatable and any(problem.startswith(f"status {status}") for status in TRANSIENT)
            if check.json and not problem.startswith(("status", "answered by")):
                transient = repeatable and clock() - started < NOT_YET
        except NoAnswer as failure:
            problem = f"no answer: {failure}"
            # a POST that was sent may have worked
            transient = repeatable or failure.refused
        if not problem:
            cookies.clear()
            cookies.update(jar)
            break
        if clock() + PAUSE >= deadline or not (transient or (repeatable and tries < ATTEMPTS)):
            break
        time.sleep(PAUSE)
    return {
        "name": check.name,
        "path": check.path,
        "ok": not problem,
        "problem": problem,
        "tries": tries,
        "ms": round((clock() - started) * 1000),
    }


def run(checks: Sequence[Check], target: Target, session: dict[str, str] | None, timeout: float) -> dict[str, Any]:
    """Do all checks; stop at the first that fails, because the later ones may rest on it.

    Returns {verdict, checks, session}; the session is secret.
    """
    cookies = dict(session or {})
    deadline = time.monotonic() + timeout
    done = []
    for check in checks:
        use = cookies if check.session else {}
        result = attempt(check, target, use, deadline)
        done.append(result)
        if not result["ok"]:
            break
    failed = [result for result in done if not result["ok"]]
    return {"verdict": "fail" if failed else "pass", "checks": done, "session": cookies or None}


def identity(target: Target, times: int, timeout: float) -> str:
    """Ask `times` times as a new visitor who answers. Returns what is wrong.

    Waits up to `timeout` seconds for an answer, and no longer than WRONG while another release answers.
    """
    deadline = time.monotonic() + timeout
    asked, wrong_since = 0, 0.0
    while asked < times:
        try:
            answer = request(target.where, target.visitor, "GET", "/", timeout=10)
            stamp = answer.header(STAMP)
            wrong_since = (wrong_since or time.monotonic()) if stamp and stamp != target.release else 0.0
            problem = (
                ""
                if stamp == target.release
                else f"answered by {stamp or f'status {answer.status} without a stamp'}, not by {target.release}"
            )
        except NoAnswer as failure:
            problem = f"no answer: {failure}"
            wrong_since = 0.0
        if problem:
            if time.monotonic() >= (min(deadline, wrong_since + WRONG) if wrong_since else deadline):
                return problem
            time.sleep(PAUSE)
            continue
        asked += 1
    return ""


def warm(target: Target, requests: Sequence[dict[str, Any]], times: int) -> int:
    """Send each warm-up request `times` times from a few threads. Returns how many were answered."""
    from concurrent.futures import ThreadPoolExecutor

    def one(item: dict[str, Any]) -> bool:
        try:
            request(target.where, target.visitor, "GET", str(item.get("path", "/")), item.get("headers"), timeout=30)
            return True
        except NoAnswer:
            return False

    with ThreadPoolExecutor(max_workers=8) as pool:
        return sum(pool.map(one, [item for item in requests for _ in range(times)]))


def redact(results: dict[str, Any], secrets: Sequence[str]) -> dict[str, Any]:
    """Replace secret texts in what is shown of each check: an application may echo what it was sent."""
    texts = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def clean(text: str) -> str:
        for secret in texts:
            # also as `repr` shows it inside a problem
            text = text.replace(secret, "********").replace(repr(secret)[1:-1], "********")
        return text

    checks = [{**item, "problem": clean(item["problem"])} for item in results["checks"]]
    return {**results, "checks": checks}


def secret_texts(check: Check) -> list[str]:
    """What a check sends that must never show: form fields, headers (with and without their first word), the body."""
    found = [str(value) for value in (check.form.get("fields") or {}).values()]
    for value in check.headers.values():
        found += [value, value.partition(" ")[2]]
    found.append(check.body)
    try:
        rest = [json.loads(check.body)] if check.body else []
    except ValueError:
        rest = []
    while rest:
        value = rest.pop()
        if isinstance(value, (dict, list)):
            rest += value.values() if isinstance(value, dict) else value
        elif isinstance(value, str):
            found.append(value)
    return found
