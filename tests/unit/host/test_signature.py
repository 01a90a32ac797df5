"""Who signed an artifact: ssh-keygen's word, and a line that says what is wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bluegreen import images, signature
from bluegreen.errors import BluegreenError, Code
from tests.unit.host.test_images import put, stage

WHO = "ci@example.org"


class Keys:
    """Two keys, and what they sign."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("ours", "strange"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
            subprocess.run(command, check=True)

    def public(self, name: str = "ours") -> str:
        return " ".join((self.folder / f"{name}.pub").read_text().split()[:2])

    def allowed(self, options: str = "", name: str = "ours", who: str = WHO) -> str:
        return f"# who may sign\n{who} {options + ' ' if options else ''}{self.public(name)}\n"

    def sign(self, message: bytes, name: str = "ours", namespace: str = signature.NAMESPACE) -> str:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.folder / name), "-n", namespace]
        return subprocess.run(command, input=message, check=True, capture_output=True).stdout.decode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


def test_a_good_signature_names_its_signer(keys: Keys) -> None:
    found = signature.verify(b"text", keys.sign(b"text"), keys.allowed(f'namespaces="{signature.NAMESPACE}"'))
    assert found["principal"] == WHO
    assert found["key"] == signature.parse(keys.sign(b"x")).fingerprint
    assert found["type"] == "ED25519"


def test_several_names_and_patterns_on_one_line(keys: Keys) -> None:
    allowed = keys.allowed(who="!eve@example.org,*@example.org")
    assert signature.verify(b"text", keys.sign(b"text"), allowed)["principal"] == "*@example.org"


def test_the_next_key_beside_the_last_one(keys: Keys) -> None:
    """Rotation: both may sign for a while."""
    both = keys.allowed('valid-before="20200101Z"', "strange") + keys.allowed()
    assert signature.verify(b"text", keys.sign(b"text"), both)["principal"] == WHO
    with pytest.raises(BluegreenError, match=r"not valid now: artifact_signers says valid-before 2020-01-01"):
        signature.verify(b"text", keys.sign(b"text", "strange"), both)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "changed": ({"message": b"text "}, f"changed after it was signed: its signature is of {WHO}"),
    "of another namespace": ({"namespace": "git"}, "not made for an artifact: its namespace is 'git'"),
    "of a stranger": ({"name": "strange"}, "signed by a stranger: SHA256:"),
    "expired": ({"options": 'valid-before="20200101Z"'}, "not valid now: artifact_signers says valid-before 2020"),
    "not yet valid": ({"options": 'valid-after="20990101Z"'}, "not valid now: artifact_signers says valid-after 2099"),
    "for something else": ({"options": 'namespaces="git"'}, "may not sign artifacts: its line of artifact_signers"),
    "empty": ({"armoured": ""}, "cannot be read"),
    "junk": ({"armoured": "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"}, "cannot be read"),
    "huge": ({"armoured": "x" * 100_000}, "cannot be read"),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_signature_that_proves_nothing(keys: Keys, kind: str) -> None:
    change, words = CASES[kind]
    armoured = keys.sign(b"text", change.get("name", "ours"), change.get("namespace", signature.NAMESPACE))
    allowed = keys.allowed(change.get("options", ""))
    with pytest.raises(BluegreenError, match=words) as caught:
        signature.verify(change.get("message", b"text"), change.get("armoured", armoured), allowed)
    assert caught.value.code is Code.CHECK_FAILED
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["keys", "list"])
def test_a_revoked_key(keys: Keys, tmp_path: Path, form: str) -> None:
    revoked = f"# lost\n{keys.public()}\n".encode()
    if form == "list":
        subprocess.run(["ssh-keygen", "-k", "-q", "-f", tmp_path / "krl", keys.folder / "ours.pub"], check=True)
        revoked = (tmp_path / "krl").read_bytes()
    with pytest.raises(BluegreenError, match=rf"the key of {WHO} is revoked: SHA256:.* is in artifact_revoked"):
        signature.verify(b"text", keys.sign(b"text"), keys.allowed(), revoked)
    other = f"{keys.public('strange')}\n".encode()
    assert signature.verify(b"text", keys.sign(b"text"), keys.allowed(), other)["principal"] == WHO


