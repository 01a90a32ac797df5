"""A host fetches from an https store itself, and takes only what somebody whom it trusts has signed. One story.

The host was bare. In what is refused here the controller is told to trust somebody else, or nobody: it lets the
artifact pass, and the host, which believes what provisioning wrote down, refuses it by itself.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import math
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from marks import expect_silence, found_in, found_on
from promises import INVENTORIES, LOGS, REPO, Deployment, Ran, known_releases

from bluegreen import signature
from bluegreen.contents import MOST_MEMBERS
from tests.unit.tls_server import TlsServer, make_certificate, serving

HOST = "bare12"
FROM = REPO / ".cache" / "test" / "artifacts"
TRUSTED = "/usr/local/share/ca-certificates/store-of-the-tests.crt"
BLIND = {"artifact_signers": "", "artifact_require_signature": False}  # a controller that verifies nothing
LOUD = ("-vvv", "--diff")


class Store:
    """A web server on this machine that holds artifacts, asks for a token, and knows who fetched what."""

    def __init__(self, server: TlsServer, folder: Path, address: str, token: str) -> None:
        self.server, self.folder, self.token = server, folder, token
        self.url = server.url("/store", address)
        self.fetched: list[tuple[str, str]] = []  # address of the client, name of the file

    def offer(self) -> None:
        """Serve what is in the folder now."""
        names = sorted(path.name for path in self.folder.iterdir() if path.name != "index.json")
        (self.folder / "index.json").write_text(json.dumps({"format": 1, "files": names}))
        self.server.answers = {f"/store/{name}": self._give(name) for name in (*names, "index.json")}

    def _give(self, name: str) -> Callable[[Any], None]:
        def answer(handler: Any) -> None:
            good = handler.headers["Authorization"] == f"Bearer {self.token}"
            content = (self.folder / name).read_bytes() if good else b"no token"
            self.fetched.append((handler.client_address[0], name))
            handler.send_response(200 if good else 401)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
            handler.close_connection = True

        return answer

    def put(self, release: str, key: Path | None) -> None:
        """The artifact of a release as it was built, signed with this key or with none, and nothing else of it."""
        stem = known_releases()[release]["stem"]
        for path in self.folder.glob(f"{stem}*"):
            path.unlink()
        for path in FROM.glob(f"{stem}.*"):
            shutil.copy(path, self.folder)
        if key:
            self.sign(release, key)
        self.offer()

    def sign(self, release: str, key: Path) -> None:
        """Sign the manifest as it is now."""
        manifest = self.file(release, ".json")
        sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", "bluegreen-artifact", "-f", key]
        made = subprocess.run(sign, input=manifest.read_bytes(), capture_output=True, check=True).stdout
        manifest.with_suffix(".json.sig").write_bytes(made)

    def put_with(self, release: str, key: Path, members: list[str]) -> None:
        """The artifact with more in its image, as mksquashfs(1) defines it, its manifest made to fit and signed."""
        self.put(release, None)
        image, manifest = self.file(release, ".squashfs"), self.file(release, ".json")
        with tempfile.TemporaryDirectory() as empty, tempfile.NamedTemporaryFile("w") as more:
            more.write("\n".join(members) + "\n")
            more.flush()
            add = ["mksquashfs", empty, image, "-pf", more.name, "-quiet", "-no-progress", "-no-recovery", "-all-root"]
            subprocess.run(add, check=True, capture_output=True)
        content = image.read_bytes()
        about: dict[str, Any] = json.loads(manifest.read_text())
        about["image"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_bytes(signature.text(about))
        self.sign(release, key)
        self.offer()

    def file(self, release: str, ending: str) -> Path:
        return self.folder / f"{known_releases()[release]['stem']}{ending}"

    def images(self) -> list[tuple[str, str]]:
        """Who fetched which image since the last question."""
        found = [one for one in self.fetched if one[1].endswith(".squashfs")]
        self.fetched.clear()
        return found


class Site:
    """The notes on the host that was bare, and the keys: of who signs, of who will, of a stranger."""

    def __init__(self, vm: Deployment, store: Store, place: Path) -> None:
        self.store, self.began = store, f"@{time.time() - 1:.0f}"
        self.keys = {name: make_key(place / name) for name in ("ours", "next", "stranger")}
        self.revoked = place / "revoked.txt"
        self.revoked.touch()
        known = signers(place / "signers.txt", self.keys["ours"], self.keys["next"])
        self.deployment = vm.variant(
            place,
            hosts={"app_servers": {"hosts": {HOST: {"ansible_host": vm.address(HOST)}}}},
            artifact_store=store.url,
            artifact_fetch="host",
            artifact_token="{{ lookup('ansible.builtin.env', 'TOKEN_OF_THE_STORE') }}",
            artifact_signers=str(known),
            artifact_revoked=str(self.revoked),
            artifact_require_signature=True,
        )

    def deploy(self, release: str, **told: Any) -> Ran:
        """A deploy with all that it can say; `told`: other settings for the controller alone."""
        sha = self.deployment.sha(release)
        ran = self.deployment.playbook("deploy.yml", *LOUD, "-e", json.dumps(told), sha=sha, watch=0)
        expect_silence(ran.output, self.store.token)
        return ran

    def refused(self, release: str, *named: str, **told: Any) -> Ran:
        """The host refuses in three lines; what serves is as before, and nothing of the artifact stays."""
        before = self.deployment.snapshot()
        ran = self.deploy(release, **told)
        assert ran.status != 0, ran.tail()
        lines = [line for line in ran.lines if line.lstrip().startswith(("FAILED", "why", "next"))][-3:]
        assert len(lines) == 3, ran.tail()
        for word in (HOST, *named):
            assert word in " ".join(lines), f"the three lines should name {word!r}\n{ran.tail()}"
        assert self.deployment.snapshot() == before
        left = self.deployment.on(HOST, "ls -A /srv/notes/inbox; find /tmp -name 'bluegreen-*'")
        assert left == "", left
        return ran


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", path], check=True)
    return path


def signers(path: Path, *keys: Path) -> Path:
    """A file of those who may sign."""
    lines = [f'{key.name}@example.org namespaces="bluegreen-artifact" {public(key)}' for key in keys]
    path.write_text("".join(lines))
    return path


def public(key: Path) -> str:
    return key.with_suffix(".pub").read_text()


@pytest.fixture(scope="module")
def site(vm: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The store, a host that trusts its certificate, and the keys."""
    place = tmp_path_factory.mktemp("signed")
    (place / "store").mkdir()
    here = str(ipaddress.ip_network(f"{vm.address(HOST)}/24", strict=False)[1])  # this machine, as the hosts see it
    certificate = make_certificate(place, here)
    token = f"token{secrets.token_hex(12)}"
    with pytest.MonkeyPatch.context() as patch, serving(certificate, here) as server:
        patch.setenv("SSL_CERT_FILE", str(place / "only.pem"))
        patch.setenv("TOKEN_OF_THE_STORE", token)
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        made = Site(vm, Store(server, place / "store", here, token), place)
        coded = base64.b64encode((place / "only.pem").read_bytes()).decode()
        made.deployment.on(HOST, f"echo {coded} | base64 -d > {TRUSTED} && update-ca-certificates 2>&1")
        yield made
    # other scenarios want it bare
    subprocess.run([REPO / "scripts" / "hosts", "down", INVENTORIES / "vm", HOST], check=True, timeout=120)


