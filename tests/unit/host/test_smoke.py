"""Smoke checks: what is refused, what is chosen, what passes, and what never shows."""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bluegreen import smoke, web
from bluegreen.errors import BluegreenError, Code
from bluegreen.smoke import Target
from bluegreen.web import STAMP, NoAnswer, Response, Visitor, Where

RELEASE = "a" * 12 + "-" + "b" * 8
PASSWORD = 'p4ss-w"ord\\é'


def checks(*items: dict[str, Any]) -> list[smoke.Check]:
    return smoke.parse_checks([{"name": f"check {number}", **item} for number, item in enumerate(items)])


# data in


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ("home", "app_smoke[0] needs a name"),
        ({"path": "/"}, "app_smoke[0] needs a name"),
        ({"name": 5}, "app_smoke[0] needs a name"),
        ({"name": "home", "url": "/"}, "app_smoke (home) has an unknown key url: known: name, path"),
        ({"name": "home", "path": 5}, "path has the wrong type: it is int"),
        ({"name": "home", "path": "home"}, "path must begin with /, it is 'home'"),
        ({"name": "home", "path": "/é"}, "path must be written as in a URL"),
        ({"name": "home", "path": "/a\nb"}, "path must be written as in a URL"),
        ({"name": "home", "method": 1}, "method has the wrong type"),
        ({"name": "home", "headers": []}, "headers has the wrong type"),
        ({"name": "home", "headers": {"X": 1}}, "the header X must be a text"),
        ({"name": "home", "headers": {"X": f"{PASSWORD}\r\n"}}, "the header X must be a text of printable ASCII"),
        ({"name": "home", "body": 5}, "body has the wrong type"),
        ({"name": "home", "form": "x"}, "form has the wrong type"),
        ({"name": "home", "form": {"csrf": True}}, "form needs fields"),
        ({"name": "home", "session": "begin"}, "session is start or use, not 'begin'"),
        ({"name": "home", "command": "x"}, "session must be start"),
        ({"name": "home", "once": "yes"}, "once has the wrong type"),
        ({"name": "home", "expect": "200"}, "expect has the wrong type"),
        ({"name": "home", "expect": ["200"]}, "expect must be one or several statuses"),
        ({"name": "home", "expect": True}, "expect has the wrong type"),
        ({"name": "home", "contains": [5]}, "contains must be one or several texts"),
        ({"name": "home", "json": []}, "json has the wrong type"),
        ({"name": "home", "assets": 1}, "assets has the wrong type"),
        ({"name": "home", "on_live": None}, "on_live has the wrong type"),
        ({"name": "home", "timeout": "5"}, "timeout has the wrong type"),
        ({"name": "home", "timeout": True}, "timeout has the wrong type"),
    ],
)
def test_a_wrong_key_is_named(item: Any, words: str) -> None:
    with pytest.raises(BluegreenError) as caught:
        smoke.parse_checks([item])
    assert caught.value.code is Code.BAD_INPUT
    assert words in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_other_shapes() -> None:
    with pytest.raises(BluegreenError, match="must be a list"):
        smoke.parse_checks({"name": "home"})
    with pytest.raises(BluegreenError, match="one sign-in per deploy"):
        checks({"session": "start"}, {"session": "start"})


def test_short_forms_are_spelled_out() -> None:
    home, form, body, told = checks(
        {"contains": "x", "expect": 204},
        {"form": {"fields": {}}},
        {"body": {"a": 1}, "headers": {"X": "y"}},
        {"method": "put", "body": "raw"},
    )
    assert (home.method, home.contains, home.expected) == ("GET", ["x"], [204])
    assert (form.method, form.expected) == ("POST", [302, 303])
    assert (body.method, json.loads(body.body)) == ("POST", {"a": 1})
    assert body.headers == {"Content-Type": "application/json", "X": "y"}
    assert (told.method, told.body) == ("PUT", "raw")


CHOICE = [
    {"name": "home", "path": "/"},
    {"name": "order", "method": "POST", "session": "use", "once": True},
    {"name": "account", "session": "use"},
    {"name": "sign in", "form": {"fields": {}}, "session": "start"},
    {"name": "new page", "on_live": False},
    {"name": "search", "form": {"fields": {}, "csrf": False}},
]