def test_a_list_of_revoked_keys_that_cannot_be_read_lets_nobody_in(keys: Keys) -> None:
    with pytest.raises(BluegreenError, match="revoked"):
        signature.verify(b"text", keys.sign(b"text"), keys.allowed(), b"junk\n")


def test_what_is_signed_is_the_manifest_as_the_store_holds_it() -> None:
    manifest = {"b": [1, {"ä": None}], "a": "x"}
    assert json.loads(signature.text(manifest)) == manifest
    assert signature.text(dict(reversed(manifest.items()))) == signature.text(manifest)


# on a host


def signed(host: Any, keys: Keys, manifest: dict[str, Any], name: str = "ours", **more: Any) -> dict[str, Any]:
    armoured = keys.sign(signature.text(manifest), name)
    answer: dict[str, Any] = host.do("stage", manifest=manifest, signature=armoured, image="upload.squashfs", **more)
    return answer


def trust(host: Any, text: str, **config: Any) -> None:
    host.paths.signers.write_text(text)
    host.configure_host(require_signature=True, **config)


def test_a_host_keeps_who_signed(host: Any, keys: Keys, tools: Any) -> None:
    trust(host, keys.allowed())
    put(host)
    manifest = host.artifact(1)
    answer = signed(host, keys, manifest, sha=manifest["sha"])
    assert answer["signed"]["principal"] == WHO
    name = host.do("configure", artifact=manifest["artifact"], config=tools.CONFIG)["release"]
    kept = json.loads((host.paths.releases / name / "manifest.json").read_text())
    assert kept["signed"] == answer["signed"]
    assert {key: value for key, value in kept.items() if key != "signed"} == manifest


def rejected(host: Any, words: str, code: Code = Code.CHECK_FAILED, **step: Any) -> None:
    upload = put(host)
    for dry_run in (True, False):
        assert upload.exists()
        with pytest.raises(BluegreenError, match=words) as caught:
            host.do("stage", **{"image": "upload.squashfs", **step}, dry_run=dry_run)
        assert caught.value.code is code
    assert list(host.paths.images.iterdir()) == []
    assert list(host.paths.inbox.iterdir()) == [], "the upload was left behind"
    assert not any(call[0] == "mount" or "unsquashfs" in call for call in host.system.calls)


def test_a_host_with_signers_takes_nothing_else(host: Any, keys: Keys) -> None:
    trust(host, keys.allowed())
    manifest = host.artifact(1)
    good = keys.sign(signature.text(manifest))
    rejected(host, "is not signed: this host takes signed artifacts only", manifest=manifest)
    rejected(host, "stranger", manifest=manifest, signature=keys.sign(signature.text(manifest), "strange"))
    rejected(host, "changed after it was signed", manifest=manifest | {"python": "3.13 "}, signature=good)
    host.paths.revoked.write_text(keys.public() + "\n")
    rejected(host, "revoked", manifest=manifest, signature=good)


def test_a_host_that_knows_no_signer_takes_nothing_where_signatures_are_required(host: Any) -> None:
    host.configure_host(require_signature=True)
    rejected(host, "knows no signer.*provision.yml", Code.REFUSED, manifest=host.artifact(1))


def test_a_good_artifact_of_another_commit_is_refused(host: Any, keys: Keys) -> None:
    trust(host, keys.allowed())
    old, wanted = host.artifact(1), host.artifact(2)
    replayed = {"manifest": old, "signature": keys.sign(signature.text(old))}
    rejected(host, f"built from {old['sha'][:12]}: asked for was {wanted['sha'][:12]}", sha=wanted["sha"], **replayed)
    named = old | {"artifact": wanted["artifact"]}
    rejected(
        host, "is not of the commit that its manifest names", Code.BAD_INPUT,
        manifest=named, signature=keys.sign(signature.text(named)),
    )  # fmt: skip


def test_what_a_manifest_says_of_its_signer_is_not_believed(host: Any) -> None:
    put(host)
    manifest = host.artifact(1, signed={"principal": "root"})
    assert stage(host, manifest)["signed"] is None
    assert images.manifest_of(host.paths, images.parse_stem("orders", manifest["artifact"]))["signed"] is None  # type: ignore[index]