def test_provisioning_tells_the_host_who_may_sign(site: Site) -> None:
    site.deployment.provision()
    told = site.deployment.on(HOST, "cat /etc/bluegreen/notes.signers")
    assert public(site.keys["ours"]).strip() in told
    assert public(site.keys["stranger"]).strip() not in told


def test_a_signed_artifact_is_fetched_by_the_host_verified_and_goes_live(site: Site) -> None:
    site.store.put("n1", site.keys["ours"])
    ran = site.deploy("n1")
    assert ran.status == 0, ran.tail()
    site.deployment.expect_live("n1")
    image = site.store.file("n1", ".squashfs").name
    assert site.store.images() == [(site.deployment.address(HOST), image)], "the controller has not fetched it"
    stem = known_releases()["n1"]["stem"].removeprefix("notes-")
    signed = json.loads(site.deployment.on(HOST, f"cat /srv/notes/images/{stem}.json"))["signed"]
    assert signed["principal"] == "ours@example.org"


def test_an_unsigned_artifact_is_refused_by_the_host(site: Site) -> None:
    site.store.put("n2", None)
    site.refused("n2", "is not signed", "artifact_signers", **BLIND)
    assert site.store.images() == [], "not fetched either"


def test_an_artifact_that_a_stranger_signed_is_refused_by_the_host(site: Site, tmp_path: Path) -> None:
    site.store.put("n2", site.keys["stranger"])
    theirs = signers(tmp_path / "signers.txt", site.keys["stranger"])
    site.refused("n2", "was signed by a stranger", artifact_signers=str(theirs))
    assert site.store.images() == []


