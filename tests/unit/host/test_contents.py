"""What is in an image, looked at before it is opened: real images, made to do harm."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen import contents, images, privileges
from bluegreen.config import HostConfig, Paths
from bluegreen.errors import BluegreenError, Code

PLACE = "/srv/orders/images/x"
NAME = "a" * 40 + "-0123abcd"


@pytest.fixture(autouse=True)
def _no_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a child would do is done here; it may change the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(privileges, "call", lambda work, **_: json.loads(json.dumps(work())))


def pack(
    tmp_path: Path, *pseudo: str, links: dict[str, str] | None = None, files: dict[str, int] | None = None
) -> Path:
    """A squashfs image. pseudo: definitions of mksquashfs(1); files: name → size, without content."""
    root = tmp_path / "root"
    (root / "venv" / "bin").mkdir(parents=True)
    for name, size in {"venv/bin/gunicorn": 7, **(files or {})}.items():
        (root / name).touch()
        os.truncate(root / name, size)
    for name, target in {"venv/bin/python": "/usr/bin/python3.13", **(links or {})}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)
    image = tmp_path / "image.squashfs"
    words = [word for one in pseudo for word in ("-p", one)]
    command = ["mksquashfs", root, image, "-quiet", "-no-progress", "-all-root", "-processors", "1", *words]
    subprocess.run(command, check=True, capture_output=True)
    return image


def refused(image: Path, words: str) -> None:
    with pytest.raises(BluegreenError, match=words) as caught:
        images.inspect(image, PLACE)
    assert caught.value.code is Code.CHECK_FAILED
    assert "\n" not in str(caught.value)


def test_an_ordinary_image_passes(tmp_path: Path) -> None:
    links = {"static": "app/public", "app/a b -x": "../venv/bin/./gunicorn", "app/deep/up": "../..", "self": PLACE}
    (tmp_path / "root/app/public").mkdir(parents=True)
    found = images.inspect(pack(tmp_path, links=links), PLACE)
    assert found == contents.Contents(members=12, bytes=7)


@pytest.mark.parametrize(
    ("pseudo", "words"),
    [
        ("null c 666 0 0 1 3", "a character device: null"),
        ("app b 600 0 0 7 0", "a block device: app"),
        ("pipe i 644 0 0 f", "a pipe: pipe"),
        ("socket i 644 0 0 s", "a socket: socket"),
        ("su f 4755 0 0 true", "a setuid, setgid or sticky member: su"),
        ("sg f 2755 0 0 true", "a setuid, setgid or sticky member: sg"),
        ("tmp d 1777 0 0", "a setuid, setgid or sticky member: tmp"),
        ("sh s 777 0 0 /bin/sh", "a link that leads outside: sh -> /bin/sh"),
        ("arrow s 777 0 0 a -> b", "a link that cannot be read"),
    ],
)
def test_a_member_that_must_not_be(tmp_path: Path, pseudo: str, words: str) -> None:
    refused(pack(tmp_path, pseudo), words)


@pytest.mark.parametrize(
    "links",
    [
        {"app": "/etc"},
        {"app/x": "../../etc/passwd"},
        {"up": ".."},
        {"a/b/c/short": "../../..", "venv/x": "../a/b/c/short/../etc"},
        {"venv/x": "bin/../../../etc"},
        {"venv/bin/python3": "/usr/bin/python3/../../../etc/shadow"},
        {"venv/bin/sh": "/usr/bin/python3.13"},
        {"venv/x": f"{PLACE}/../other"},
        {"venv/x": f"{PLACE}-other/app"},
        {"venv/x": "ok\n/etc"},
    ],
    ids=lambda links: str(list(links.values())[-1]),
)
def test_a_link_that_leads_outside(tmp_path: Path, links: dict[str, str]) -> None:
    refused(pack(tmp_path, links=links), "a link that leads outside|a name that cannot be read")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), max_size=6), st.integers(0, 3))
def test_no_link_that_passes_leads_outside(parts: list[str], depth: int) -> None:
    """Where every name is a link to the image's root, the worst there can be, the way still never leaves it."""
    name = "/".join(["d"] * depth + ["link"])
    target = "/".join(parts)
    if contents.link_problem(name, target, PLACE) or target.startswith("/"):
        return
    at = depth
    for part in parts:
        at = at - 1 if part == ".." else 0 if part in ("a", "b") else at
        assert at >= 0


