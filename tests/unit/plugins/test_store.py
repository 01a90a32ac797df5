"""Stores: a directory, a web server, a release of GitHub. What is fetched is whole and ours, or not there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bluegreen import fetch, signature
from plugins.action import bluegreen_inputs
from plugins.module_utils import bluegreen_store as stores
from plugins.module_utils.bluegreen_artifacts import ArtifactError
from plugins.module_utils.bluegreen_inputs import Refused
from tests.unit.host.test_signature import WHO, Keys
from tests.unit.plugins.test_artifacts import SHA1, SHA2, STEM1, STEM2, manifest
from tests.unit.tls_server import TlsServer, make_certificate, serving

TOKEN = "marker-of-a-token"
IMAGE = b"the bytes of an image"


def described(stem: str, content: bytes = IMAGE, built_at: str = "2026-01-01T00:00:00Z", **more: Any) -> dict[str, Any]:
    about = {"file": f"{stem}.squashfs", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return manifest(stem, built_at, image=about, **more)


def put(folder: Path, stem: str, armoured: str = "", **more: Any) -> dict[str, Any]:
    made = described(stem, **more)
    (folder / f"{stem}.json").write_bytes(signature.text(made))
    (folder / f"{stem}.cdx.json").write_text("{}")
    (folder / f"{stem}.squashfs").write_bytes(IMAGE)
    if armoured:
        (folder / f"{stem}.json.sig").write_text(armoured)
    return made


# a directory


def test_only_finished_artifacts_are_chosen_from_a_directory(tmp_path: Path) -> None:
    older, newer = f"orders-{SHA1}-ffffffff", f"orders-{SHA1}-00000000"
    put(tmp_path, older)
    put(tmp_path, newer, built_at="2026-01-02T00:00:00Z")
    (tmp_path / f"{STEM2}.squashfs").write_text("half")
    store = stores.Directory(tmp_path)
    assert stores.choose(store, "orders", "abc123")[0] == newer
    assert stores.choose(store, "orders", None, older)[1]["artifact"] == older
    with pytest.raises(ArtifactError, match="no artifact of orders for abc124"):
        stores.choose(store, "orders", "abc124")
    with pytest.raises(ArtifactError, match="cannot be read"):
        stores.choose(stores.Directory(tmp_path / "none"), "orders", "abc123")


def test_a_manifest_of_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"{STEM1}.json").write_text(json.dumps(manifest(f"orders-{SHA1}-22222222")))
    with pytest.raises(ArtifactError, match="describes"):
        stores.choose(stores.Directory(tmp_path), "orders", "abc123")
    (tmp_path / f"{STEM1}.json").write_text("[]")
    with pytest.raises(ArtifactError, match="not a JSON object"):
        stores.choose(stores.Directory(tmp_path), "orders", "abc123")


@pytest.mark.parametrize("content", [b"", IMAGE[:-1], IMAGE[:-1] + b"E", IMAGE + b"x", None])
def test_a_damaged_image_is_refused(tmp_path: Path, content: bytes | None) -> None:
    made = put(tmp_path, STEM1)
    assert stores.Directory(tmp_path).image(made) == tmp_path / f"{STEM1}.squashfs"
    (tmp_path / f"{STEM1}.squashfs").unlink()
    if content is not None:
        (tmp_path / f"{STEM1}.squashfs").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"is damaged|cannot be read: No such file"):
        stores.Directory(tmp_path).image(made)


class Counted(stores.Directory):
    """A directory that knows which manifests were asked for."""

    asked: tuple[str, ...] = ()

    def manifest(self, stem: str) -> dict[str, Any]:
        self.asked += (stem,)
        return super().manifest(stem)


def test_only_manifests_of_the_commit_that_is_meant_are_read_and_not_too_many(tmp_path: Path) -> None:
    ours = [f"orders-{SHA1}-{number:08x}" for number in range(stores.MOST_RIVALS)]
    near = [f"orders-{SHA2}-00000000", f"orders-{SHA2}-00000001", f"orders-{SHA2[:8]}{'2' * 32}-00000000"]
    for stem in (*ours, *near, f"notes-{SHA1}-00000000"):
        put(tmp_path, stem)
    store = Counted(tmp_path)
    chosen = stores.choose(store, "orders", "abc123")[0]
    assert store.asked == (*ours, chosen)
    with pytest.raises(ArtifactError, match="is ambiguous"):
        stores.choose(store, "orders", SHA2[:8])
    assert stores.choose(store, "orders", None, ours[3])[0] == ours[3]
    assert store.asked == (*ours, chosen, ours[3])
    put(tmp_path, f"orders-{SHA1}-ffffffff")
    with pytest.raises(
        ArtifactError, match=r"holds 21 artifacts of orders for abc123, .* -e artifact=orders-"
    ) as caught:
        stores.choose(store, "orders", "abc123")
    assert "\n" not in str(caught.value)
    assert store.asked == (*ours, chosen, ours[3])


# behind https


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TlsServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stores, "cache_directory", lambda url: tmp_path / "cache")
    with serving(certificate) as made:
        yield made


def offer(server: TlsServer, folder: Path) -> str:
    """A web server that offers the directory of a store. Returns the store's address."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    server.answers["/store/index.json"] = (200, {}, json.dumps({"format": 1, "files": names}).encode())
    for name in names:
        server.answers[f"/store/{name}"] = (200, {}, (folder / name).read_bytes())
    return server.url("/store")


