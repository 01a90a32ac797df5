"""What visitors got, by colour: who is blamed for a request, and that no line of the log is lost or counted twice."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import privileges, release, route, traffic
from bluegreen.errors import BluegreenError, Code
from bluegreen.traffic import Change

ROUTE = "/var/lib/bluegreen/orders/route"
RELEASES = {"blue": "old", "green": "new"}
BLUE, ONE_SLOT, GREEN = "b" * 20, "g" + "b" * 19, "g" * 20


def line(end: float, slot: int = 0, status: int = 200, **more: Any) -> dict[str, Any]:
    """A line of the log; times in seconds."""
    return {
        "time": end,
        "path": "/orders/17",
        "status": status,
        "upstream_status": str(status),
        "upstream_addr": f"unix:{ROUTE}/s{slot:02}",
        "request_time": 0.05,
        "upstream_response_time": "0.050",
        "release": "old",
        "slot": f"{slot:02}",
        "tester": "0",
        "probe": "0",
    } | more


# attribution


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    """Switches, canaries and reverts at any moments; the rename lies between the two times of each."""
    found, at = [Change(0.0, 0.0, draw(st.sampled_from([BLUE, GREEN])))], 0.0
    for slots in draw(st.lists(st.sampled_from([BLUE, ONE_SLOT, "ggggg" + "b" * 15, GREEN]), max_size=6)):
        at += draw(st.floats(0.001, 20))
        took = draw(st.floats(0, 0.2))
        found.append(Change(at, at + took, slots))
        at += took
    return found


@given(histories(), st.floats(0, 100), st.floats(0, 30), st.floats(0, 5), st.floats(0, 30), st.data())
def test_nobody_is_blamed_for_what_another_colour_did(
    history: list[Change], connects: float, upload: float, works: float, download: float, data: st.DataObject
) -> None:
    """Any request, any switches meanwhile: the colour it met when nginx connected, or nobody."""
    slot = data.draw(st.integers(0, 19))
    renames = [data.draw(st.floats(change.begun, change.at)) for change in history]
    met = [change for change, at in zip(history, renames, strict=True) if at <= connects]
    truth = {"b": "blue", "g": "green"}[(met or history)[-1 if met else 0].slots[slot]]
    lag = data.draw(st.floats(0, 0.03))  # nginx's clock stands still for the length of one event loop
    answers = data.draw(st.booleans())
    download = download if answers else 0.0
    request = line(
        connects + works + download + lag,
        slot,
        200 if answers else 503,
        upstream_status="200" if answers else "502",
        request_time=upload + works + download,
        upstream_response_time=f"{works:.3f}",
        release=RELEASES[truth] if answers else "",
    )
    found = traffic.attribute(request, history, RELEASES)
    assert found in (truth, None)
    near = any(abs(connects - at) < 1 for change in history[1:] for at in (change.begun, change.at))
    if answers or not near:
        assert found == truth


def test_a_request_in_flight_across_a_switch_belongs_to_the_colour_that_it_reached() -> None:
    history = [Change(0, 0, BLUE), Change(100, 100.001, GREEN)]
    attribute = traffic.attribute
    assert attribute(line(103, request_time=4, upstream_response_time="4.000"), history, RELEASES) == "blue"
    assert (
        attribute(line(103, request_time=2, upstream_response_time="2.000", release="new"), history, RELEASES)
        == "green"
    )
    # ten seconds of uploading before the switch, then 0.1 s of work after it
    upload = line(110, request_time=20, upstream_response_time="0.100", release="new")
    assert attribute(upload, history, RELEASES) == "green"
    # within 50 ms of the rename the stamp decides; without one nobody is blamed
    close = line(100.01, request_time=0, upstream_response_time="0.000", release="new")
    assert attribute(close, history, RELEASES) == "green"
    assert attribute(close | {"release": "", "upstream_status": "502"}, history, RELEASES) is None


def test_a_fallback_is_the_first_colours_failure() -> None:
    request = line(
        110, upstream_addr=f"unix:{ROUTE}/s00, unix:{ROUTE}/fb00", upstream_status="502, 200",
        upstream_response_time="0.000, 0.040",
    )  # fmt: skip
    assert traffic.attribute(request, [Change(0, 0, ONE_SLOT)], RELEASES) == "green"
    assert traffic.class_of(request) == traffic.class_of(request, "new") == "none"
    # without a fallback both links name the same colour: it answered at the second attempt
    assert traffic.class_of(request, "old") == "ok"
    assert traffic.class_of(request | {"status": 503, "upstream_status": "502, 502", "release": ""}, "new") == "none"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({}, "ok"),
        ({"status": 302, "upstream_status": "302"}, "ok"),
        ({"status": 101, "upstream_status": "101"}, "ok"),
        ({"status": 404, "upstream_status": "404"}, "client"),
        ({"status": 500, "upstream_status": "500"}, "server"),
        ({"status": 502, "upstream_status": "502"}, "server"),  # with the release's stamp: it said so itself
        ({"status": 503, "upstream_status": "502", "release": ""}, "none"),
        ({"status": 444, "upstream_status": "502", "release": ""}, "none"),
        ({"status": 504, "upstream_status": "504", "release": ""}, "none"),
        ({"status": 499, "upstream_status": "-", "release": ""}, "gone"),
    ],
)
def test_what_a_visitor_got(more: dict[str, Any], kind: str) -> None:
    assert traffic.class_of(line(1.0) | more) == kind


@pytest.mark.parametrize("more", [{"probe": "1"}, {"tester": "1"}, {"upstream_addr": "", "upstream_status": ""}])
def test_probes_testers_and_files_do_not_count(more: dict[str, Any]) -> None:
    assert not traffic.passed_on(line(1.0) | more)
    assert traffic.passed_on(line(1.0))


@given(st.floats(0.001, 600))
def test_a_bucket_is_five_percent_wide(seconds: float) -> None:
    place = traffic.bucket(seconds)
    assert traffic.STEP ** (place - 1) / 1000 < seconds * 1.001
    assert seconds <= traffic.STEP**place / 1000 * 1.001


def test_nginx_writes_what_is_read() -> None:
    """The log's format, with values as nginx fills them in."""
    template = (Path(__file__).parents[3] / "roles/traffic/templates/site.conf.j2").read_text()
    (parts,) = re.findall(r"log_format .*? escape=json ('.*?');", template, re.DOTALL)
    text = "".join(re.findall(r"'([^']*)'", parts)).replace("${{ p }}", "$")
    values = {
        "msec": "1763.250", "status": "200", "request_time": "0.051", "bytes_sent": "9", "upstream_status": "200",
        "upstream_addr": f"unix:{ROUTE}/s03", "upstream_response_time": "0.050", "_slot": "03",
        "upstream_http_x_bluegreen_release": "old", "_probe": "0", "_tester": "0", "bluegreen_path": "/orders/1",
    }  # fmt: skip
    written = re.sub(r"\$(\w+)", lambda match: values.get(match[1], "x"), text).encode()
    (found,) = traffic.parse([written])
    assert found is not None
    assert traffic.passed_on(found)
    assert traffic.attribute(found, [Change(0, 0, BLUE)], RELEASES) == "blue"
    # probes and testers are known by these two
    assert not traffic.passed_on(json.loads(written.replace(b'"tester":"0"', b'"tester":"1"')))
    assert not traffic.passed_on(json.loads(written.replace(b'"probe":"0"', b'"probe":"1"')))


