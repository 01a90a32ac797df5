"""Visitors judge a release: a share of them first, then all. The tests are one story.

r4 passes every check that this scenario leaves in, and answers 500 on the page of orders.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from promises import Deployment, Ran, until

from support.example_fleet import release_at

OLD, BROKEN, GOOD = "r2", "r4", "r5"
BROKEN_PAGE = "errors in /orders"  # the group of paths that r4 breaks
# A real series of the Prometheus on cache1: how many samples it found when it last scraped itself. Some hundreds.
SAMPLES = {"name": "samples", "query": 'scrape_samples_scraped{job="prometheus"}'}
TTL = 5  # seconds until a share that nobody watches goes back
SLOW = """\
import time

from shop.settings import *  # noqa: F403
from shop.settings import MIDDLEWARE

MIDDLEWARE = ["slow_settings.slow", *MIDDLEWARE]


def slow(get_response):
    def middleware(request):
        time.sleep(0.4)
        return get_response(request)

    return middleware
"""
# The connection to nginx is cut instead of an answer, on one page: the start page and all checks of the tool go well.
SILENT = """\
import socket

from shop.settings import *  # noqa: F403
from shop.settings import MIDDLEWARE

MIDDLEWARE = ["silent_settings.silent", *MIDDLEWARE]


def silent(get_response):
    def middleware(request):
        if request.path == "/orders/":
            request.META["gunicorn.socket"].shutdown(socket.SHUT_RDWR)
        return get_response(request)

    return middleware
"""
BANNER = "static/orders/banner.svg"  # a file without a hash
QUERIES = {
    "does not parse": ("sum(up", "parse error"),
    "gives several series": ('{__name__=~"up|scrape_samples_scraped"}', "series: aggregate it"),
}


@pytest.fixture(scope="module")
def site(fleet: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The orders without the check that would find r4 out, and with so few requests needed that seconds are enough."""
    checks = [check for check in fleet.settings["app_smoke"] if check["name"] != "order list"]
    return fleet.variant(
        tmp_path_factory.mktemp("canary"),
        app_smoke=checks,
        judge_min_requests=15,
        judge_kpis=[SAMPLES | {"min": 1}],
        rollout_max_reverts=2,
    )


def shares(site: Deployment) -> set[int]:
    """The percentages of visitors that the idle colours get."""
    return {status["share"][status["idle"]["colour"]] for status in site.status().values()}


def during(site: Deployment, share: int, act: Callable[[], Any], **extra: object) -> Ran:
    """Deploy; do something as soon as every host routes that share, which it has to."""
    with ThreadPoolExecutor(1) as pool:
        deploy = pool.submit(site.playbook, "deploy.yml", **extra)
        until(lambda: deploy.done() or shares(site) == {share}, f"every host routes {share} %", 120)
        assert not deploy.done(), f"it should have routed {share} %\n{deploy.result().tail()}"
        act()
        return deploy.result()


def refused(site: Deployment, release: str, *named: str, **extra: object) -> Ran:
    """Deploy what does not please: the fleet serves the release from before, and the reason is told."""
    ran = site.refuse("deploy.yml", sha=site.sha(release), **extra)
    site.expect_live(OLD)
    for word in named:
        assert word in ran.output, f"the output should name {word!r}\n{ran.tail()}"
    return ran


def bad(site: Deployment, release: str) -> bool:
    """Whether every host has marked the release as bad."""
    sha = site.sha(release)
    return all(any(r["sha"] == sha and r["state"] == "bad" for r in s["releases"]) for s in site.status().values())


COOKIES = [f"{number:032x}" for number in range(60)]  # visitors who have been here before


def met(site: Deployment, release: str, **headers: str) -> dict[str, set[str]]:
    """For each door, the visitors who meet this release there."""
    token, sha = site.probe_token(), site.sha(release)[:12]

    def at(url: str) -> set[str]:
        own = [{"Cookie": f"bgid_{site.app}={cookie}", **headers} for cookie in COOKIES]
        answers = (release_at(url, site.domain, token, one) for one in own)
        return {cookie for cookie, answer in zip(COOKIES, answers, strict=True) if answer.startswith(sha)}

    with ThreadPoolExecutor(len(site.urls)) as pool:
        return dict(zip(site.urls, pool.map(at, site.urls), strict=True))


