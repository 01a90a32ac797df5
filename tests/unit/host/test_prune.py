"""What is removed: never what serves, runs, is pending, or is needed for a rollback."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import images, prune, units
from bluegreen.errors import BluegreenError, Code
from bluegreen.state import Record

NAMES = [f"{number:012x}-{number:08x}" for number in range(12)]
RECORDS = st.lists(
    st.builds(
        Record,
        id=st.sampled_from(NAMES),
        sha=st.just(""),
        artifact=st.just(""),
        state=st.sampled_from(["staged", "confirmed", "bad", "rolled_back"]),
        staged_at=st.dates().map(str),
        confirmed_fence=st.integers(0, 20),
    ),
    unique_by=lambda record: record.id,
)


@given(RECORDS, st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES), max_size=3), st.integers(-1, 6))
def test_choose(records: list[Record], present: set[str], in_use: set[str], keep: int) -> None:
    doomed = prune.choose(records, present, in_use, keep)
    here = [record for record in records if record.id in present]
    good = sorted((r for r in here if r.state == "confirmed"), key=lambda r: -r.confirmed_fence)
    assert len(doomed) == len(set(doomed))
    assert set(doomed) <= {record.id for record in here}
    assert not in_use & set(doomed)
    kept = [record.id for record in good if record.id not in doomed]
    assert kept[: max(keep, 2)] == [record.id for record in good[: max(keep, 2)]]
    # what failed changes nothing for what is good
    alone = prune.choose(good, present, in_use, keep)
    assert [name for name in doomed if name in {r.id for r in good}] == alone
    # and does not pile up
    failed = [r for r in here if r.state != "confirmed" and r.id not in in_use]
    assert len([r for r in failed if r.id not in doomed]) <= 1


def test_as_many_failed_deploys_as_are_kept_and_still_a_way_back(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    for number in range(3, 9):
        host.deploy(number, number, confirm=False)
        host.do("revert", f"deploy-{number}", bad=True, why="smoke")
        host.do("abandon", f"deploy-{number}")
        host.do("prune", f"deploy-{number}", keep=2)
    assert len(list(host.paths.releases.iterdir())) == 3, "a failed one stays to be looked at"
    assert host.do("rollback")["release"] == a
    assert host.routed() == {a: 100}
    assert host.record(b).state == "rolled_back"


def test_images_and_checks_go_with_their_releases(host: Any) -> None:
    names = [host.deploy(number, number, smoke=[{"name": "home"}]) for number in range(1, 6)]
    assert host.do("prune", keep=2, dry_run=True)["would_remove"] == names[:3]
    answer = host.do("prune", keep=2)
    assert answer["removed"] == names[:3]
    assert len(answer["images"]) == 3
    assert len(images.staged(host.paths)) == 2
    assert sorted(path.stem for path in host.paths.checks.iterdir()) == sorted(names[3:])
    assert host.do("prune", keep=2)["removed"] == []
    assert host.record(names[0]).state == "confirmed", "what became of it is remembered"


def test_what_dead_runs_left_goes_too(host: Any) -> None:
    host.deploy(1, 1)
    inbox, half, asset = host.paths.inbox, host.paths.routes / ".tmp-x", host.paths.static / "shop" / ".tmp-123"
    half.mkdir()
    asset.parent.mkdir(parents=True)
    asset.write_bytes(b"half a picture")
    for name in ("shop-1.squashfs.20260101T000000-dead00", "shop-2.squashfs.20260101T000000-abcdef"):
        (inbox / name).write_bytes(b"image")
    host.do("prune", "20260101T000000-abcdef", keep=2)
    assert [path.name for path in inbox.iterdir()] == ["shop-2.squashfs.20260101T000000-abcdef"]
    assert not half.exists()
    assert not asset.exists()


def test_an_image_that_is_busy_is_taken_later(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.system.can_mount = True
    names = [host.deploy(number, number) for number in range(1, 5)]
    image = next(host.paths.images.glob(f"{host.record(names[0]).sha}-*.squashfs"))
    host.system.mounted.add(image.with_suffix(""))
    run = host.system.run

    def busy(command: Any, *rest: Any, **options: Any) -> Any:
        if command[0] == "umount":
            raise BluegreenError(Code.CHECK_FAILED, "umount failed", "target is busy")
        return run(command, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(units, "run", busy)
        assert host.do("prune", keep=2)["busy"] == [image.stem]
    assert image.exists()
    assert host.do("prune", keep=2)["images"] == [image.stem]
    assert not image.exists()


def test_a_pending_release_stays(host: Any) -> None:
    names = [host.deploy(number, number) for number in range(1, 4)]
    pending = host.deploy(4, 4, confirm=False)
    host.do("prune", "deploy-4", keep=2)
    assert {path.name for path in host.paths.releases.iterdir()} == {*names[1:], pending}