def release(server: TlsServer, folder: Path, pages: int = 1) -> str:
    """The same as a release of GitHub, whose files lie at another host. Returns the release's address in the API."""
    server.answers["/repos/o/r/releases/tags/v1"] = (
        200,
        {},
        json.dumps({"assets_url": server.url("/7/assets")}).encode(),
    )
    rows = [{"name": f"x{n}.txt", "state": "uploaded", "url": server.url("/x")} for n in range(100 * (pages - 1))]
    for number, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
        rows.append({"name": path.name, "state": "uploaded", "url": server.url(f"/assets/{number}")})
        server.answers[f"/assets/{number}"] = (302, {"Location": server.url(f"/blob/{number}", "127.0.0.1")}, b"")
        server.answers[f"/blob/{number}"] = (200, {}, path.read_bytes())
    rows.append({"name": f"{STEM2}.json", "state": "starter", "url": server.url("/assets/none")})
    for page in range(1, pages + 1):
        some = rows[100 * (page - 1) : 100 * page]
        server.answers[f"/7/assets?per_page=100&page={page}"] = (200, {}, json.dumps(some).encode())
    return server.url("/repos/o/r/releases/tags/v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is in the store."""
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.mark.parametrize("kind", ["index", "release", "long release"])
def test_an_artifact_is_chosen_and_fetched(server: TlsServer, folder: Path, kind: str) -> None:
    made = put(folder, STEM1, "signed")
    put(folder, f"orders-{SHA1}-00000000", built_at="2025-01-01T00:00:00Z")
    url = offer(server, folder) if kind == "index" else release(server, folder, 2 if kind == "long release" else 1)
    store = stores.open_store(url, TOKEN, 10)
    assert stores.choose(store, "orders", "abc123") == (STEM1, made)
    assert store.signature(STEM1) == "signed"
    image = store.image(made)
    assert image.read_bytes() == IMAGE
    files = store.files(made, "signed")
    assert files["manifest"].read_bytes() == (folder / f"{STEM1}.json").read_bytes()
    assert files["signature"].read_text() == "signed"
    for (path, _), token in zip(server.seen, server.tokens(), strict=True):
        assert token == ("" if path.startswith("/blob") else f"Bearer {TOKEN}"), path
    asked = len(server.seen)
    assert stores.open_store(url, TOKEN, 10).files(made, "signed") == files
    assert store.image(made) == image
    assert len(server.seen) == asked, "what is there is not fetched again"


def test_a_release_is_named_by_its_page() -> None:
    api = "https://api.github.com/repos/o/r/releases/tags/v1.0"
    assert stores.github_api("https://github.com/o/r/releases/tag/v1.0") == api
    assert stores.github_api(api) == api
    assert stores.github_api("https://ghe.example.org/api/v3/repos/o/r/releases/tags/v1")
    for other in ("https://github.com/o/r", "https://store.example.org/orders", "https://x.org/releases/tags/v1"):
        assert stores.github_api(other) == ""


def refused(store: stores.Directory | stores.Web, words: str, step: str = "choose") -> None:
    with pytest.raises(ArtifactError, match=words) as caught:
        stores.choose(store, "orders", "abc123") if step == "choose" else store.image(described(STEM1))
    assert "\n" not in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_store_that_refuses_is_one_line(server: TlsServer, folder: Path, status: int, tmp_path: Path) -> None:
    put(folder, STEM1)
    url = offer(server, folder)
    server.answers["/store/index.json"] = (status, {}, b"")
    refused(stores.open_store(url, TOKEN, 10), rf"index.json cannot be fetched \({status}\): .*artifact_token")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((404, {}, b""), r"cannot be fetched \(404\)"),
        ((200, {"Content-Length": str(len(IMAGE))}, IMAGE[:5]), r"came incompletely|connection broke"),
        ((200, {}, IMAGE[:5]), "is damaged: it has 5 bytes"),
        ((200, {}, IMAGE[:-1] + b"E"), "is damaged: its sha256"),
        ((200, {}, IMAGE * 2), "is too large"),
    ],
)
def test_half_an_image_is_not_kept(server: TlsServer, folder: Path, answer: Any, words: str, tmp_path: Path) -> None:
    put(folder, STEM1)
    url = offer(server, folder)
    server.answers[f"/store/{STEM1}.squashfs"] = answer
    refused(stores.open_store(url, TOKEN, 10), words, "image")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_store_that_answers_for_ever_is_left(server: TlsServer, folder: Path, tmp_path: Path) -> None:
    put(folder, STEM1)
    url = offer(server, folder)

    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not server.stopped.wait(0.05):
            handler.wfile.write(b"x")

    server.answers[f"/store/{STEM1}.squashfs"] = drip
    store = stores.Web(url, TOKEN, 10, tmp_path / "cache")
    store.links()  # a busy machine needs its time for them
    store.seconds = 0.3
    refused(store, r"no end after 0.3 s \(artifact_timeout\)", "image")
    assert list((tmp_path / "cache").iterdir()) == []