# groups


def test_groups_by_rule_and_by_the_first_part() -> None:
    name = traffic.grouper([{"name": "shop", "paths": ["/orders", "^/p/[0-9]+$"]}, {"name": "all", "paths": ["/"]}])
    assert [name(path) for path in ("/orders/1", "/p/12", "/p/x", "x")] == ["shop", "shop", "all", "other"]
    usual = traffic.grouper([])
    assert [usual(path) for path in ("/", "/orders/1/2", "/orders", "")] == ["/", "/orders", "/orders", "other"]


@pytest.mark.parametrize(
    "groups", [{}, [5], [{"name": "x"}], [{"name": "x", "paths": "/a"}], [{"name": "x", "paths": ["^("]}]]
)
def test_groups_of_another_shape_are_refused(groups: Any) -> None:
    with pytest.raises(BluegreenError) as caught:
        traffic.check_groups(groups)
    assert caught.value.code is Code.BAD_INPUT


@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.integers(1, 50), max_size=60))
def test_folding_keeps_every_request(sizes: dict[str, int]) -> None:
    found = {"blue": {name: traffic.empty() | {"ok": many, "hist": {"3": many}} for name, many in sizes.items()}}
    known = sorted(sizes)[:5]
    folded = traffic.fold(found, known)["blue"]
    assert sum(tally["ok"] for tally in folded.values()) == sum(sizes.values())
    assert sum(tally["hist"].get("3", 0) for tally in folded.values()) == sum(sizes.values())
    assert len(set(folded) - {traffic.OTHER}) <= traffic.MAX_GROUPS
    assert set(known) <= set(folded)