@pytest.mark.parametrize(
    "line",
    [
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/../x",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root//x",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/./x",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/x/..",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/x/",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-rootx",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 /etc/x",
        "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/a\x1b[2J",
        "Drw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/door",
        "lrwxrwxrwx 0/0 1 2026-01-01 00:00 squashfs-root/link",
        "half a line",
    ],
)
def test_a_list_that_was_tampered_with(line: str) -> None:
    with pytest.raises(BluegreenError, match="the image holds"):
        contents.examine([line], PLACE)


def test_names_that_only_look_like_steps_pass() -> None:
    names = ("...", "..x", "x..", ".x", "a b", "é")
    lines = [f"-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/{name}/{name}" for name in names]
    assert contents.examine(lines, PLACE) == contents.Contents(len(names), len(names))
    assert all(contents.ORDINARY.fullmatch(line) for line in lines)


def test_a_name_that_is_there_twice() -> None:
    line = "-rw-r--r-- 0/0 1 2026-01-01 00:00 squashfs-root/a"
    with pytest.raises(BluegreenError, match="there twice: a"):
        contents.examine([line, line], PLACE)
    with pytest.raises(BluegreenError, match="holds nothing"):
        contents.examine([], PLACE)


def claim(image: Path, members: int) -> None:
    """Let the superblock say another number of members."""
    with image.open("r+b") as stream:
        stream.seek(4)
        stream.write(struct.pack("<I", members))


def test_a_million_members_are_not_even_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pack(tmp_path)
    claim(image, 1_000_000)
    monkeypatch.setattr(contents, "listed", lambda image: pytest.fail("it was listed"))
    refused(image, "1000000 members: an image may have 200000")


def test_members_beyond_those_that_an_image_claims_are_not_listed_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pack(tmp_path, *(f"d{number} d 755 0 0" for number in range(60)))
    monkeypatch.setattr(contents, "MOST_MEMBERS", 50)
    lines = contents.listed(image)
    assert len(lines) == 51
    with pytest.raises(BluegreenError, match="more than 50 members"):
        contents.examine(lines, PLACE)
    claim(image, 40)
    refused(image, "cannot be read: .*inode number|more than 50 members")


def test_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST_BYTES", 8 << 20)
    image = pack(tmp_path, files={"zeros": 5 << 20, "more": 4 << 20})
    assert image.stat().st_size < 64 << 10
    refused(image, "files of more than 8 MB together")


@pytest.mark.parametrize("content", [b"", b"hsqs", b"x" * 200, b"hsqs" + b"\0" * 200, b"hsqs\1" + b"\xff" * 200])
def test_what_is_no_squashfs(tmp_path: Path, content: bytes) -> None:
    image = tmp_path / "image.squashfs"
    image.write_bytes(content)
    refused(image, "is not a squashfs image|cannot be read|4294967041 members")


def test_a_truncated_image(tmp_path: Path) -> None:
    image = pack(tmp_path)
    os.truncate(image, 300)
    refused(image, "cannot be read: FATAL ERROR")


def test_a_program_that_does_not_end_is_ended() -> None:
    from bluegreen import units

    with pytest.raises(BluegreenError, match=r"did not end within 0.2 s"):
        units.head(("sleep", "60"), 5, 100, 0.2)
    assert units.head(("yes",), 3, 100, 10)[1:] == (["y", "y", "y"], False)


def test_what_a_program_prints_is_kept_up_to_a_size_whether_or_not_it_has_lines() -> None:
    from bluegreen import units

    assert units.head(("yes",), 1000, 7, 10)[1:] == (["y", "y", "y"], False)
    assert units.head(("cat", "/dev/zero"), 1000, 1 << 16, 10)[1:] == ([], False)
    assert units.head(("echo", "a"), 1000, 2, 10) == (0, ["a"], True)