def test_all_that_a_store_tells_has_one_time(server: TlsServer, folder: Path, tmp_path: Path) -> None:
    for number in range(9):
        put(folder, f"orders-{SHA1}-{number:08x}")
    url = offer(server, folder)
    content = (folder / f"orders-{SHA1}-00000000.json").read_bytes()

    def slowly(handler: Any) -> None:
        server.stopped.wait(0.2)
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    for number in range(9):
        server.answers[f"/store/orders-{SHA1}-{number:08x}.json"] = slowly
    store = stores.Web(url, TOKEN, 10, tmp_path / "cache")
    store.links()
    store.left = 0.5
    refused(store, r"has not told what it holds within 10 s \(artifact_timeout\)")
    assert len(server.seen) < 6, "it is left before all were asked"


@pytest.mark.parametrize(
    "index", [b"", b"[]", b"{}", b'{"format": 2, "files": []}', b'{"format": 1, "files": "x"}', b"\xff"]
)
def test_an_index_that_is_none(server: TlsServer, index: bytes) -> None:
    server.answers["/store/index.json"] = (200, {}, index)
    refused(stores.open_store(server.url("/store/"), "", 10), r"index.json")


def test_names_that_lead_elsewhere_are_not_files_of_the_store() -> None:
    names = ["../x.json", "/etc/passwd", "a/b", "https://x/y", ".hidden", "a b", 7, "x.json"]
    assert stores.indexed({"format": 1, "files": names}, "https://s/") == {"x.json": stores.Link("https://s/x.json")}


