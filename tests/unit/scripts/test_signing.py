"""Signing with a key file or an agent's key; an artifact that somebody else put into the store is not ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bluegreen import signature
from support.artifact import build, sign, signing, sources, store
from support.artifact.errors import InputError

MANIFEST: dict[str, Any] = {"artifact": "x", "image": {"bytes": 5}}


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path], check=True)
    return path


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_key(tmp_path_factory.mktemp("keys") / "key")


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


def publish(folder: Path, armoured: str = "", manifest: dict[str, Any] = MANIFEST) -> Path:
    (folder / "made").write_bytes(b"image")
    (folder / "store").mkdir(exist_ok=True)
    store.publish(folder / "store", "x", folder / "made", folder / "made", manifest, armoured)
    return folder / "store"


def test_the_signature_lies_beside_the_manifest_and_fits_its_bytes(tmp_path: Path, key: Path) -> None:
    folder = publish(tmp_path, signing.sign(signature.text(MANIFEST), key))
    allowed = f"ci {key.with_suffix('.pub').read_text()}"
    armoured = (folder / "x.json.sig").read_text()
    # exactly the file, so that a person can verify it by hand
    assert signature.verify((folder / "x.json").read_bytes(), armoured, allowed)["principal"] == "ci"
    assert store.is_signed(folder, "x")
    assert not store.is_signed(publish(tmp_path), "x"), "an older signature must not stay"


def test_the_index_lists_what_the_store_holds(tmp_path: Path, key: Path) -> None:
    folder = publish(tmp_path, signing.sign(b"", key))
    assert json.loads((folder / "index.json").read_text()) == {
        "format": 1,
        "files": ["x.cdx.json", "x.json", "x.json.sig", "x.squashfs"],
    }


NAME = f"shop-{'a' * 40}-01234567"


def built(folder: Path) -> Path:
    """A store with an artifact that nobody signed."""
    (folder / "image").write_bytes(b"image")
    (folder / "sbom").write_bytes(b"sbom")
    (folder / "store").mkdir()
    parts = {"image": ("squashfs", "image"), "sbom": ("cdx.json", "sbom")}
    files = {part: {"file": f"{NAME}.{end}", "sha256": store.sha256(folder / of)} for part, (end, of) in parts.items()}
    manifest = {"artifact": NAME, "sha": "a" * 40, **files}
    store.publish(folder / "store", NAME, folder / "image", folder / "sbom", manifest)
    return folder / "store"


def words_for(folder: Path, key: Path, sha: str = "a" * 40, name: str = NAME) -> list[str]:
    return [name, str(folder), "--sha", sha, "--sign", str(key)]


def test_what_was_built_elsewhere_is_signed(tmp_path: Path, key: Path) -> None:
    folder = built(tmp_path)
    assert sign.main(words_for(folder, key)) == 0
    allowed = f"ci {key.with_suffix('.pub').read_text()}"
    armoured = (folder / f"{NAME}.json.sig").read_text()
    assert signature.verify((folder / f"{NAME}.json").read_bytes(), armoured, allowed)["principal"] == "ci"
    assert f"{NAME}.json.sig" in (folder / "index.json").read_text()


@pytest.mark.parametrize("ending", ["squashfs", "cdx.json", "json"])
@pytest.mark.parametrize("content", ["", '{"artifact": "x"}', None])
def test_files_that_do_not_fit_each_other_are_not_signed(
    tmp_path: Path, key: Path, ending: str, content: str | None
) -> None:
    path = built(tmp_path) / f"{NAME}.{ending}"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError):
        sign.main(words_for(path.parent, key))
    assert not store.is_signed(path.parent, NAME)


@pytest.mark.parametrize("asked", [{"sha": "b" * 40}, {"name": f"../{NAME}"}, {"name": "other"}])
def test_another_artifact_than_the_one_that_was_asked_for_is_not_signed(
    tmp_path: Path, key: Path, asked: dict[str, str]
) -> None:
    folder = built(tmp_path)
    with pytest.raises(InputError):
        sign.main(words_for(folder, key, **asked))
    assert list(folder.glob("*.sig")) == []


def test_an_agent_signs_for_a_public_key(tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tmp_path / "alone.pub"
    alone.write_text(key.with_suffix(".pub").read_text())
    with pytest.raises(InputError, match=r"no ssh-agent holds its private half"):
        signing.check_key(alone)
    for agent in agents(tmp_path):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(agent))
        subprocess.run(["ssh-add", "-q", key], check=True, capture_output=True)
        assert signing.check_key(alone) == alone.read_text().split()[1]


def agents(tmp_path: Path) -> Iterator[Path]:
    """An ssh-agent for the length of a loop's one turn."""
    said = subprocess.run(["ssh-agent", "-c", "-a", tmp_path / "agent"], check=True, capture_output=True, text=True)
    process = int(next(line.split()[2].rstrip(";") for line in said.stdout.splitlines() if "AGENT_PID" in line))
    try:
        yield tmp_path / "agent"
    finally:
        os.kill(process, signal.SIGTERM)


