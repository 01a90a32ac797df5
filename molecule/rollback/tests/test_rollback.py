"""Back to what was confirmed before: decided from recorded state, the same on every host. The tests are one story."""

from __future__ import annotations

import json
import re

from promises import Deployment

A, B, C = "r2", "r5", "r6"
BANNER = "static/orders/banner.svg"  # a file without a hash; r5 has another one than r2


def warm(pair: Deployment) -> set[bool]:
    """Whether the idle colour of each host runs."""
    return {status["idle"]["running"] for status in pair.status().values()}


def hashed_files(pair: Deployment) -> set[str]:
    """The hashed static files that the live release's page names."""
    page = pair.on("web1", f"curl -sf -H 'Host: {pair.domain}' http://127.0.0.1/")
    return set(re.findall(r"/static/[^\"'?]+\.[0-9a-f]{12}\.\w+", page))


def banners(pair: Deployment) -> set[str]:
    """The file without a hash, as visitors get it on each host."""
    return set(pair.everywhere(f"curl -sf -H 'Host: {pair.domain}' http://127.0.0.1/{BANNER}").values())


def banner_of(pair: Deployment, role: str) -> str:
    """The same file as the live or the idle release has it."""
    return pair.on("web1", f"cat /srv/orders/{pair.status()['web1'][role]['colour']}/{BANNER}")


def test_a_page_of_the_release_before_the_last_out_of_a_cache_still_gets_its_files(pair: Deployment) -> None:
    pair.given("r1")
    named = hashed_files(pair)
    assert named
    pair.deploy(A, watch=0)
    pair.deploy(B, watch=0)
    assert hashed_files(pair) != named, "the releases should differ in what is asked for"
    wanted = " ".join(f"-o /dev/null http://127.0.0.1{path}" for path in sorted(named))
    answers = pair.everywhere(f"curl -s -w '%{{http_code}} ' -H 'Host: {pair.domain}' {wanted}")
    assert {code for answer in answers.values() for code in answer.split()} == {"200"}, answers


def test_after_a_then_b_a_rollback_is_back_on_a_within_seconds_and_loses_no_request(pair: Deployment) -> None:
    assert warm(pair) == {True}
    newer, older = banner_of(pair, "live"), banner_of(pair, "idle")
    assert newer != older, "the releases should differ in the file without a hash"
    assert banners(pair) == {newer}
    with pair.under_load():
        ran = pair.must("rollback.yml")
        pair.expect_live(A)
    assert ran.seconds < 30, ran.tail()
    assert banners(pair) == {older}, "files without a hash go back with the release"


def test_times_of_directories_do_not_matter(pair: Deployment) -> None:
    pair.everywhere(
        "for each in $(ls -d /srv/orders/releases/*/ | sort -R); do touch -h ${each%/} 2>/dev/null; done; true"
    )
    pair.on("web2", "touch -d '2001-01-01' /srv/orders/releases/* 2>/dev/null; true")
    pair.deploy(C, watch=0)


def test_after_c_a_rollback_goes_to_a_and_not_to_b_which_was_rolled_back(pair: Deployment) -> None:
    with pair.under_load():
        pair.must("rollback.yml")
        pair.expect_live(A)


def test_rolling_back_to_the_live_release_is_refused_and_changes_nothing(pair: Deployment) -> None:
    before = pair.snapshot()
    pair.refuse("rollback.yml", to=pair.sha(A))
    assert pair.snapshot() == before


def test_rolling_back_once_more_goes_one_further_back(pair: Deployment) -> None:
    pair.must("rollback.yml")
    pair.expect_live("r1")


def test_a_release_can_be_named(pair: Deployment) -> None:
    pair.deploy(A, watch=0)
    pair.deploy(C, watch=0)
    pair.must("rollback.yml", to=pair.sha("r1")[:10])
    pair.expect_live("r1")


def test_a_release_that_is_not_there_is_refused_and_changes_nothing(pair: Deployment) -> None:
    before = pair.snapshot()
    pair.refuse("rollback.yml", to="0123456789ab")
    assert pair.snapshot() == before


def test_the_environment_of_its_time_comes_back_with_a_release(pair: Deployment) -> None:
    old = environment(pair, "LOG_LEVEL")
    other = json.dumps({"app_env": {"ALLOWED_HOSTS": pair.domain, "HTTPS": "0", "LOG_LEVEL": "WARNING"}})
    pair.must("deploy.yml", "-e", other, sha=pair.sha(A), watch=0)
    pair.expect_live(A)
    assert environment(pair, "LOG_LEVEL") == {"WARNING"}
    pair.must("rollback.yml")
    assert environment(pair, "LOG_LEVEL") == old


def environment(pair: Deployment, name: str) -> set[str]:
    """The values of a variable in the processes that serve."""
    found = set()
    for host, status in pair.status().items():
        pid = pair.on(host, f"systemctl show -P MainPID orders@{status['live']['colour']}").strip()
        found.add(pair.on(host, f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n s/^{name}=//p").strip())
    return found