def test_assets_at_another_host_are_not_asked_with_the_token(server: TlsServer) -> None:
    elsewhere = {"assets_url": server.url("/7/assets", "127.0.0.1")}
    server.answers["/repos/o/r/releases/tags/v1"] = (200, {}, json.dumps(elsewhere).encode())
    refused(stores.open_store(server.url("/repos/o/r/releases/tags/v1"), TOKEN, 10), "names no assets")
    store = stores.Web(server.url("/store"), TOKEN, 10, Path())
    server.answers["/x"] = (200, {}, b"x")
    store.get(stores.Link(server.url("/x", "127.0.0.1")), 10)
    assert server.tokens()[-1] == ""


def test_a_host_is_not_sent_to_another_place_with_the_token(server: TlsServer, folder: Path) -> None:
    put(folder, STEM1)
    url = release(server, folder)
    elsewhere = server.url("/theirs", "127.0.0.1")
    listed = json.loads(server.answers["/7/assets?per_page=100&page=1"][2])
    rows = [row | ({"url": elsewhere} if row["name"].endswith(".squashfs") else {}) for row in listed]
    server.answers["/7/assets?per_page=100&page=1"] = (200, {}, json.dumps(rows).encode())
    values = {"artifact_store": url, "artifact_token": TOKEN, "artifact_fetch": "host"}
    not_found(values, f"names an image at another place, {elsewhere}; hosts give artifact_token to the store alone")
    rows = [row | ({"url": server.url("/ours")} if row["name"].endswith(".squashfs") else {}) for row in listed]
    server.answers["/7/assets?per_page=100&page=1"] = (200, {}, json.dumps(rows).encode())
    assert find(values)["source"]["url"] == server.url("/ours")


def test_the_controller_keeps_the_last_few(tmp_path: Path) -> None:
    for number in range(8):
        for ending in (".json", ".json.sig", ".squashfs"):
            (tmp_path / f"x{number}{ending}").touch()
            os.utime(tmp_path / f"x{number}{ending}", (number, number))
    stores.forget(tmp_path)
    assert sorted({path.name.split(".")[0] for path in tmp_path.iterdir()}) == ["x3", "x4", "x5", "x6", "x7"]
    assert len(list(tmp_path.iterdir())) == 3 * stores.KEPT


# whose it is


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def settings(folder: Path, keys: Keys, **more: Any) -> dict[str, Any]:
    (folder / "signers.txt").write_text(keys.allowed())
    return {"artifact_store": str(folder), "artifact_signers": str(folder / "signers.txt")} | more


def find(values: dict[str, Any], sha: str = SHA1) -> dict[str, Any]:
    return bluegreen_inputs.find_artifact({"sha": sha, "artifact": None}, values, "orders")


def test_a_signed_artifact_is_found_with_its_signer(folder: Path, keys: Keys) -> None:
    put(folder, STEM1, keys.sign(signature.text(described(STEM1))))
    found = find(settings(folder, keys, artifact_require_signature=True))
    assert found["signer"]["principal"] == WHO
    assert (found["stem"], found["note"], found["source"]) == (STEM1, "", None)
    assert Path(found["signature"]).read_text().startswith("-----BEGIN SSH SIGNATURE")


def test_an_unsigned_artifact_passes_with_a_note_where_nobody_is_named(folder: Path) -> None:
    put(folder, STEM1)
    found = find({"artifact_store": str(folder)})
    assert (found["signer"], found["signature"]) == (None, "")
    assert "is not signed" in found["note"]
    put(folder, STEM1, "signed by somebody")
    assert "is not verified: artifact_signers is not set" in find({"artifact_store": str(folder)})["note"]


def not_found(values: dict[str, Any], words: str, sha: str = SHA1) -> None:
    with pytest.raises(Refused, match=words) as caught:
        find(values, sha)
    assert "\n" not in caught.value.what + caught.value.why + caught.value.todo


def test_an_unsigned_artifact_is_refused_by_the_name_of_the_setting(folder: Path, keys: Keys) -> None:
    put(folder, STEM1)
    for more, why in (({}, "artifact_signers"), ({"artifact_require_signature": True}, "artifact_require_signature")):
        with pytest.raises(Refused, match="is not signed") as caught:
            find(settings(folder, keys, **more))
        assert why in caught.value.why
        assert caught.value.todo == "scripts/build-artifact --sign KEY"