# the log


class Log:
    """nginx's log as nginx and logrotate treat it, and a reader with a cursor."""

    def __init__(self, path: Path) -> None:
        self.path, self.written, self.seen = path, 0, []  # type: ignore[var-annotated]
        self.stream = path.open("ab", buffering=0)
        self.cursor: dict[str, Any] | None = None
        self.lost = False

    def write(self, ends: bytes = b"\n") -> None:
        self.written += 1
        self.stream.write(b'{"n":%d}' % self.written + ends)

    def rotate(self) -> None:
        for number in (2, 1):
            for old in self.path.parent.glob(f"{self.path.name}.{number}"):
                old.rename(self.path.with_name(f"{self.path.name}.{number + 1}"))
        self.path.rename(self.path.with_name(f"{self.path.name}.1"))
        self.path.touch()

    def reopen(self) -> None:
        self.stream.close()
        self.stream = self.path.open("ab", buffering=0)

    def read(self, limit: int = 1 << 20) -> list[int]:
        parts, lost = traffic.find(self.path, self.cursor)
        lines, self.cursor, _ = traffic.read(parts, limit)
        for part in parts:
            os.close(part.descriptor)
        self.lost = lost
        found = [json.loads(text)["n"] for text in lines]
        self.seen += found
        return found


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    made = Log(tmp_path / "orders.json.log")
    yield made
    made.stream.close()


def test_without_a_cursor_reading_begins_at_the_end(log: Log) -> None:
    log.write()
    assert log.read() == []
    log.write()
    assert log.read() == [2]
    assert log.read() == []


def test_a_line_that_is_being_written_waits_for_its_rest(log: Log) -> None:
    log.read()
    log.stream.write(b'{"n":1}\n{"n"')
    assert log.read() == [1]
    log.stream.write(b":2}\n")
    assert log.read() == [2]