def test_links_that_would_fill_the_memory_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST_LIST", 1 << 20)
    links = {f"link{number}": "/".join(["a" * 200] * 19) for number in range(300)}
    refused(pack(tmp_path, links=links), "names and links of more than 1 MB together")


# receiving


def truncated(image: Path) -> None:
    os.truncate(image, 300)


@pytest.mark.parametrize(
    ("pseudo", "links", "spoil", "words"),
    [
        ("null c 666 0 0 1 3", {}, None, "a character device"),
        ("su f 4755 0 0 true", {}, None, "a setuid"),
        ("x f 644 0 0 true", {"app": "/etc"}, None, "leads outside"),
        ("x f 644 0 0 true", {}, lambda image: claim(image, 1_000_000), "1000000 members"),
        ("zeros f 644 0 0 head -c 9M /dev/zero", {}, None, "files of more than 8 MB"),
        ("x f 644 0 0 true", {}, truncated, "cannot be read"),
    ],
)
def test_an_image_that_must_not_be_opened_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pseudo: str, links: dict[str, str], spoil: Any, words: str
) -> None:
    monkeypatch.setattr(contents, "MOST_BYTES", 8 << 20)
    image = pack(tmp_path, pseudo, links=links)
    if spoil:
        spoil(image)
    content = image.read_bytes()
    about = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    paths, config = host(tmp_path, image)
    (paths.images / f"{NAME}.squashfs").unlink()
    with pytest.raises(BluegreenError, match=words):
        images.receive(
            paths, config, {"artifact": f"orders-{NAME}", "image": about}, lambda keep: keep(io.BytesIO(content))
        )
    assert list(paths.images.iterdir()) == []


# unpacking


def host(tmp_path: Path, image: Path, **config: Any) -> tuple[Paths, HostConfig]:
    paths = Paths("orders", tmp_path / "host")
    paths.images.mkdir(parents=True)
    image.rename(paths.images / f"{NAME}.squashfs")
    return paths, HostConfig("orders", "orders", "example.org", **({"min_free_mb": 0} | config))


def test_an_image_is_unpacked_with_modes_that_only_its_owner_can_change(tmp_path: Path) -> None:
    paths, config = host(tmp_path, pack(tmp_path, "open f 666 0 0 true", "run f 777 0 0 true", links={"lib64": "venv"}))
    images.unpack(paths, config, NAME)
    tree = paths.images / NAME
    modes = {path.relative_to(tree).as_posix(): path.lstat().st_mode & 0o7777 for path in tree.rglob("*")}
    assert modes == {
        "venv": 0o755, "venv/bin": 0o755, "venv/bin/gunicorn": 0o644, "venv/bin/python": 0o777, "lib64": 0o777,
        "open": 0o644, "run": 0o755,
    }  # fmt: skip
    assert {path.lstat().st_uid for path in tree.rglob("*")} == {os.getuid()}
    assert sorted(path.name for path in paths.images.iterdir()) == [NAME, f"{NAME}.squashfs"]


def test_what_must_not_be_in_it_is_not_unpacked(tmp_path: Path) -> None:
    paths, config = host(tmp_path, pack(tmp_path, "null c 666 0 0 1 3"))
    with pytest.raises(BluegreenError, match="a character device"):
        images.unpack(paths, config, NAME)
    assert [path.name for path in paths.images.iterdir()] == [f"{NAME}.squashfs"]


def test_an_image_that_does_not_fit_is_not_unpacked(tmp_path: Path) -> None:
    paths, config = host(tmp_path, pack(tmp_path), min_free_mb=1 << 40)
    with pytest.raises(BluegreenError, match="nearly full"):
        images.unpack(paths, config, NAME)
    assert [path.name for path in paths.images.iterdir()] == [f"{NAME}.squashfs"]


def test_what_appears_in_the_tree_later_is_seen(tmp_path: Path) -> None:
    """The user without privileges had the tree in its hands."""
    os.mkfifo(tmp_path / "pipe")
    with images.directory(tmp_path) as tree, pytest.raises(BluegreenError, match="a special file: pipe"):
        contents.settle(tree, os.getuid())