@pytest.mark.parametrize(
    ("target", "first", "session", "chosen"),
    [
        ("idle", True, False, ["sign in", "home", "order", "account", "new page", "search"]),
        ("idle", True, True, ["home", "order", "account", "new page", "search"]),
        ("idle", False, True, ["home", "account", "new page", "search"]),
        ("idle", False, False, ["home", "new page", "search"]),
        ("live", True, True, ["home", "account", "search"]),
        ("live", True, False, ["sign in", "home", "account", "search"]),
        ("live", False, True, ["home", "account", "search"]),
        ("live", False, False, ["home", "search"]),
        ("front", True, True, ["home", "account", "new page"]),
        ("front", True, False, ["home", "new page"]),
        ("front", False, True, ["home", "account", "new page"]),
    ],
)
def test_select(target: str, first: bool, session: bool, chosen: list[str]) -> None:
    found, left_out = smoke.select(smoke.parse_checks(CHOICE), target, first, session)
    assert [check.name for check in found] == chosen
    assert sorted(chosen + left_out) == sorted(str(item["name"]) for item in CHOICE)


# verdict out


def judged(item: dict[str, Any], status: int = 200, body: str = "hello", stamp: str = RELEASE, **headers: str) -> str:
    found = [(STAMP, stamp), *headers.items()] if stamp else list(headers.items())
    return smoke.judge(checks(item)[0], Response(status, found, body.encode()), RELEASE)


@pytest.mark.parametrize(
    ("item", "answer", "problem"),
    [
        ({}, {}, ""),
        ({}, {"stamp": "c" * 12}, f"answered by {'c' * 12}, not by {RELEASE}"),
        ({}, {"stamp": ""}, f"answered by something that is not a release, not by {RELEASE}"),
        ({}, {"status": 500}, "status 500, expected 200"),
        ({}, {"status": 302, "Location": "/in/"}, "status 302 to /in/, expected 200"),
        ({"expect": [200, 204]}, {"status": 404}, "status 404, expected 200 or 204"),
        ({"contains": ["hello", "world"]}, {}, "the answer does not contain 'world'"),
        ({"json": {"ok": True}}, {}, "the answer is not JSON"),
        ({"json": {"ok": True}}, {"body": "[]"}, "the answer is not an object"),
        ({"json": {"ok": True}}, {"body": '{"ok": true, "more": 1}'}, ""),
        ({"json": {"db": {"ok": True}}}, {"body": '{"db": {}}'}, "db.ok is missing"),
        ({"json": {"db": {"ok": True}}}, {"body": '{"db": {"ok": false}}'}, "db.ok is False, expected True"),
        ({"json": {"db": {"ok": True}}}, {"body": '{"db": 1}'}, "db is not an object"),
        ({"json": {"n": [1]}}, {"body": '{"n": [1, 2]}'}, "n is [1, 2], expected [1]"),
    ],
)
def test_judge(item: dict[str, Any], answer: dict[str, Any], problem: str) -> None:
    assert judged(item, **answer) == problem


# against a server


