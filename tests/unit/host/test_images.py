"""Opening artifacts: nothing in the inbox is trusted, and what is refused leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from bluegreen import contents, images
from bluegreen.errors import BluegreenError, Code

UPLOAD = "upload.squashfs"


def put(host: Any, number: int = 1, data: bytes | None = None, content: dict[str, str] | None = None) -> Path:
    path: Path = host.paths.inbox / UPLOAD
    path.write_bytes(host.bytes_of(number, content) if data is None else data)
    return path


def stage(host: Any, manifest: dict[str, Any], image: str | None = UPLOAD) -> dict[str, Any]:
    answer: dict[str, Any] = host.do("stage", manifest=manifest, image=image)
    return answer


def refused(host: Any, manifest: dict[str, Any], code: Code, words: str) -> None:
    with pytest.raises(BluegreenError, match=words) as caught:
        stage(host, manifest)
    assert caught.value.code is code
    assert list(host.paths.images.iterdir()) == [], "something was left behind"
    assert not [path for path in host.paths.inbox.iterdir() if not path.is_dir()], "the upload was left behind"
    assert images.staged(host.paths) == []


def test_asked_first_then_uploaded(host: Any) -> None:
    manifest = host.artifact(1)
    assert stage(host, manifest, None) == {"have": False, "stop": True}
    put(host)
    answer = stage(host, manifest)
    assert (answer["have"], answer["method"]) == (True, "mount")
    assert Path(answer["mounted"], "app/manage.py").exists()
    assert not (host.paths.inbox / UPLOAD).exists()
    assert (host.paths.images / f"{manifest['artifact'].removeprefix('orders-')}.squashfs").stat().st_mode & 0o77 == 0
    assert stage(host, manifest, None)["have"] is True


def test_a_host_that_cannot_mount_unpacks(host: Any) -> None:
    host.system.can_mount = False
    put(host)
    assert stage(host, host.artifact(1))["method"] == "unpack"
    assert len([call for call in host.system.calls if "-lln" in call]) == 1, "what was looked at is not looked at again"
    assert stage(host, host.artifact(1), None)["method"] == "unpack"
    assert not list(host.paths.images.glob(".tmp-*"))


def test_an_image_gets_its_name_when_it_is_on_the_disk_and_was_looked_at(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(host)
    manifest = host.artifact(1)
    image = host.paths.images / f"{manifest['artifact'].removeprefix('orders-')}.squashfs"
    aside, order = image.with_name(f".tmp-{image.name}"), []
    fsync, rename, look = os.fsync, os.rename, contents.look

    def noted_fsync(descriptor: int) -> None:
        order.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def noted_rename(old: Any, new: Any) -> None:
        order.append(("rename", str(old)))
        rename(old, new)

    def noted_look(path: Path, place: str) -> contents.Contents:
        order.append(("look", str(path)))
        held = [entry for entry in Path("/proc/self/fd").iterdir() if os.path.realpath(entry) == str(aside)]
        assert held == [], "a child without privileges would inherit it"
        return look(path, place)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(contents, "look", noted_look)
    stage(host, manifest)
    of_image = [word for word, path in order if path == str(aside)]
    assert sorted(of_image[:2]) == ["fsync", "look"]
    assert of_image[2:] == ["rename"]


def test_mounting_can_be_switched_off(host: Any) -> None:
    host.configure_host(mount=False)
    put(host)
    assert stage(host, host.artifact(1))["method"] == "unpack"
    assert not any(call[0] == "mount" for call in host.system.calls)


def test_neither_mount_nor_unpack(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.system.can_mount = False
    real = host.system.do_unsquashfs
    full = (1, "", "FATAL ERROR: no space left")
    monkeypatch.setattr(host.system, "do_unsquashfs", lambda words: full if "-dest" in words else real(words))
    put(host)
    with pytest.raises(BluegreenError, match=r"cannot be unpacked.*loop device; FATAL ERROR"):
        stage(host, host.artifact(1))
    assert list(host.paths.images.iterdir()) == []
    assert list(host.paths.inbox.iterdir()) == []


def test_what_is_no_image_is_not_opened(host: Any) -> None:
    data = b"not a squashfs"
    put(host, data=data)
    manifest = host.artifact(1, image={"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)})
    refused(host, manifest, Code.CHECK_FAILED, "cannot be read: FATAL ERROR")
    assert not any(call[0] == "mount" for call in host.system.calls)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"x" + data[1:], "sha256 [0-9a-f]{12}… instead of"),
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data + b"x", "bytes instead of"),
        (lambda data: b"", "0 bytes instead of"),
    ],
)
def test_other_bytes_are_refused(host: Any, change: Any, words: str) -> None:
    put(host, data=change(host.bytes_of(1)))
    refused(host, host.artifact(1), Code.CHECK_FAILED, words)


def test_a_huge_upload_is_not_copied_to_its_end(host: Any) -> None:
    path = put(host)
    with path.open("ab") as stream:
        stream.truncate(1 << 33)  # sparse
    refused(host, host.artifact(1), Code.CHECK_FAILED, "bytes instead of")


def test_links_pipes_and_directories_in_the_inbox_are_refused(host: Any) -> None:
    path = put(host)
    real = path.rename(host.root / "elsewhere")
    path.symlink_to(real)
    refused(host, host.artifact(1), Code.BAD_INPUT, "cannot be read from the inbox")
    assert not path.is_symlink()  # the upload goes …
    assert real.exists()  # … and what it pointed at stays
    os.mkfifo(path)
    refused(host, host.artifact(1), Code.BAD_INPUT, "is not a regular file")
    assert not path.exists()
    path.mkdir()
    refused(host, host.artifact(1), Code.BAD_INPUT, "is not a regular file")
    path.rmdir()
    refused(host, host.artifact(1), Code.BAD_INPUT, "No such file")


@pytest.mark.parametrize("name", ["../upload", "/etc/passwd", ".hidden", "a/b", ""])
def test_only_names_in_the_inbox(host: Any, name: str) -> None:
    with pytest.raises(BluegreenError, match=r"inbox"):
        stage(host, host.artifact(1), name)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"format": 2}, Code.BAD_INPUT, "format 2"),
        ({"app": "notes"}, Code.BAD_INPUT, "belongs to 'notes'"),
        ({"image": None}, Code.BAD_INPUT, "sha256 and size"),
        ({"image": {"sha256": "x", "bytes": 1}}, Code.BAD_INPUT, "sha256 and size"),
        ({"image": {"sha256": "a" * 64, "bytes": "1"}}, Code.BAD_INPUT, "sha256 and size"),
        ({"artifact": "orders-../../x"}, Code.BAD_INPUT, "is not an artifact of orders"),
        ({"artifact": f"notes-{'a' * 40}-{'b' * 8}"}, Code.BAD_INPUT, "is not an artifact of orders"),
        ({"python": "3.9"}, Code.REFUSED, "needs Python 3.9: this host has 3.13"),
        ({"arch": "riscv64"}, Code.REFUSED, "was built for riscv64"),
        ({"glibc": "2.99"}, Code.REFUSED, "built with glibc 2.99: this host has 2.41"),
    ],
)
def test_other_machines_and_applications(host: Any, change: dict[str, Any], code: Code, words: str) -> None:
    put(host)
    refused(host, host.artifact(1, **change), code, words)
    with pytest.raises(BluegreenError) as caught:
        host.do("stage", manifest=host.artifact(1, **change), dry_run=True)
    assert caught.value.code is code


def test_an_older_libc_is_fine(host: Any) -> None:
    put(host)
    assert stage(host, host.artifact(1, glibc="2.9"))["have"]


def test_no_space(host: Any) -> None:
    host.configure_host(min_free_mb=1 << 40)
    put(host)
    refused(host, host.artifact(1), Code.REFUSED, "nearly full.*must stay free.*bluegreen prune")


def test_the_disk_fills_while_copying(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    put(host)
    monkeypatch.setattr(os, "fsync", full)
    refused(host, host.artifact(1), Code.REFUSED, "cannot be copied.*No space left")


def test_the_same_name_with_other_bytes_is_refused(host: Any) -> None:
    put(host)
    stage(host, host.artifact(1))
    with pytest.raises(BluegreenError, match=r"staged here with other bytes"):
        stage(host, host.artifact(1, {"app/manage.py": "other"}), None)


def test_a_damaged_image_is_fetched_again(host: Any) -> None:
    put(host)
    stage(host, host.artifact(1))
    image = next(host.paths.images.glob("*.squashfs"))
    image.write_bytes(b"")
    assert stage(host, host.artifact(1), None) == {"have": False, "stop": True}
    put(host)
    assert stage(host, host.artifact(1))["have"]


def test_static_files_are_only_added(host: Any) -> None:
    def assets(number: int, text: str) -> tuple[dict[str, str], dict[str, Any]]:
        return {f"static/only{number}.css": "x", "static/sub/app.1.css": text}, {
            "url": "/static/",
            "hashed": [f"only{number}.css", "sub/app.1.css"],
        }

    shared = host.paths.static / "sub/app.1.css"
    for number, text, expected in ((1, "first", []), (2, "second!", ["sub/app.1.css"]), (3, "first", [])):
        content, static = assets(number, text)
        put(host, number, content=content)
        answer = stage(host, host.artifact(number, content, static=static))
        assert answer["static_differing"] == expected
        assert shared.read_text() == "first"
    assert sorted(path.name for path in host.paths.static.rglob("*.css")) == [
        "app.1.css",
        "only1.css",
        "only2.css",
        "only3.css",
    ]
    assert shared.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["/etc/passwd", "../app/manage.py", "a/../../b"])
def test_static_files_stay_in_their_directory(host: Any, name: str) -> None:
    put(host)
    refused(host, host.artifact(1, static={"hashed": [name]}), Code.BAD_INPUT, "outside its directory")


@pytest.mark.parametrize("link", ["absolute", "relative"])
def test_a_link_in_an_image_publishes_nothing_of_the_host(host: Any, link: str) -> None:
    target = str(host.paths.key) if link == "absolute" else "../../../../../etc/bluegreen/orders.key"
    content = {"static/app.1.css": f"->{target}"}
    put(host, content=content)
    with pytest.raises(BluegreenError, match=r"leads outside"):
        stage(host, host.artifact(1, content, static={"hashed": ["app.1.css"]}))
    assert not list(host.paths.static.iterdir())


def test_a_static_file_the_image_lacks(host: Any) -> None:
    put(host)
    refused(host, host.artifact(1, static={"hashed": ["none.css"]}), Code.BAD_INPUT, "is not a file of the image")
    host.system.can_mount = False
    put(host)
    refused(host, host.artifact(1, static={"hashed": ["none.css"]}), Code.BAD_INPUT, "is not a file of the image")


def test_static_root_may_be_a_link_inside_the_image(host: Any) -> None:
    content = {"static": "->app/public", "app/public/app.1.css": "x"}
    base = host.bytes_of

    def bytes_of(number: int, extra: dict[str, str] | None = None) -> bytes:
        import json

        found = json.loads(base(number, extra))
        return json.dumps({k: v for k, v in found.items() if not k.startswith("static/")}).encode()

    host.bytes_of = bytes_of
    put(host, content=content)
    assert stage(host, host.artifact(1, content, static={"hashed": ["app.1.css"]}))["static_added"] == 1


def test_a_crash_at_any_step_is_no_staged_image(host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is last; the next call completes what was begun."""
    killer = tools.Killer(monkeypatch, host.system)
    content = {"static/a.1.css": "x"}
    for unpack in (False, True):
        host.system.can_mount = not unpack
        steps, killed = 0, True
        while killed:
            number = 100 * (1 + unpack) + steps
            manifest = host.artifact(number, content, static={"hashed": ["a.1.css"]})
            name = manifest["artifact"].removeprefix("orders-")
            put(host, number, content=content)
            with killer.at(steps):
                stage(host, manifest)
            killed = killer.count > steps
            if name in images.staged(host.paths):
                assert images.is_open(host.paths.images / name)
            put(host, number, content=content)
            assert stage(host, manifest)["have"]
            assert (host.paths.images / name / "venv/bin/python").exists()
            steps += 1
        assert steps > 3
    host.do("reconcile")
    assert not list(host.paths.images.glob(".tmp-*"))
