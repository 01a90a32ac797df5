"""A maintenance window on a host: the page instead of the application, until a switch or a person ends it."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen import maintenance, route
from bluegreen.errors import BluegreenError, Code
from tests.unit.host import test_migrations as made
from tests.unit.host.test_migrations import Release, item, played, reason

__all__ = ["played"]


def page(host: Any) -> bool:
    """Whether visitors meet the page: no slot leads anywhere, and nginx finds the flag."""
    links = route.read(host.paths)
    return (host.paths.route / "maintenance").is_file() and not set(links.values()) & {
        str(host.paths.socket(colour)) for colour in ("blue", "green") for name in links if name != "next"
    } - {links["next"]}


def runs(host: Any) -> list[str]:
    """The colours whose web unit is up."""
    return [c for c in ("blue", "green") if host.system.unit(f"orders@{c}.service").active == "active"]


@pytest.fixture
def opened(host: Any) -> Any:
    """Release 1 was live, and the window of a deploy of release 2 is open."""
    host.first = host.deploy(1, 1)
    host.do("maintenance", "d2", 2, action="begin", why="deploy of 2")
    return host


def test_the_page_comes_first_and_then_nothing_runs(opened: Any) -> None:
    assert page(opened)
    assert runs(opened) == []
    again = opened.do("maintenance", "d2", 2, action="begin", why="again")
    assert again["maintenance"]["why"] == "deploy of 2", "it is the same window"
    shown = opened.do("status")
    assert shown["maintenance"]["deploy_id"] == "d2"
    assert "visitors meet the maintenance page since " in shown["drift"][0]
    assert "rollback.yml" in shown["drift"][0]


def test_neither_a_boot_nor_a_new_release_beside_it_ends_the_window(opened: Any) -> None:
    opened.do("reconcile")
    assert page(opened)
    assert runs(opened) == []
    opened.do("start", "d2", 2, release=opened.release(2), alive=0)
    assert page(opened)
    opened.do("abandon", "d2", 2)
    assert page(opened)
    assert runs(opened) == []


def test_a_switch_ends_it_and_leaves_the_release_before_behind(opened: Any) -> None:
    new = opened.release(2)
    opened.do("start", "d2", 2, release=new, alive=0)
    with pytest.raises(BluegreenError, match="visitors meet the maintenance page"):
        opened.do("route", "d2", 2, release=new, share=50)
    opened.do("route", "d2", 2, release=new)
    assert not page(opened)
    assert opened.do("status")["maintenance"] is None
    opened.do("confirm", "d2", 2, release=new)
    assert not page(opened)
    assert opened.live() == new
    assert opened.record(opened.first).cold
    opened.do("reconcile")
    assert len(runs(opened)) == 1


@pytest.mark.parametrize("how", ["revert", "deadman"])
def test_a_switch_that_is_undone_opens_it_again(opened: Any, how: str) -> None:
    new = opened.release(2)
    opened.do("start", "d2", 2, release=new, alive=0)
    opened.do("route", "d2", 2, release=new, ttl=1000.0 if how == "revert" else 1.0)
    if how == "revert":
        opened.do("revert", "d2", 2, why="it fails")
    else:
        opened.system.clock += 2
        opened.do("revert", deadman="d2")
    assert page(opened)
    assert opened.live() == opened.first
    live = "blue" if opened.do("status")["live"]["colour"] == "blue" else "green"
    assert live not in runs(opened), "the release before may not fit the schema"


def test_it_ends_with_the_live_release_only_where_that_fits(
    opened: Any, played: Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BluegreenError, match="fits the schema is not known"):
        opened.do("maintenance", action="end")
    made.ledger.keep_footprint(opened.context(), opened.first, made.PRINT)
    played.misfits = ["default: public.shop_order.note: it is gone"]
    with pytest.raises(BluegreenError, match="does not fit the schema any more"):
        opened.do("maintenance", action="end")
    with pytest.raises(BluegreenError, match="visitors meet the maintenance page"):
        opened.do("rollback")
    assert page(opened)
    played.misfits = []
    assert opened.do("maintenance", action="end")["ended"]
    assert not page(opened)
    assert len(runs(opened)) == 1
    assert opened.do("status")["drift"] == []
    assert not opened.do("maintenance", action="end")["ended"]


def test_a_release_that_does_not_answer_does_not_end_it(opened: Any) -> None:
    opened.system.unit("orders@blue.service")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bluegreen.start.answers", lambda *a: "nothing answers")
        with pytest.raises(BluegreenError, match="the maintenance page stays"):
            opened.do("maintenance", action="end", checked=True)
    assert page(opened)
    assert maintenance.read(opened.context()) is not None


def test_there_is_no_window_without_a_live_release_or_during_a_switch(host: Any) -> None:
    with pytest.raises(BluegreenError, match="no release is live"):
        host.do("maintenance", action="begin")
    host.deploy(1, 1)
    host.deploy(2, 2, confirm=False)
    with pytest.raises(BluegreenError, match="a switch is pending"):
        host.do("maintenance", "deploy-2", 2, action="begin")


def test_what_is_refused_runs_approved_and_while_nothing_else_does(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    name = host.release(2)
    played.pending = ["0002_type"]
    no = reason("refused", "it becomes another type")
    one = played.items["0002_type"] = item("0002_type", "refused", no, window_possible=True)
    with pytest.raises(BluegreenError) as caught:
        host.do("migrate", "d2", 2, release=name, plan=True)
    assert "-e migrations_maintenance_window=true" in caught.value.todo
    with pytest.raises(BluegreenError, match=r"shop\.0002_type needs approval") as caught:
        host.do("migrate", "d2", 2, release=name, plan=True, window=True)
    assert '"migrations_maintenance_window": true' in caught.value.todo
    allowed = {**made.words(made.gate.token(one, name)), "window": True}
    assert host.do("migrate", "d2", 2, release=name, plan=True, **allowed)["stopped"] == ["shop.0002_type"]
    with pytest.raises(BluegreenError, match="runs only while the application is stopped") as caught:
        host.do("migrate", "d2", 2, release=name, **allowed)
    assert caught.value.code is Code.REFUSED
    host.do("maintenance", "d2", 2, action="begin")
    done = host.do("migrate", "d2", 2, release=name, **allowed)
    assert (done["applied"], bool(done["snapshot"])) == (["shop.0002_type"], True)


def test_what_fails_anyway_is_refused_in_a_window_too(host: Any, played: Release) -> None:
    host.deploy(1, 1)
    played.pending = ["0002_broken"]
    played.items["0002_broken"] = item("0002_broken", "refused", reason("refused", "it failed"), window_possible=False)
    with pytest.raises(BluegreenError, match=r"shop\.0002_broken is refused") as caught:
        host.do("migrate", release=host.release(2), plan=True, window=True)
    assert "maintenance" not in caught.value.todo
