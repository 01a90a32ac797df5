"""Three app servers, load balancer, database, cache: the orders. The tests are one story."""

from __future__ import annotations

import http.client
import re
from pathlib import Path
from typing import Any

import pytest
from promises import LOGS, Deployment, until

HOST = "-H 'Host: orders.example.org'"
DEADLY = """\
import os
import signal

from shop.settings import *  # noqa: F403
from shop.settings import MIDDLEWARE

MIDDLEWARE = ["deadly_settings.deadly", *MIDDLEWARE]


def deadly(get_response):
    def middleware(request):
        if request.path == "/die":
            os.kill(os.getpid(), signal.SIGKILL)
        return get_response(request)

    return middleware
"""


def fetch(fleet: Deployment, host: str, path: str) -> str:
    """A page as a visitor of one app server sees it."""
    return fleet.on(host, f"curl -sS --fail {HOST} http://127.0.0.1{path}")


def assets(page: str) -> list[str]:
    """The static files that a page names."""
    return sorted(set(re.findall(r'(?:href|src)="(/static/[^"?#]+)"', page)))


def workers(fleet: Deployment) -> dict[str, list[str]]:
    """Background processes of each host, as `kind release`."""
    script = (
        "for pid in $(pgrep -f 'celery -A shop'); do"
        " kind=$(tr '\\0' '\\n' < /proc/$pid/cmdline | grep -x -m1 -e worker -e beat);"
        " release=$(tr '\\0' '\\n' < /proc/$pid/environ | sed -n s/^BLUEGREEN_RELEASE=//p);"
        " parent=$(ps -o ppid= -p $pid | tr -d ' ');"
        ' [ "$parent" = 1 ] && echo "$kind $release"; done; true'
    )
    return {name: sorted(found.split("\n")[:-1]) for name, found in fleet.everywhere(script, check=False).items()}


def sql(fleet: Deployment, query: str) -> str:
    """The answer of the application's database."""
    return fleet.on("db1", f'runuser -u postgres -- psql -XtA orders -c "{query}"').strip()


@pytest.fixture(scope="module")
def story() -> dict[str, Any]:
    """What earlier chapters leave for later ones."""
    return {}


def test_the_first_release_serves_on_every_host_and_through_the_load_balancer(fleet: Deployment) -> None:
    fleet.given("r1")
    fleet.expect_live("r1")
    assert len(fleet.urls) == 4


def test_each_migration_ran_exactly_once(fleet: Deployment) -> None:
    rows = sql(fleet, "select count(*), count(distinct name) from django_migrations where app='orders'").split("|")
    assert rows[0] == rows[1], rows
    assert int(rows[0]) >= 2


def test_the_second_release_loses_no_request_through_the_balancer_or_directly(
    fleet: Deployment, story: dict[str, Any]
) -> None:
    story["banner"] = fetch(fleet, "web2", "/static/orders/banner.svg")
    story["assets"] = assets(fetch(fleet, "web1", "/"))
    with fleet.under_load(rate=30):
        ran = fleet.deploy("r2", retry_bad=True)
    assert "0003_order_note" in ran.output or "no migrations" in ran.output, ran.tail()


def test_its_migration_ran_once_for_three_hosts(fleet: Deployment) -> None:
    assert sql(fleet, "select count(*) from django_migrations where app='orders' and name='0003_order_note'") == "1"


def test_every_host_serves_the_hashed_files_of_both_releases(fleet: Deployment, story: dict[str, Any]) -> None:
    hashed = [path for path in story["assets"] if re.search(r"\.[0-9a-f]{12}\.", path)]
    assert hashed, story["assets"]
    for host in fleet.app_servers:
        for path in {*hashed, *assets(fetch(fleet, host, "/"))}:
            assert fetch(fleet, host, path), path


def test_files_without_a_hash_are_those_of_the_live_release(fleet: Deployment) -> None:
    for host in fleet.app_servers:
        colour = fleet.status()[host]["live"]["colour"]
        here = fleet.on(host, f"cat /srv/orders/{colour}/static/orders/banner.svg")
        assert fetch(fleet, host, "/static/orders/banner.svg").strip() == here.strip()