def test_a_key_that_cannot_sign_is_refused_before_the_build(tmp_path: Path, key: Path) -> None:
    for path, words in (
        (make_key(tmp_path / "locked", "secret"), "the key has a passphrase: ssh-add it, and give its .pub file"),
        (tmp_path / "missing", "is not a file: name a private key"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            signing.check_key(path)
        assert "\n" not in str(caught.value)
        assert caught.value.code == 2
    (tmp_path / "junk").write_text("junk")
    with pytest.raises(InputError, match="--sign"):
        signing.check_key(tmp_path / "junk")


def test_only_an_artifact_of_ours_stands_for_the_one_to_be_built(tmp_path: Path, key: Path) -> None:
    strange, colleague = make_key(tmp_path / "strange"), make_key(tmp_path / "colleague")
    text = signature.text(MANIFEST)
    allowed = f"colleague {colleague.with_suffix('.pub').read_text()}"
    trusted = signing.trusting(signing.check_key(key), allowed)
    other = MANIFEST | {"artifact": "y"}
    found = {
        name: store.find(publish(tmp_path, armoured, manifest), "x", trusted) is not None
        for name, armoured, manifest in (
            ("ours", signing.sign(text, key), MANIFEST),
            ("a colleague's", signing.sign(text, colleague), MANIFEST),
            ("a stranger's", signing.sign(text, strange), MANIFEST),
            ("unsigned", "", MANIFEST),
            ("changed", signing.sign(text, key), MANIFEST | {"more": 1}),
            ("another's", signing.sign(signature.text(other), key), other),
        )
    }
    assert [name for name, good in found.items() if good] == ["ours", "a colleague's"]
    revoked = colleague.with_suffix(".pub").read_bytes()
    trusted = signing.trusting(signing.check_key(key), allowed, revoked)
    assert store.find(publish(tmp_path, signing.sign(text, colleague)), "x", trusted) is None


def test_the_signers_of_an_inventory(tmp_path: Path) -> None:
    (tmp_path / "signers.txt").write_text("a b c")
    values = {"artifact_signers": "{{ inventory_dir }}/signers.txt", "inventory_dir": str(tmp_path)}
    assert sources.signers(values, Path("/repo")) == ("a b c", b"")
    assert sources.signers({}, Path("/repo")) == ("", b"")
    for wrong in ("{{ somewhere }}", "missing", 3):
        with pytest.raises(InputError, match=r"artifact_signers .* is not a file"):
            sources.signers({"artifact_signers": wrong}, tmp_path)


def test_the_run_that_builds() -> None:
    github = {"GITHUB_SERVER_URL": "https://github.com", "GITHUB_REPOSITORY": "a/b", "GITHUB_RUN_ID": "7"}
    assert build.run_of(github) == "https://github.com/a/b/actions/runs/7"
    assert build.run_of(github | {"GITHUB_RUN_ATTEMPT": "2"}) == "https://github.com/a/b/actions/runs/7/attempts/2"
    assert build.run_of({"CI_JOB_URL": "https://ci/1"}) == "https://ci/1"
    assert build.run_of({}) == ""
