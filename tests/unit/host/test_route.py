"""The route: what it contains, and that nginx never finds it missing."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from bluegreen import files, route
from bluegreen.config import COLOURS, SLOTS, Paths, other

SHARES = range(0, 101, 5)


@pytest.fixture
def paths(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    made = Paths("orders", short_path)
    made.state.mkdir(parents=True)
    return made


def moved(content: dict[str, str], kind: str, target: str) -> set[int]:
    return {slot for slot in range(SLOTS) if content[f"{kind}{slot:02}"] == target}


@pytest.mark.parametrize("live", COLOURS)
@pytest.mark.parametrize("share", SHARES)
def test_every_share_is_exact(paths: Paths, live: str, share: int) -> None:
    statics = {"blue": "/b", "green": "/g"}
    content = route.links(paths, live, share, statics)
    assert len(content) == 4 * SLOTS + 1
    assert route.shares(content, paths) == {live: 100 - share, other(live): share}
    idle = str(paths.socket(other(live)))
    assert content["next"] == idle
    slots = moved(content, "s", idle)
    assert len(slots) == share // 5
    assert moved(content, "ws", idle) == slots
    assert moved(content, "st", statics[other(live)]) == slots


def test_who_is_moved_at_a_small_share_stays_moved_at_a_larger_one(paths: Paths) -> None:
    idle = str(paths.socket("green"))
    before: set[int] = set()
    for share in SHARES:
        now = moved(route.links(paths, "blue", share, {}), "s", idle)
        assert before <= now
        before = now


@pytest.mark.parametrize("stand_ins", [(), ("blue",), ("green",), COLOURS])
def test_only_a_colour_that_may_stands_in_for_the_other(paths: Paths, stand_ins: tuple[str, ...]) -> None:
    content = route.links(paths, "blue", 25, {}, stand_ins)
    for slot in range(SLOTS):
        colour = "green" if slot < 5 else "blue"
        spare = other(colour) if other(colour) in stand_ins else colour
        assert content[f"s{slot:02}"] == str(paths.socket(colour))
        assert content[f"fb{slot:02}"] == str(paths.socket(spare))
        assert content[f"st{slot:02}"] == str(paths.state / "empty")


def test_websockets_of_asgi_have_a_socket_of_their_own(paths: Paths) -> None:
    content = route.links(paths, "blue", 5, {}, (), ["green"])
    assert content["ws00"] == str(paths.websocket("green"))
    assert content["ws01"] == str(paths.socket("blue"))


@pytest.mark.parametrize("share", [-5, 1, 3, 99, 101, 105])
def test_other_shares_are_refused(paths: Paths, share: int) -> None:
    with pytest.raises(ValueError, match="steps of 5"):
        route.links(paths, "blue", share, {})


def test_a_reader_sees_the_old_or_the_new_route_and_never_none(paths: Paths) -> None:
    """As nginx reads it: through the link, one name at a time."""
    options = [route.links(paths, live, 0, {}) for live in COLOURS]
    route.write(paths, options[0])
    seen: list[object] = []
    stop = threading.Event()
    sockets = {str(paths.socket(colour)) for colour in COLOURS}

    def read() -> None:
        while not stop.is_set():
            try:
                target = str((paths.route / "s07").readlink())
            except OSError as problem:
                seen.append(problem)
                return
            if target not in sockets:
                seen.append(target)

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(12):
        route.write(paths, options[turn % 2])
        assert route.read(paths) == options[turn % 2]
    stop.set()
    reader.join()
    assert seen == []


def test_only_five_generations_stay(paths: Paths) -> None:
    made = [route.write(paths, route.links(paths, "blue", 0, {})) for _ in range(9)]
    assert sorted(path.name for path in paths.routes.iterdir()) == made[-5:]
    assert route.current_generation(paths) == made[-1]


def test_a_clock_set_back_takes_no_current_route_away(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(6):
        route.write(paths, route.links(paths, "blue", 0, {}))
    monkeypatch.setattr(time, "time_ns", lambda: 17)
    wanted = route.links(paths, "green", 0, {})
    for _ in range(6):
        route.write(paths, wanted)
        assert route.read(paths) == wanted


def test_a_route_that_cannot_be_written_leaves_the_old_one(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = route.links(paths, "blue", 0, {})
    route.write(paths, wanted)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(OSError, match="No space"):
        route.write(paths, route.links(paths, "green", 0, {}))
    assert route.read(paths) == wanted
    assert len(list(paths.routes.iterdir())) == 1


def test_no_route_yet(paths: Paths) -> None:
    assert route.read(paths) is None
    assert route.current_generation(paths) is None
    assert route.shares(None, paths) == {"blue": 0, "green": 0}
    paths.route.mkdir()
    with pytest.raises(files.BluegreenError, match="is a real directory"):
        route.write(paths, {})