class Site:
    """A small application: pages, a sign-in with CSRF protection, and switches to make it fail."""

    def __init__(self, tools: Any, directory: Path):
        self.path = directory / "site.sock"
        self.server = tools.Server(self.path, self.handle)
        self.pages: dict[str, list[Any]] = {}
        self.static = directory / "static"
        (self.static / "css").mkdir(parents=True)
        (self.static / "css/app.1.css").touch()

    def handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Any:
        if answers := self.pages.get(path):
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return answer(method, headers, body) if callable(answer) else answer
        if path == "/in/":
            return self.sign_in(method, headers, body)
        if path == "/account/":
            signed_in = "sessionid=s3cret-session" in headers.get("cookie", "")
            return (200, self.stamp, b"yours") if signed_in else (302, [*self.stamp, ("Location", "/in/")], b"")
        return 200, self.stamp, b"hello"

    stamp: ClassVar = [(STAMP, RELEASE)]

    def sign_in(self, method: str, headers: dict[str, str], body: bytes) -> Any:
        if method == "GET":
            form = b'<form><input name="csrfmiddlewaretoken" value="t0ken"></form>'
            return 200, [*self.stamp, ("Set-Cookie", "csrftoken=c00kie; Path=/")], form
        fields = dict(urllib.parse.parse_qsl(body.decode()))
        good = (
            fields.get("csrfmiddlewaretoken") == "t0ken"
            and "csrftoken=c00kie" in headers.get("cookie", "")
            and headers.get("referer") == "https://orders.example.org/in/"
            and headers.get("host") == "orders.example.org"
            and headers.get("x-forwarded-proto") == "https"
        )
        if not good:
            return 403, self.stamp, b"CSRF"
        if fields.get("password") != PASSWORD:
            return 200, self.stamp, f"wrong password {fields.get('password')}".encode()
        cookies = [("Set-Cookie", "sessionid=s3cret-session; HttpOnly; Path=/"), ("Set-Cookie", "a/b=odd")]
        return 302, [*self.stamp, *cookies, ("Location", "/")], b""

    @property
    def target(self) -> Target:
        visitor = Visitor("orders.example.org", https=True)
        return Target(Where(str(self.path)), visitor, RELEASE, "/static/", str(self.static))

    def run(self, *items: dict[str, Any], timeout: float = 2, session: dict[str, str] | None = None) -> dict[str, Any]:
        return smoke.run(checks(*items), self.target, session, timeout)

    def asked(self, path: str) -> list[str]:
        return [method for method, where, _, _ in self.server.seen if where == path]


@pytest.fixture
def site(tools: Any, short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(smoke, "PAUSE", 0.01)
    made = Site(tools, short_path)
    yield made
    made.server.close()


SIGN_IN = {
    "name": "sign in",
    "path": "/in/",
    "session": "start",
    "form": {"fields": {"username": "smoke", "password": PASSWORD}},
}


def test_one_sign_in_is_shared(site: Site) -> None:
    answer = site.run(SIGN_IN, {"path": "/account/", "session": "use", "contains": "yours"}, {"path": "/"})
    assert answer["verdict"] == "pass", answer
    assert answer["session"]["sessionid"] == "s3cret-session"
    assert site.asked("/in/") == ["GET", "POST"]
    assert "cookie" not in site.server.seen[-1][2], "a check without a session is a stranger"
    again = site.run({"path": "/account/", "session": "use"}, session=answer["session"])
    assert again["verdict"] == "pass"


def test_without_a_session_the_page_asks_to_sign_in(site: Site) -> None:
    answer = site.run({"path": "/account/", "session": "use"})
    assert answer["checks"][0]["problem"] == "status 302 to /in/, expected 200"


def test_a_failed_sign_in_is_one_attempt_and_ends_the_run(site: Site) -> None:
    wrong = {**SIGN_IN, "form": {"fields": {"username": "smoke", "password": "wrong"}}}
    answer = site.run(wrong, {"path": "/account/", "session": "use"})
    assert [check["name"] for check in answer["checks"]] == ["sign in"]
    assert answer["checks"][0]["problem"] == "status 200, expected 302 or 303"
    assert site.asked("/in/") == ["GET", "POST"]


def test_a_sign_in_must_give_a_session(site: Site) -> None:
    site.pages["/in/"] = [lambda method, *_: (200 if method == "GET" else 302, site.stamp, b"")]
    form = {**SIGN_IN, "form": {"fields": {"a": "b"}, "csrf": False}}
    assert site.run(form)["checks"][0]["problem"] == "the sign-in set no session cookie"
    assert site.run(SIGN_IN)["checks"][0]["problem"] == "the form's page has no CSRF token"
    site.pages["/in/"] = [(404, site.stamp, b"")]
    assert site.run(SIGN_IN)["checks"][0]["problem"] == "the form's page answers 404, expected 200"


@pytest.mark.parametrize("bad", [(503, [(STAMP, RELEASE)], b""), (500, [(STAMP, RELEASE)], b""), None])
def test_a_get_is_asked_again(site: Site, bad: Any) -> None:
    site.pages["/"] = [bad, bad, (200, site.stamp, b"hello")]
    answer = site.run({"path": "/"})
    assert (answer["verdict"], answer["checks"][0]["tries"]) == ("pass", 3)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, None])