def banner(site: Deployment, url: str, cookie: str) -> str:
    """The file without a hash that a visitor gets at a door."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"/{BANNER}", headers={"Host": site.domain, "Cookie": f"bgid_{site.app}={cookie}"})
        answer = connection.getresponse()
        assert answer.status == 200, f"{url}: {answer.status}"
        return answer.read().decode()


def banner_of(site: Deployment, colour: str) -> str:
    """The same file as the release of a colour has it."""
    return site.on("web1", f"cat /srv/{site.app}/{colour}/{BANNER}")


def test_a_good_release_goes_from_share_to_share_and_loses_no_request(site: Deployment, tmp_path: Path) -> None:
    site.given(OLD)
    tester = json.loads(site.on("web1", f"bluegreen tokens --app {site.app}"))["next"]
    with site.under_load(rate=60), ThreadPoolExecutor(1) as pool:
        extra = {"sha": site.sha(GOOD), "canary": "10,25", "watch": 6, "report": tmp_path}
        deploy = pool.submit(site.playbook, "deploy.yml", **extra)
        until(lambda: deploy.done() or shares(site) == {10}, "every host routes 10 %", 120)
        few = met(site, GOOD)
        seen = {
            (url, cookie): banner(site, url, cookie)
            for url, new in few.items()
            for cookie in (*sorted(new)[:2], *sorted(set(COOKIES) - new)[:2])
        }
        invited = met(site, GOOD, **{"X-Bluegreen-Next": tester})
        turned_away = met(site, GOOD, **{"X-Bluegreen-Next": "guessed"})
        until(lambda: deploy.done() or shares(site) == {25}, "every host routes 25 %", 120)
        more, shown = met(site, GOOD), [site.must("status.yml").output]
        ran = deploy.result()
        assert ran.status == 0, ran.tail()
        site.expect_live(GOOD)
    assert len({frozenset(some) for some in few.values()}) == 1, f"a visitor meets one release on every host: {few}"
    (some,), (others,) = (list({frozenset(one) for one in found.values()}) for found in (few, more))
    assert 0 < len(some) < len(others) < len(COOKIES) / 2
    assert some < others, "who was among the 10 % is among the 25 %"
    assert set(map(len, invited.values())) == {len(COOKIES)}, "testers meet the new release, whoever they are"
    assert turned_away == few, "without the secret there is no way to choose"
    colours = {role: site.status()["web1"][role]["colour"] for role in ("live", "idle")}
    new_file, old_file = (banner_of(site, colours[role]).strip() for role in ("live", "idle"))
    assert new_file != old_file, "the releases should differ in the file without a hash"
    for (url, cookie), file in seen.items():
        assert file.strip() == (new_file if cookie in few[url] else old_file), f"{cookie} at {url}: not its release's"
    assert "canary of 25 %" in shown[0], shown[0]
    for share in ("canary 10 %", "canary 25 %"):
        assert any(share in line and "pass" in line for line in ran.lines), ran.tail()
    report = json.loads((tmp_path / "report.json").read_text())
    assert {one["share"] for one in report["rounds"] if one["phase"] == "canary"} == {10, 25}
    assert sum(one["new"]["requests"] for one in report["rounds"] if one["phase"] == "canary") >= 15
    (kpi,) = report["kpis"]
    assert {phase: said["verdict"] for phase, said in kpi["verdicts"].items()} == {"canary": "pass", "watch": "pass"}
    assert all(one["kpis"][0]["value"] > 1 for one in report["rounds"]), report["rounds"]
    assert {one["verdict"] for one in report["rounds"]} <= {"so far", "pass"}


def test_a_release_that_fails_visitors_is_found_out_by_a_share_of_them(site: Deployment) -> None:
    site.given(OLD)
    with site.under_load(rate=90, spared=False) as load:
        refused(site, BROKEN, "error", BROKEN_PAGE, canary=25, watch=60)
    failed = load.tally.failed / load.tally.requests
    assert failed < 0.05, f"the other three quarters should have noticed nothing: {failed:.1%} failed"
    assert bad(site, BROKEN)


def test_a_release_that_fails_visitors_after_the_switch_goes_back_too(site: Deployment) -> None:
    assert "retry_bad" in site.refuse("deploy.yml", sha=site.sha(BROKEN)).output
    with site.under_load(rate=60, spared=False):
        refused(site, BROKEN, "error", BROKEN_PAGE, watch=40, retry_bad=True)


def test_after_two_reverts_in_a_row_somebody_has_to_look(site: Deployment) -> None:
    ran = refused(site, GOOD, "after_reverts=true", watch=1)
    assert ran.seconds < 30, "before anything is done"


def test_a_release_that_is_slow_is_found_out(fleet: Deployment, site: Deployment, tmp_path: Path) -> None:
    slow = site.variant(tmp_path, app_settings_module="slow_settings", app_files={"slow_settings.py": SLOW})
    with site.under_load(rate=90):
        ran = refused(slow, GOOD, "the new release is slower", canary=25, watch=60, after_reverts=True, retry_bad=True)
    assert judged_fail(ran, 25), ran.tail()


def judged_fail(ran: Ran, share: int) -> bool:
    """Whether a round of the canary ended with a verdict on what visitors got."""
    return any(f"canary {share} %: " in line and ": fail: the new release" in line for line in ran.lines)


def test_a_page_that_gives_no_answer_is_blamed_on_its_release_though_every_check_goes_well(
    site: Deployment, tmp_path: Path
) -> None:
    settings = {"app_settings_module": "silent_settings", "app_files": {"silent_settings.py": SILENT}}
    silent = site.variant(tmp_path, app_warm=[{"path": "/"}], **settings)
    again = {"canary": 25, "watch": 60, "after_reverts": True, "retry_bad": True}
    with site.under_load(rate=90, spared=False):
        ran = refused(silent, GOOD, "the new release gives no answer", "/orders", **again)
    assert judged_fail(ran, 25), ran.tail()


def test_a_colour_that_stops_is_blamed_for_it_and_no_visitor_notices(site: Deployment) -> None:
    """On every host at once: for what is not confirmed the release before stands in."""
    (colour,) = {status["idle"]["colour"] for status in site.status().values()}
    with site.under_load(rate=60):
        extra = {"sha": site.sha(GOOD), "canary": 25, "watch": 60, "after_reverts": True, "retry_bad": True}
        ran = during(site, 25, lambda: site.everywhere(f"systemctl stop orders@{colour}.service"), **extra)
    assert ran.status != 0, ran.tail()
    told = "\n".join(ran.lines[-3:])
    assert "no answer: " in told or "gives no answer" in told, ran.tail()
    site.expect_live(OLD)


@pytest.mark.parametrize("kind", QUERIES)
def test_a_query_that_is_a_mistake_is_refused_before_anything_changes(
    site: Deployment, kind: str, tmp_path: Path
) -> None:
    query, word = QUERIES[kind]
    wrong = site.variant(tmp_path, judge_kpis=[SAMPLES | {"query": query, "max": 1}])
    before = site.snapshot()
    ran = wrong.refuse("deploy.yml", sha=site.sha(GOOD), watch=60)
    told = "\n".join(ran.lines[-3:])
    assert "judge_kpis: samples: " in told, ran.tail()
    assert word in told, ran.tail()
    assert site.snapshot() == before


def test_a_kpi_beyond_its_threshold_sends_all_back(site: Deployment, tmp_path: Path) -> None:
    strict = site.variant(tmp_path, judge_kpis=[SAMPLES | {"max": 1}])
    again = {"canary": 10, "watch": 60, "after_reverts": True, "retry_bad": True}
    ran = refused(strict, GOOD, "samples is ", "more than 1 (judge_kpis), in 2 rounds in a row", **again)
    assert sum("canary 10 %" in line and "(max 1)" in line for line in ran.lines) == 2, ran.tail()


def test_without_visitors_and_without_prometheus_a_canary_says_nothing_and_goes_back(site: Deployment) -> None:
    again = {"canary": 10, "watch": 5, "after_reverts": True, "retry_bad": True}
    site.on("cache1", "systemctl stop prometheus")
    try:
        refused(site, GOOD, "inconclusive: too few requests", "samples is not known: no answer", **again)
    finally:
        site.on("cache1", "systemctl start prometheus")


def test_a_controller_that_dies_takes_its_share_with_it(site: Deployment) -> None:
    extra = {"canary": 10, "watch": 90, "after_reverts": True, "retry_bad": True}
    hurried = {"rollout_ttl": TTL, "rollout_lease_ttl": TTL}
    with site.under_load(rate=30):
        process = site.start("deploy.yml", sha=site.sha(GOOD), **extra, **hurried)
        until(lambda: shares(site) == {10}, "every host routes 10 %", 120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: shares(site) == {0}, "the share is back at 0", TTL + 2)
        site.expect_live(OLD)


def test_on_a_quiet_site_a_release_is_confirmed_as_unjudged(site: Deployment) -> None:
    ran = site.deploy(GOOD, watch=5, after_reverts=True, retry_bad=True, wait=60)
    assert any("unjudged" in line for line in ran.lines), ran.tail()
    assert "unjudged" in site.on("web1", "bluegreen history --app orders --limit 5")