def test_a_manifest_that_was_changed_after_signing_is_refused_by_the_host(site: Site) -> None:
    site.store.put("n2", site.keys["ours"])
    manifest = site.store.file("n2", ".json")
    changed = json.loads(manifest.read_text()) | {"built_at": "2001-01-01T00:00:00Z"}
    manifest.write_text(json.dumps(changed))
    site.refused("n2", "was changed after it was signed", **BLIND)
    assert site.store.images() == []


def test_an_image_that_was_changed_after_signing_is_refused_by_the_host(site: Site) -> None:
    site.store.put("n2", site.keys["ours"])
    with site.store.file("n2", ".squashfs").open("r+b") as image:
        image.seek(100_000)
        byte = image.read(1)[0]
        image.seek(100_000)
        image.write(bytes([byte ^ 1]))
    site.refused("n2", "what came is not the image")
    assert [client for client, _ in site.store.images()] == [site.deployment.address(HOST)]


def many(members: int) -> list[str]:
    """As many directories and a few more, some hundred in each: mksquashfs is slow where one holds thousands."""
    each = range(math.isqrt(members) + 1)
    return [line for top in each for line in (f"m{top} d 755 0 0", *(f"m{top}/{below} d 755 0 0" for below in each))]


@pytest.mark.parametrize(
    ("members", "named"),
    [
        (["null c 666 0 0 1 3", "su f 4755 0 0 true"], "the image holds a character device"),
        (many(MOST_MEMBERS), f"an image may have {MOST_MEMBERS}"),
    ],
    ids=["a device and a setuid file", "too many members"],
)
def test_an_image_that_would_do_harm_is_refused_by_the_host_though_it_is_signed(
    site: Site, members: list[str], named: str
) -> None:
    site.store.put_with("n2", site.keys["ours"], members)
    site.refused("n2", named)
    assert [client for client, _ in site.store.images()] == [site.deployment.address(HOST)]
    stem = known_releases()["n2"]["stem"].removeprefix("notes-")
    left = site.deployment.on(HOST, f"find /srv /tmp /var/tmp /run -xdev -name '*{stem}*' -o -xdev -name '.tmp-*'")
    assert left == "", left


def test_a_store_that_refuses_the_hosts_token_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.store.put("n2", site.keys["ours"])
    image = site.store.file("n2", ".squashfs").name
    monkeypatch.setitem(site.store.server.answers, f"/store/{image}", (403, {}, b"no"))
    site.refused("n2", "cannot be fetched (403)", "artifact_token")


def test_a_signer_whose_key_was_revoked_is_refused_by_the_host_after_provisioning(site: Site) -> None:
    site.store.put("n2", site.keys["ours"])
    site.revoked.write_text(public(site.keys["ours"]))
    site.deployment.provision()
    site.refused("n2", "the key of ours@example.org is revoked", artifact_revoked="")


def test_what_the_next_key_signs_goes_live_and_no_request_fails(site: Site) -> None:
    site.store.put("n2", site.keys["next"])
    site.store.images()
    with site.deployment.under_load():
        ran = site.deploy("n2")
        assert ran.status == 0, ran.tail()
    site.deployment.expect_live("n2")
    assert [client for client, _ in site.store.images()] == [site.deployment.address(HOST)]


def test_the_token_of_the_store_is_nowhere(site: Site) -> None:
    token = site.store.token
    places = [LOGS, Path(tempfile.gettempdir()), Path("~/.ansible").expanduser(), Path("/dev/shm"), REPO / ".cache"]
    assert found_in([str(place) for place in places if place.exists()], token, site.began) == []
    options = "--devices=skip --exclude-dir=images --exclude-dir=journal"
    on_host = f"grep -rlaFs -f - {options} /etc /home /root /run /srv /tmp /usr/local /var"
    assert found_on(site.deployment, HOST, on_host, token) == []
    assert found_on(site.deployment, HOST, "journalctl -q --no-pager -o export | grep -aFc -f -", token) == ["0"]
