"""Two applications share a host: each is provisioned, deployed and rolled back as if it were alone."""

from __future__ import annotations

import pytest
from artifacts import OF_FLEET, OTHER_STORE
from promises import Deployment


@pytest.fixture(scope="module")
def notes(vm: Deployment, pair: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """The notes beside the orders on web2."""
    hosts = {"app_servers": {"hosts": {"web2": {"ansible_host": pair.address("web2")}}}}
    return vm.variant(
        tmp_path_factory.mktemp("notes"), hosts=hosts, app_python=OF_FLEET, artifact_store=str(OTHER_STORE)
    )


def test_provisioning_the_second_application_disturbs_no_visitor_of_the_first(
    pair: Deployment, notes: Deployment
) -> None:
    pair.given("r1")
    with pair.under_load():
        notes.provision()
    pair.expect_live("r1")


def test_deploys_and_rollback_of_the_second_leave_the_first_alone(pair: Deployment, notes: Deployment) -> None:
    before = pair.snapshot()["web2"]
    with pair.under_load():
        notes.deploy("n1_313", watch=0)
        notes.deploy("n2_313", watch=0)
        notes.must("rollback.yml")
        notes.expect_live("n1_313")
    assert own(pair.snapshot()["web2"], "orders") == own(before, "orders")


def test_a_deploy_of_the_first_leaves_the_second_alone(pair: Deployment, notes: Deployment) -> None:
    before = notes.snapshot()["web2"]
    with notes.under_load():
        pair.deploy("r1" if pair.live()["web1"] != pair.sha("r1") else "r2", watch=0, retry_bad=True)
    assert own(notes.snapshot()["web2"], "notes") == own(before, "notes")


def test_neither_can_read_the_others_data_and_secrets(pair: Deployment) -> None:
    for user, other in (("orders", "notes"), ("notes", "orders")):
        files = f"/srv/{other}/releases/*/env /srv/{other}/releases/*/secrets/* /etc/bluegreen/{other}.key"
        done = pair.host("web2").run(f"runuser -u {user} -- sh -c 'ls /srv/{other}/data; cat {files}'")
        assert done.stdout == "", done.stdout


def own(snapshot: str, app: str) -> list[str]:
    """The lines of a snapshot that are about one application."""
    return [line for line in snapshot.splitlines() if app in line]