def test_a_rotation_by_rename_loses_nothing_however_late_nginx_reopens(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.read()
    log.write()
    log.rotate()
    log.write()  # before USR1 reached this worker
    assert log.read() == [1, 2]
    log.write()
    assert log.read() == [3]
    log.reopen()
    log.write()
    assert log.read() == [4]
    assert "before" in (log.cursor or {})
    monkeypatch.setattr(traffic, "LINGER", 0.0)
    assert log.read() == []
    assert "before" not in (log.cursor or {})
    assert not log.lost


def test_a_rotation_by_copytruncate_goes_on_at_the_beginning(log: Log) -> None:
    log.read()
    log.write()
    log.write()
    assert log.read() == [1, 2]
    log.path.with_name("orders.json.log.1").write_bytes(log.path.read_bytes())
    os.truncate(log.path, 0)
    log.write()
    assert log.read() == [3]
    assert log.lost  # lines may have stood there that nobody read


def test_a_log_that_was_removed_is_said_to_be_lost(log: Log) -> None:
    log.read()
    log.write()
    with log.path.open("rb"):  # the next file gets another inode
        log.path.unlink()
        log.reopen()
    log.write()
    assert log.read() == [2]
    assert log.lost


def test_a_reader_that_is_behind_reads_on_later(log: Log) -> None:
    log.read()
    for _ in range(50):
        log.write()
    assert log.read(100) == list(range(1, 13))
    while log.read(100):
        pass
    assert log.seen == list(range(1, 51))


@given(st.lists(st.sampled_from(["write", "half", "rotate", "reopen", "read", "few"]), max_size=40))
def test_every_line_is_read_once_and_in_order_whatever_happens(tmp_path_factory: Any, steps: list[str]) -> None:
    log = Log(tmp_path_factory.mktemp("log") / "orders.json.log")
    log.read()
    half = rotated = False
    for step in steps:
        if step == "write" and not half:
            log.write()
        elif step == "half" and not half:
            log.write(b"")
            half = True
        elif step == "rotate" and not rotated:
            log.rotate()
            rotated = True
        elif step in ("reopen", "read", "few"):
            if half:
                log.stream.write(b"\n")
                half = False
            if step == "reopen" and rotated:
                log.reopen()
                log.read()  # whoever sleeps through two rotations has lost what was between
                rotated = False
            else:
                log.read(30 if step == "few" else 1 << 20)
    if half:
        log.stream.write(b"\n")
    for _ in range(100):
        log.read()
    log.stream.close()
    assert log.seen == list(range(1, log.written + 1))


def test_only_a_plain_file_is_a_log(log: Log, tmp_path: Path) -> None:
    link = tmp_path / "link.log"
    link.symlink_to("/etc/passwd")
    for path in (link, tmp_path, tmp_path / "none"):
        with pytest.raises(OSError):  # noqa: PT011  each its own
            traffic.find(path, None)


def test_what_is_no_line_of_ours_is_counted_and_harms_nothing() -> None:
    bad = [
        b"",
        b"{",
        b"[]",
        b'{"time": 1}',
        b'{"status":000}',
        json.dumps(line(1) | {"time": "x"}).encode(),
        b"\xff\xfe",
    ]
    good = json.dumps(line(50)).encode()
    found = traffic.tally([*bad, good], 0.0, [Change(0, 0, BLUE)], RELEASES, traffic.grouper([]))
    assert found["garbage"] == len(bad)
    assert found["colours"]["blue"]["/orders"]["ok"] == 1


# the verb


@pytest.fixture
def site(host: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host with two releases, a canary of 5 %, and an empty log."""
    monkeypatch.setattr(privileges, "call", lambda work, **_: work())
    host.old = host.deploy(1, 1)
    host.new = host.release(2, "deploy-2", 2)
    host.do("start", "deploy-2", 2, release=host.new, alive=0)
    host.paths.log.parent.mkdir(parents=True)
    host.paths.log.touch()
    return host


def visit(site: Any, slot: int, ago: float = 0.0, **more: Any) -> None:
    with site.paths.log.open("a") as stream:
        stream.write(
            json.dumps(line(time.time() - ago, slot, request_time=0, upstream_response_time="0.000", **more)) + "\n"
        )


def counts(answer: dict[str, Any], colour: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for tally in answer["colours"][colour].values():
        for kind in traffic.CLASSES:
            found[kind] = found.get(kind, 0) + tally[kind]
    return {kind: many for kind, many in found.items() if many}


def test_a_canary_is_measured_by_colour_and_read_on(site: Any) -> None:
    visit(site, 0)
    time.sleep(0.06)
    site.do("route", "deploy-2", 2, release=site.new, share=5)
    time.sleep(0.06)
    visit(site, 0, 0.0, release="", status=503, upstream_status="502")
    visit(site, 7)
    first = site.do("measure", "deploy-2", 2)
    # what was before the route changed is another window
    assert (counts(first, "green"), counts(first, "blue")) == ({"none": 1}, {"ok": 1})
    visit(site, 0)
    visit(site, 0, probe="1")
    second = site.do("measure", "deploy-2", 2, cursor=first["cursor"], known=["/orders"])
    assert (counts(second, "green"), counts(second, "blue"), second["apart"]) == ({"ok": 1}, {}, 1)
    assert second["lines"] == 2
    assert len(json.dumps(second)) < 2000


def test_what_visitors_got_before_the_first_release_is_not_blamed_on_it(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(privileges, "call", lambda work, **_: work())
    host.paths.log.parent.mkdir(parents=True)
    route.note(host.paths, {"from": time.time() - 60, "at": time.time() - 60, "slots": "b" * 20})  # provisioning
    for slot in range(3):
        visit(host, slot, 0.0, release="", status=503, upstream_status="502")
    time.sleep(0.06)
    first = host.release(1, "deploy-1", 1)
    host.do("start", "deploy-1", 1, release=first, alive=0)
    host.do("route", "deploy-1", 1, release=first, share=100)
    assert {entry["slots"] for entry in route.journal(host.paths)} == {"b" * 20}
    time.sleep(0.06)
    visit(host, 3)
    assert counts(host.do("measure", "deploy-1", 1), "blue") == {"ok": 1}


def test_the_window_before_a_switch_ends_where_the_live_release_began(site: Any) -> None:
    visit(site, 3, 3600)
    visit(site, 3, 0)
    answer = site.do("measure", window=30.0)
    assert counts(answer, "blue") == {"ok": 1}
    visit(site, 3, 20)  # another release's
    assert counts(site.do("measure", window=30.0), "blue") == {"ok": 1}


def test_the_journal_of_the_route_is_bounded(site: Any) -> None:
    for number in range(2 * route.KEPT_CHANGES + 5):
        route.note(site.paths, {"from": number, "at": number, "slots": "b" * 20})
    found = route.journal(site.paths)
    assert route.KEPT_CHANGES <= len(found) <= 2 * route.KEPT_CHANGES
    assert found[-1]["at"] == 2 * route.KEPT_CHANGES + 4
    with site.paths.journal.open("a") as stream:
        stream.write('{"at": 5')
    assert traffic.changes(site.paths)[-1].slots == "b" * 20


def test_a_switch_leaves_its_moment_in_the_journal(site: Any) -> None:
    began = time.time()
    answer = site.do("route", "deploy-2", 2, release=site.new, share=25)
    last = route.journal(site.paths)[-1]
    assert last["slots"] == "g" * 5 + "b" * 15
    assert last["generation"] == answer["generation"]
    assert began - 0.01 <= last["from"] <= last["at"] <= answer["switched_at"]


def test_a_host_of_an_older_version_has_no_journal_and_knows_its_route(site: Any) -> None:
    site.paths.journal.unlink()
    visit(site, 3)
    assert counts(site.do("measure", window=60.0), "blue") == {"ok": 1}
    assert release.resolved(site.paths, "blue") == site.old


def test_a_log_that_cannot_be_read_is_said_and_with_strict_refused(site: Any) -> None:
    site.paths.log.unlink()
    assert "No such file" in site.do("measure")["unreadable"]
    with pytest.raises(BluegreenError, match=r"nginx's log cannot be read.*provision.yml") as caught:
        site.do("measure", strict=True)
    assert caught.value.code is Code.REFUSED


@pytest.mark.parametrize(
    "params", [{"cursor": {"inode": "x", "offset": 1}}, {"cursor": {}}, {"groups": [5]}, {"max_bytes": 1}]
)
def test_bad_input_of_measure_is_one_line(site: Any, params: dict[str, Any]) -> None:
    with pytest.raises(BluegreenError) as caught:
        site.do("measure", **params)
    assert caught.value.code is Code.BAD_INPUT


def test_without_its_controller_a_canary_goes_back_to_nobody(site: Any) -> None:
    site.do("route", "deploy-2", 2, release=site.new, share=10, ttl=30.0)
    assert site.routed() == {site.old: 90, site.new: 10}
    site.do("extend", "deploy-2", 2, release=site.new, ttl=30.0)
    site.pass_time(29)
    assert site.routed() == {site.old: 90, site.new: 10}
    site.pass_time(2)
    assert site.routed() == {site.old: 100}
    assert traffic.changes(site.paths)[-1].slots == BLUE


def test_reverts_in_a_row_are_counted_until_one_is_confirmed(site: Any) -> None:
    state = site.context().state
    for fence in (2, 3):
        site.do("route", f"deploy-{fence}", fence, release=site.new, share=5)
        site.do("revert", f"deploy-{fence}", fence, why="errors", bad=True)
    site.do("route", "deploy-4", 4, release=site.new, share=5)
    site.do("revert", "deploy-4", 4, why="a host was lost", bad=False)
    assert site.do("status")["reverts"] == state.reverts_in_a_row() == 2
    site.do("route", "deploy-5", 5, release=site.new)
    site.do("confirm", "deploy-5", 5, release=site.new)
    assert state.reverts_in_a_row() == 0