def test_workers_of_the_new_release_work_and_the_old_ones_have_stopped(fleet: Deployment) -> None:
    def only_new() -> bool:
        found = workers(fleet)
        kinds = [line for lines in found.values() for line in lines]
        assert kinds, "no worker at all"
        assert all(fleet.sha("r2")[:12] in line for line in kinds), found
        assert all(sum(line.startswith("worker") for line in lines) == 1 for lines in found.values()), found
        return True

    until(only_new, "a worker of the new release on each host, and no other", 60)


def test_the_clock_of_the_fleet_runs_exactly_once_on_the_migration_host(fleet: Deployment) -> None:
    found = {name: sum(line.startswith("beat") for line in lines) for name, lines in workers(fleet).items()}
    assert found == {"web1": 1, "web2": 0, "web3": 0}


def test_work_waits_in_a_queue_named_after_the_release(fleet: Deployment) -> None:
    answer = fetch(fleet, "web3", "/workers")
    assert fleet.sha("r2")[:12] in answer, answer
    assert '"ok"' in answer, answer


def test_deploying_the_live_release_again_says_that_there_is_nothing_to_do(fleet: Deployment) -> None:
    before = fleet.snapshot()
    ran = fleet.must("deploy.yml", sha=fleet.sha("r2"))
    assert "nothing to do" in ran.lines[-1], ran.tail()
    assert fleet.snapshot() == before


def test_visitors_never_see_which_release_answers(fleet: Deployment) -> None:
    head = fleet.on("web1", f"curl -sS -D - -o /dev/null {HOST} http://127.0.0.1/")
    assert "x-bluegreen-release" not in head.lower(), head


def test_no_secret_stands_in_any_process_list_or_journal(fleet: Deployment) -> None:
    secret = fleet.settings["vault_orders_smoke_password"]
    for name, found in fleet.everywhere("ps axww; journalctl -q --no-pager -o cat -n 5000").items():
        assert secret not in found, f"the smoke password shows on {name}"
    for log in sorted(LOGS.glob("*.log")):
        assert secret not in log.read_text(errors="replace"), log


def test_a_live_colour_that_dies_is_covered_by_the_warm_one_until_it_is_back(fleet: Deployment) -> None:
    status = fleet.status()["web1"]
    live, warm = status["live"], status["idle"]
    assert warm["running"], warm
    with fleet.under_load(rate=50, urls=[f"http://{fleet.address('web1')}"], named=True, spared=False) as load:
        fleet.on("web1", f"systemctl kill --signal=KILL orders@{live['colour']}.service")
        until(lambda: warm["release"] in load.tally.releases, "the warm release stands in", 20)
        back = load.tally.releases[live["release"]].last
        until(lambda: load.tally.releases[live["release"]].last != back, "the live release is back", 60)
    # what it was working on when it died; without the warm one it is every request of the seconds until it is back
    assert load.tally.failed <= 8, f"{load.tally.failed} of {load.tally.requests} failed: {load.tally.failures[:3]}"
    fleet.expect_live("r2")


def test_a_page_that_kills_its_worker_takes_no_app_server_from_the_balancer(fleet: Deployment, tmp_path: Path) -> None:
    """It is asked for on one host: elsewhere it would do the same, and the balancer would think all of them dead."""
    deadly = fleet.variant(tmp_path, app_settings_module="deadly_settings", app_files={"deadly_settings.py": DEADLY})
    deadly.deploy("r2", watch=0)
    fleet.everywhere("bluegreen drain --app orders")  # nobody stands in
    since = fleet.on("web1", "date +%s").strip()
    door = http.client.HTTPConnection(fleet.address("lb1"), timeout=30)
    found = []
    for path in ("/die", "/healthz") * 4:
        door.request("GET", path, headers={"Host": fleet.domain})
        answer = door.getresponse()
        answer.read()
        found.append(answer.status)
    assert found == [503, 200] * 4
    dead = f"journalctl -q --no-pager -o cat --since @{since} -u 'orders@*' | grep -c 'was sent SIGKILL'; true"
    assert sum(int(count) for count in fleet.everywhere(dead).values()) <= 2 * 4, "nginx asks once more there"
