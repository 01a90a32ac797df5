"""Background processes and jobs: what systemd is told, and what a person is told."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen import processes, release, units
from bluegreen.errors import BluegreenError, Code

PROCESSES = {
    "worker": {"command": "celery -A shop worker", "count": 2},
    "beat": {"command": "celery -A shop beat", "singleton": True, "stop_timeout": 5},
    "port": {"command": "serve 9000", "stop_first": True},
    "report": {"command": "report", "schedule": "daily"},
}


def running(host: Any) -> set[str]:
    return {
        name.removeprefix("orders-")
        for name, unit in host.system.units.items()
        if unit.active == "active" and name.startswith("orders-")
    }


def test_drop_ins_of_a_colour() -> None:
    found = processes.wanted_dropins("orders", "green", release.parse_processes(PROCESSES))
    assert set(found) == {
        f"orders-green@{name}.d/bluegreen.conf"
        for name in ("worker-1.service", "worker-2.service", "beat-1.service", "port-1.service")
    } | {"orders-green@report-1.service.d/bluegreen.conf", "orders-green@report-1.timer.d/bluegreen.conf"}
    beat = found["orders-green@beat-1.service.d/bluegreen.conf"]
    assert "Conflicts=orders-blue@beat-1.service\nAfter=orders-blue@beat-1.service\n" in beat
    assert "TimeoutStopSec=5\n" in beat
    assert "Conflicts" not in found["orders-green@worker-1.service.d/bluegreen.conf"]
    assert "OnCalendar=daily" in found["orders-green@report-1.timer.d/bluegreen.conf"]


def test_an_administrators_drop_in_stays(host: Any) -> None:
    wanted = release.parse_processes({"worker": {"command": "x"}})
    assert processes.sync(host.paths, "blue", wanted) is True
    assert processes.sync(host.paths, "blue", wanted) is False
    own = host.paths.units / "orders-blue@worker-1.service.d/override.conf"
    own.touch()
    assert processes.sync(host.paths, "blue", []) is True
    assert own.exists()
    assert not (own.parent / "bluegreen.conf").exists()


@pytest.mark.parametrize("singletons", [True, False])
def test_early_before_the_switch_the_rest_at_settle(host: Any, singletons: bool) -> None:
    host.configure_host(singletons=singletons)
    late = {"port-1.service"} | ({"beat-1.service", "report-1.timer"} if singletons else set())
    host.deploy(1, 1, processes=PROCESSES)
    host.do("processes", "deploy-1", action="settle")
    early = {"worker-1.service", "worker-2.service"}
    assert running(host) == {f"blue@{name}" for name in early | late}
    host.deploy(2, 2, processes=PROCESSES)
    assert running(host) == {f"blue@{name}" for name in early | late} | {f"green@{name}" for name in early}
    host.do("processes", "deploy-2", action="settle")
    assert running(host) == {f"green@{name}" for name in early | late}
    assert host.do("status")["drift"] == []
    host.do("rollback")
    assert running(host) == {f"blue@{name}" for name in early | late}


def test_a_worker_that_dies_stops_the_deploy(host: Any) -> None:
    a = host.deploy(1, 1)
    host.system.failing["orders-green@worker-1.service"] = ["starting", "kombu: ConnectionError"]
    name = host.release(2, processes={"worker": {"command": "x"}})
    with pytest.raises(BluegreenError, match=r"worker-1.service does not stay alive: kombu: ConnectionError") as caught:
        host.do("start", release=name, alive=0.0)
    assert caught.value.code is Code.CHECK_FAILED
    assert host.routed() == {a: 100}
    assert running(host) == set()


def test_a_schedule_is_checked_before_anything_starts(host: Any) -> None:
    name = host.release(1, processes={"report": {"command": "x", "schedule": "bad time"}})
    with pytest.raises(BluegreenError, match=r"app_processes.report: 'bad time' is not a schedule"):
        host.do("start", release=name)
    assert host.system.web("blue").active == "inactive"


def test_a_colour_in_use_is_waited_for(host: Any) -> None:
    host.deploy(1, 1)
    host.deploy(2, 2)
    host.system.in_flight[str(host.paths.socket("blue"))] = 3
    host.configure_host(drain_ceiling=0)
    assert host.do("drain", dry_run=True) == {"colour": "blue", "in_flight": {"requests": 3, "websockets": 0}}
    assert host.do("drain")["cut"] == {"requests": 3, "websockets": 0}
    host.system.in_flight.clear()
    own = host.paths.websocket("blue")
    own.touch()
    host.system.in_flight[str(own)] = 2
    host.configure_host(drain_ceiling=60, websocket_patience=0)
    host.do("start", release=host.release(1), alive=0)
    assert host.do("drain")["cut"] == {"requests": 0, "websockets": 2}, "they are not waited for like a request"
    with pytest.raises(BluegreenError, match=r"green is live"):
        host.do("drain", colour="green")


def test_manage(host: Any) -> None:
    host.deploy(1, 1)
    host.system.jobs.append(lambda words: (3, "out\n", "err\n") if "boom" in words else (0, " ".join(words[3:]), ""))
    assert host.do("manage", command="say 'a b'") == {"rc": 0, "output": ["say a b"]}
    assert host.do("manage", command="boom") == {"rc": 3, "output": ["out", "err"]}
    for wrong, says in (("'", "cannot be split"), (" ", "there is no command")):
        with pytest.raises(BluegreenError, match=says):
            host.do("manage", command=wrong)


def test_a_reboot_brings_back_what_served(host: Any) -> None:
    a = host.deploy(1, 1, processes=PROCESSES)
    b = host.deploy(2, 2, processes=PROCESSES)
    c = host.deploy(3, 3, processes=PROCESSES, confirm=False)
    assert host.routed() == {c: 100}
    host.system.reboot()
    done = host.do("reconcile")["done"]
    assert f"reverted the unconfirmed switch to {c}" in done
    assert host.routed() == {b: 100}
    assert host.system.serving("blue") is None, "an unconfirmed release is not started again"
    assert host.do("status")["drift"] == []
    nothing = {"done": [], "problems": [], "changed": False, "outdated": None, "register": None}
    assert host.do("reconcile") == nothing
    assert host.record(a).state == "confirmed"


def test_reconcile_corrects_what_somebody_edited(host: Any) -> None:
    from bluegreen import files, route

    a, b = host.deploy(1, 1), host.deploy(2, 2)
    route.write(host.paths, route.links(host.paths, "blue", 0, {}))
    files.replace_symlink(host.paths.colour("green"), f"releases/{a}")
    drift = host.do("status")["drift"]
    assert len(drift) == 2
    assert "the route gives blue 100 %" in drift[0]
    assert "not at the live release" in drift[1]
    host.do("reconcile")
    assert host.routed() == {b: 100}
    assert host.do("status")["drift"] == []


def test_a_job_says_of_which_release_it_is(host: Any) -> None:
    name = host.release(1)
    host.do("check", release=name)
    call = next(call for call in host.system.calls if "--unit=bluegreen-check-orders" in call)
    assert f"--description=bluegreen: job of release {name}" in call


def test_a_program_beside_this_one() -> None:
    units.begin(("true",))()
    waits = units.begin(("sh", "-c", "echo first; echo it is broken >&2; exit 3"))
    with pytest.raises(BluegreenError, match=r"sh -c .* failed with status 3: it is broken") as caught:
        waits()
    assert caught.value.code is Code.CHECK_FAILED
    with pytest.raises(BluegreenError, match="no-such-program is not installed"):
        units.begin(("no-such-program",))
    units.begin(("false",))  # nobody asks how it went
    units.finish_all()
