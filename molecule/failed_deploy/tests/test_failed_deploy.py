"""Whatever fails, wherever: every host serves the old release, and nobody has to clean up. The tests are one story."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from promises import Deployment, Ran, approvals, until

OLD, GOOD = "r2", "r5"


def idle(fleet: Deployment, host: str) -> tuple[str, str]:
    """The idle colour of a host and the live one."""
    status = fleet.status()[host]
    return status["idle"]["colour"], status["live"]["colour"]


@contextlib.contextmanager
def drop_in(fleet: Deployment, host: str, colour: str, lines: str) -> Iterator[None]:
    """Other settings for one colour's unit on one host, while the block runs."""
    place = f"/etc/systemd/system/orders@{colour}.service.d"
    fleet.on(
        host, f"mkdir -p {place} && printf '[Service]\\n{lines}\\n' > {place}/test.conf && systemctl daemon-reload"
    )
    try:
        yield
    finally:
        # the directory may hold what the host tool has written for the colour's release
        fleet.on(host, f"rm {place}/test.conf; rmdir --ignore-fail-on-non-empty {place}; systemctl daemon-reload")


def refused(fleet: Deployment, release: str, *named: str, **extra: object) -> Ran:
    """Deploy what cannot work under traffic: told in three lines that name the reason; the old release goes on."""
    with fleet.under_load(rate=15):
        ran = fleet.refuse("deploy.yml", sha=fleet.sha(release), watch=1, **extra)
        fleet.expect_live(OLD)
    for word in named:
        assert word in "\n".join(ran.lines[-3:]), f"the three lines should name {word!r}\n{ran.tail()}"
    return ran


def test_a_release_that_does_not_boot_is_refused(fleet: Deployment) -> None:
    fleet.given(OLD)
    refused(fleet, "r3")


def test_a_release_with_one_broken_page_is_refused_and_the_check_is_named(fleet: Deployment) -> None:
    refused(fleet, "r4", "order list")


def test_a_check_that_fails_on_the_second_of_three_hosts_keeps_all_on_the_old_release(fleet: Deployment) -> None:
    colour, _ = idle(fleet, "web2")
    fleet.on("web2", "echo ALLOWED_HOSTS=nowhere.example.org > /etc/bluegreen-test.env")
    with drop_in(fleet, "web2", colour, "EnvironmentFile=/etc/bluegreen-test.env"):
        refused(fleet, GOOD, "web2")


def test_an_old_release_that_answers_in_place_of_the_new_one_is_found_out(fleet: Deployment) -> None:
    colour, live = idle(fleet, "web2")
    wrong = (
        f"EnvironmentFile=\\nEnvironmentFile=/srv/orders/{live}/env\\nExecStart=\\nExecStart=/srv/orders/{live}/run/web"
    )
    with drop_in(fleet, "web2", colour, wrong):
        refused(fleet, GOOD, "web2", rollout_start_timeout=20)


def test_a_migration_that_fails_leaves_nothing_behind(fleet: Deployment) -> None:
    asked = refused(fleet, "migration_fails", "needs approval")
    refused(fleet, "migration_fails", "on purpose", **approvals(asked))
    columns = fleet.on("db1", "runuser -u postgres -- psql -XtA orders -c "
                       "\"select count(*) from information_schema.columns where column_name='half_done'\"")  # fmt: skip
    assert columns.strip() == "0"


def test_a_host_that_breaks_after_the_switch_takes_all_back_and_the_commit_is_marked(fleet: Deployment) -> None:
    # A long watch: its rounds are short, so nobody waits for its end.
    process = fleet.start("deploy.yml", sha=fleet.sha(GOOD), watch=300, rollout_smoke_timeout=10)
    try:
        until(lambda: all(status["pending"] for status in fleet.status().values()), "the switch", 120)
        colour = fleet.status()["web2"]["pending"]["colour"]
        fleet.on("web2", f"systemctl stop orders@{colour}")
        assert process.wait(90) != 0, "a deploy that went back must not end well"
    finally:
        process.kill()
    until(lambda: fleet.expect_live(OLD) is None, "every host is back", 60)
    states = {record["state"] for record in fleet.status()["web1"]["releases"] if record["sha"] == fleet.sha(GOOD)}
    assert states == {"bad"}


def test_a_commit_that_went_back_by_itself_is_refused_until_it_is_named(fleet: Deployment) -> None:
    ran = fleet.refuse("deploy.yml", sha=fleet.sha(GOOD))
    assert "retry_bad=true" in ran.lines[-1], ran.tail()
    fleet.expect_live(OLD)


def test_the_next_good_deploy_works(fleet: Deployment) -> None:
    with fleet.under_load(rate=15):
        fleet.deploy(GOOD, retry_bad=True, watch=1)