def test_a_post_that_was_sent_is_never_sent_again(site: Site, status: int | None) -> None:
    site.pages["/order/"] = [(status, site.stamp, b"") if status else None]
    answer = site.run({"path": "/order/", "method": "POST"})
    assert answer["verdict"] == "fail"
    assert site.asked("/order/") == ["POST"]


def test_a_post_that_was_not_sent_is(site: Site) -> None:
    site.server.close()
    started = time.monotonic()
    answer = site.run({"path": "/order/", "method": "POST"}, timeout=0.1)
    assert answer["checks"][0]["tries"] > 1
    assert "no answer: " in answer["checks"][0]["problem"]
    assert time.monotonic() - started < 5


def test_the_deadline_ends_it(site: Site) -> None:
    site.pages["/"] = [(503, site.stamp, b"")]
    answer = site.run({"path": "/"}, timeout=0.1)
    assert answer["checks"][0]["problem"] == "status 503, expected 200"


def test_an_answer_that_is_cut_off_is_no_answer(site: Site) -> None:
    site.pages["/"] = [(200, [*site.stamp, ("Content-Length", "100")], b"half")]
    with pytest.raises(NoAnswer, match="IncompleteRead") as caught:
        web.request(site.target.where, site.target.visitor, "GET", "/")
    assert caught.value.refused is False
    site.pages["/"] = [(200, [*site.stamp, ("Content-Length", "x")], b"half")]
    web.request(site.target.where, site.target.visitor, "GET", "/")


def test_assets(site: Site) -> None:
    def page(*links: str) -> dict[str, Any]:
        site.pages["/"] = [(200, site.stamp, "".join(f'<script src="{link}"></script>' for link in links).encode())]
        return site.run({"path": "/", "assets": True})["checks"][0]

    assert page("/static/css/app.1.css", "https://cdn.example/x.js", "//cdn.example/y.js")["ok"]
    assert page("/static/css/none.css")["problem"] == "/static/css/none.css is not among the release's static files"
    assert page()["problem"] == "the page names no assets"
    site.pages["/dynamic.js"] = [(404, site.stamp, b"")]
    assert page("/dynamic.js?v=1")["problem"] == "/dynamic.js answers 404"


def test_read_page() -> None:
    text = (
        '<link rel="stylesheet" href="/a.css"><link rel="canonical" href="/no"><img src="/b.png"><img>'
        '<input name="csrfmiddlewaretoken" value="one"><input name="csrfmiddlewaretoken" value="two">'
        '<script src="c.js">'
    )
    assert smoke.read_page(text) == (["/a.css", "/b.png"], "one")
    assert smoke.read_page("<<<not html &&& <img src=/x") == ([], "")


def test_another_release_that_goes_on_answering_is_refused_early(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke, "WRONG", 0.1)
    begun = time.monotonic()
    other = dataclasses.replace(site.target, release="another")
    assert "not by another" in smoke.identity(other, 1, 30)
    assert 0.1 <= time.monotonic() - begun < 5
    # one that does not answer yet is waited for
    site.pages["/"] = [(503, [], b"")]
    begun = time.monotonic()
    assert "status 503" in smoke.identity(site.target, 1, 0.5)
    assert time.monotonic() - begun >= 0.5


def test_identity_and_warm(site: Site) -> None:
    assert smoke.identity(site.target, 3, 1) == ""
    assert len(site.server.seen) == 3
    site.pages["/"] = [(502, [], b"")]
    assert "status 502 without a stamp" in smoke.identity(site.target, 1, 0.05)
    site.server.close()
    assert "no answer" in smoke.identity(site.target, 1, 0.05)
    assert smoke.warm(site.target, [{"path": "/"}], 2) == 0


def test_warm_asks_each_so_many_times(site: Site) -> None:
    assert smoke.warm(site.target, [{"path": "/"}, {"path": "/in/"}], 4) == 8
    assert len(site.asked("/in/")) == 4


# what never shows