def test_production_as_it_comes_takes_nothing_that_nobody_named_has_signed(folder: Path, keys: Keys) -> None:
    shipped = Path(__file__).parents[3] / "inventories" / "production"
    values = yaml.safe_load((shipped / "group_vars" / "app_servers" / "main.yml").read_text())
    values |= {"artifact_store": str(folder)}
    values["artifact_signers"] = values["artifact_signers"].replace("{{ inventory_dir }}", str(shipped))
    put(folder, STEM1)
    not_found(values, "is not signed")
    put(folder, STEM1, keys.sign(signature.text(described(STEM1))))
    not_found(values, "signed by a stranger")


def test_what_proves_nothing_is_refused(folder: Path, keys: Keys) -> None:
    values, made = settings(folder, keys), described(STEM1)
    put(folder, STEM1, keys.sign(signature.text(made), "strange"))
    not_found(values, "signed by a stranger")
    put(folder, STEM1, keys.sign(signature.text(made)), python="3.14")
    not_found(values, "changed after it was signed")
    put(folder, STEM1, keys.sign(signature.text(made)))
    (folder / "past.txt").write_text(keys.allowed('valid-before="20200101Z"'))
    not_found(values | {"artifact_signers": str(folder / "past.txt")}, "with a key that is not valid now")
    put(folder, STEM1, keys.sign(signature.text(made), namespace="git"))
    not_found(values, "was not made for an artifact")
    put(folder, STEM1, keys.sign(signature.text(made)))
    (folder / "revoked").write_text(keys.public())
    not_found(values | {"artifact_revoked": str(folder / "revoked")}, "is revoked")
    not_found(values | {"artifact_revoked": str(folder / "missing")}, "artifact_revoked .* cannot be read")
    not_found(values | {"artifact_signers": str(folder / "missing")}, "artifact_signers .* cannot be read")


def test_a_good_artifact_under_another_name_is_refused(folder: Path, keys: Keys) -> None:
    """A replay: an older commit's artifact, well signed, in the place of the one that is asked for."""
    old = put(folder, STEM1, keys.sign(signature.text(described(STEM1))))
    for ending in (".json", ".json.sig", ".squashfs"):
        (folder / f"{STEM1}{ending}").rename(folder / f"{STEM2}{ending}")
    not_found(settings(folder, keys), f"was built from '{old['sha'][:12]}", SHA2)


def test_an_image_that_is_too_large_is_not_fetched(server: TlsServer, folder: Path, keys: Keys) -> None:
    huge = described(STEM1) | {"image": described(STEM1)["image"] | {"bytes": 3 << 30}}
    put(folder, STEM1)
    (folder / f"{STEM1}.json").write_bytes(signature.text(huge))
    not_found({"artifact_store": offer(server, folder)}, "is too large")
    assert not any(path.endswith(".squashfs") for path, _ in server.seen)


def test_where_hosts_fetch_the_controller_fetches_no_image(server: TlsServer, folder: Path) -> None:
    put(folder, STEM1)
    values = {"artifact_store": offer(server, folder), "artifact_token": TOKEN, "artifact_fetch": "host"}
    found = find(values)
    assert found["source"] == {"url": server.url(f"/store/{STEM1}.squashfs"), "accept": "", "seconds": 600.0}
    assert found["image"] == ""
    assert TOKEN not in repr(found)
    assert not any(path.endswith(".squashfs") for path, _ in server.seen)
    again = find(values | {"artifact_fetch": "controller"})
    assert Path(again["image"]).read_bytes() == IMAGE


def test_a_refusal_of_the_store_names_what_to_do(server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.answers["/store/index.json"] = (403, {}, b"")
    with pytest.raises(Refused, match=r"/store/index.json cannot be fetched \(403\)") as caught:
        find({"artifact_store": server.url("/store"), "artifact_token": TOKEN})
    assert "artifact_token" in caught.value.why
    assert fetch.REASONS[403] in caught.value.why