@pytest.mark.parametrize("secret", [PASSWORD, "true", "path", "name", "1234", "fail", "pass", "problem"])
def test_redaction_hides_texts_and_nothing_else(secret: str) -> None:
    results = {
        "verdict": "fail",
        "checks": [
            {"name": "x", "path": "/path", "ok": True, "problem": "", "tries": 1, "ms": 1234},
            {"name": "y", "path": "/", "ok": False, "problem": f"got {secret!r} and {secret}", "tries": 1, "ms": 5},
        ],
    }
    clean = smoke.redact(results, [secret, "abc"])
    assert clean["checks"][0] == results["checks"][0]
    assert clean["checks"][1]["problem"] == "got '********' and ********"
    assert clean["verdict"] == "fail"


def test_no_secret_of_a_check_shows_through_the_verb(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = ["t0p-header", "t0p-field", "t0p-body", "t0p-session"]
    wanted = [
        {
            "name": "in",
            "path": "/in/",
            "session": "start",
            "form": {"fields": {"password": "t0p-field"}, "csrf": False},
        },
        {
            "name": "api",
            "path": "/api/",
            "session": "use",
            "headers": {"Authorization": "Bearer t0p-header"},
            "body": {"deep": [{"key": "t0p-body"}]},
            "json": {"said": ""},
        },
    ]
    name = host.release(1, smoke=wanted)
    host.do("start", release=name, alive=0)
    host.pages["/in/"] = (302, [("Set-Cookie", "sessionid=t0p-session")], b"")
    host.pages["/api/"] = lambda method, headers, body, held: (
        200, [], json.dumps({"said": f"{headers} {body.decode()}"}).encode()
    )  # fmt: skip
    answer, status = host.batch({"verb": "smoke", "id": "idle smoke", "release": name})
    assert status == Code.CHECK_FAILED
    text = json.dumps(answer) + capsys.readouterr().err
    assert "said is " in text
    assert [secret for secret in secrets if secret in text] == []
    assert answer["results"]["idle smoke"]["verdict"] == "fail"


def test_the_verb_says_what_was_proven(host: Any) -> None:
    name = host.deploy(1, 1, smoke=CHOICE[:1])
    answer = host.do("smoke", target="front", release=name)
    assert (answer["verdict"], answer["proven"], answer["colour"]) == ("pass", False, "blue")
    assert host.do("smoke", target="live")["release"] == name
    other = host.release(2)
    with pytest.raises(BluegreenError, match="is in neither colour"):
        host.do("smoke", release=other)
    host.do("start", release=other, alive=0)
    host.system.web("green").release = name  # the socket answers, but as another release
    with pytest.raises(BluegreenError, match="the check identity") as caught:
        host.do("smoke", release=other, timeout=0.05)
    assert caught.value.details["verdict"] == "fail"


def test_a_release_is_not_blamed_for_what_the_one_before_answers_after_its_switch_was_undone(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = host.deploy(1, 1), host.release(2)
    host.do("start", release=new, alive=0)
    host.do("route", release=new, share=100, ttl=60)
    asked = smoke.identity

    def while_the_timer_fires(target: smoke.Target, times: int, timeout: float) -> str:
        host.do("revert")
        return asked(target, times, 0.05)

    monkeypatch.setattr(smoke, "identity", while_the_timer_fires)
    with pytest.raises(BluegreenError, match="was undone here") as caught:
        host.do("smoke", target="front", release=new)
    assert caught.value.code is Code.REFUSED
    assert host.live() == old


def test_a_session_by_command(host: Any) -> None:
    wanted = [
        {"name": "in", "session": "start", "command": "smoke_session --user smoke"},
        {"name": "account", "path": "/account/", "session": "use"},
    ]
    name = host.release(1, smoke=wanted)
    host.do("start", release=name, alive=0)
    host.pages["/account/"] = lambda method, headers, body, held: (
        200 if headers.get("cookie") == "sessionid=abc=" else 403, [], b""
    )  # fmt: skip
    host.system.jobs.append(lambda words: (0, "made\nsessionid=abc=\n", ""))
    answer = host.do("smoke", release=name)
    assert answer["session"] == {"sessionid": "abc="}
    assert answer["proven"]
    host.system.jobs[:] = [lambda words: (1, "", "no such user")]
    with pytest.raises(BluegreenError, match="the command smoke_session makes no session"):
        host.do("smoke", release=name)
