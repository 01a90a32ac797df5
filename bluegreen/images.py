"""Opening artifacts: a squashfs image, mounted read-only, or unpacked where a host cannot mount."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bluegreen import files, privileges, units
from bluegreen.config import HostConfig, Paths
from bluegreen.errors import BluegreenError, bad_input, check_failed, refused

if TYPE_CHECKING:
    from bluegreen import contents

FORMAT = 1
MIB = 1 << 20


def parse_stem(app: str, stem: str) -> str:
    """The image's name on a host, `<sha>-<recipe8>`, of the artifact `<app>-<sha>-<recipe8>`."""
    match = re.fullmatch(rf"{re.escape(app)}-([0-9a-f]{{40}}-[0-9a-f]{{8}})", stem)
    if not match:
        raise bad_input(f"{stem!r} is not an artifact of {app}", f"wanted: {app}-<40 hex digits>-<8 hex digits>")
    return match.group(1)


def check_manifest(manifest: dict[str, Any], app: str, sha: str = "") -> None:
    """Refuse a manifest that is not this application's, not of this format, or not of the commit that was asked for.

    sha: the commit, 40 hex digits; empty where the caller does not say.
    """
    if manifest.get("format") != FORMAT:
        raise bad_input(
            f"the manifest has format {manifest.get('format')!r}",
            f"this host reads format {FORMAT}",
            "run ansible-playbook provision.yml",
        )
    if manifest.get("app") != app:
        raise bad_input(f"the artifact belongs to {manifest.get('app')!r}", f"this is {app}")
    image = manifest.get("image")
    if (
        not isinstance(image, dict)
        or not re.fullmatch(r"[0-9a-f]{64}", str(image.get("sha256")))
        or not isinstance(image.get("bytes"), int)
    ):
        raise bad_input("the manifest does not say the image's sha256 and size")
    name = parse_stem(app, str(manifest.get("artifact")))
    held = str(manifest.get("sha"))
    if not name.startswith(f"{held}-") or len(held) != 40:
        raise bad_input(f"the artifact {manifest.get('artifact')} is not of the commit that its manifest names")
    if sha and held != sha:
        # a signed manifest of another commit is a good one, and yet not what was asked for
        raise check_failed(f"the artifact was built from {held[:12]}", f"asked for was {sha[:12]}", "look at the store")


def check_origin(
    paths: Paths,
    config: HostConfig,
    manifest: dict[str, Any],
    armoured: str,
    meanwhile: Callable[[], None] | None = None,
) -> dict[str, str] | None:
    """Who signed the manifest, by the signers that provisioning wrote down; None where none were and none is needed.

    `meanwhile` is done here while ssh-keygen works, if it does.
    Raises BluegreenError for a manifest that nobody trusted has signed.
    """
    provision = "see artifact_signers, then ansible-playbook provision.yml"
    allowed = paths.signers.read_text(encoding="utf-8") if paths.signers.exists() else None
    if allowed is None:
        if config.require_signature:
            raise refused("this host takes signed artifacts only, and knows no signer", str(paths.signers), provision)
        return None
    if not armoured:
        raise check_failed(
            f"{manifest['artifact']} is not signed",
            "this host takes signed artifacts only (artifact_signers, artifact_require_signature)",
            "sign it: scripts/build-artifact --sign KEY",
        )
    from bluegreen import signature  # only staging needs it

    revoked = paths.revoked.read_bytes() if paths.revoked.exists() else b""
    message = signature.text(manifest)
    found: dict[str, str] = privileges.call(
        lambda: signature.verify(message, armoured, allowed, revoked),
        timeout=4 * signature.PATIENCE,
        meanwhile=meanwhile,
    )
    return found


def get_ready(source: dict[str, Any] | None) -> None:
    """Import what staging from a store, or from the inbox, will need; that takes as long as verifying a signature."""
    import hashlib  # noqa: F401

    if source is not None:
        from bluegreen import fetch  # noqa: F401


def version(text: str) -> tuple[int, ...]:
    """Numbers of a dotted version."""
    return tuple(int(part) for part in re.findall(r"\d+", text))


def check_platform(manifest: dict[str, Any], machine: str, glibc: str, pythons: set[str]) -> None:
    """Refuse an artifact whose Python, architecture or C library this host lacks."""
    wanted = str(manifest.get("python"))
    if manifest.get("arch") != machine:
        raise refused(f"the artifact was built for {manifest.get('arch')}", f"this host is {machine}")
    if wanted not in pythons:
        raise refused(
            f"the artifact needs Python {wanted}",
            f"this host has {', '.join(sorted(pythons)) or 'none'}",
            "set app_python to the hosts' Python and build again",
        )
    built = str(manifest.get("glibc") or "")
    if built and glibc and version(built) > version(glibc):
        raise refused(
            f"the artifact was built with glibc {built}", f"this host has {glibc}", "build on the hosts' Debian release"
        )


def host_pythons(root: Path = Path("/")) -> set[str]:
    """The Python versions of the system, as in `3.13`."""
    found = (re.fullmatch(r"python(3\.\d+)", path.name) for path in (root / "usr/bin").glob("python3.*"))
    return {match.group(1) for match in found if match}


def host_glibc() -> str:
    """The C library's version, as in `2.41`."""
    with contextlib.suppress(ValueError, OSError):
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")
    return ""


def is_mounted(path: Path) -> bool:
    """Whether something is mounted at `path`."""
    return os.path.ismount(path)


def is_open(path: Path) -> bool:
    """Whether the image can be used: mounted, or unpacked."""
    return is_mounted(path) or (path / "venv").exists()


def manifest_of(paths: Paths, name: str) -> dict[str, Any] | None:
    """The manifest of a completely staged image; it is written last."""
    return files.read_json(paths.images / f"{name}.json")


def digest(path: Path) -> str:
    """The sha256 of a file."""
    import hashlib  # slow to import

    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def staged(paths: Paths) -> list[str]:
    """The names of all completely staged images."""
    return sorted(path.stem for path in paths.images.glob("*.json"))


def open_image(paths: Paths, config: HostConfig, name: str, known: contents.Contents | None = None) -> str:
    """Mount the image, or unpack it where mounting fails. Returns the method: mount or unpack.

    known: what is inside, where that was looked at in this call.
    """
    target = paths.images / name
    image = paths.images / f"{name}.squashfs"
    if is_mounted(target):
        return "mount"
    if (target / "venv").exists():
        return "unpack"
    problem = "mounting is switched off (mount = false)"
    if config.mount:
        target.mkdir(mode=0o755, exist_ok=True)
        done = units.run(
            ("mount", "-t", "squashfs", "-o", "loop,ro,nosuid,nodev", str(image), str(target)), check=False
        )
        if done.returncode == 0:
            return "mount"
        problem = units.last_line(done.stderr)
    with contextlib.suppress(OSError):
        target.rmdir()
    try:
        unpack(paths, config, name, known)
    except BluegreenError as other:
        other.why = "; ".join(part for part in (f"it cannot be mounted here: {problem}", other.why) if part)
        raise
    return "unpack"


def unpack(paths: Paths, config: HostConfig, name: str, known: contents.Contents | None = None) -> None:
    """Unpack an image into a directory of its own name, for a host that cannot mount. Raises BluegreenError.

    A user without privileges unpacks, below a directory that only root may enter; then all of it becomes root's.
    known: what is inside, as in open_image; else it is looked at first.
    """
    from bluegreen import contents  # most calls open nothing

    image, target = paths.images / f"{name}.squashfs", paths.images / name
    check_space(paths, config, (known or inspect(image, place_of(paths, name))).bytes)
    aside = paths.images / f"{files.TEMPORARY_PREFIX}unpack-{name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    try:
        work = aside / "work"
        work.mkdir(mode=0o700)
        if probe := probe_account():
            os.chown(work, probe.pw_uid, probe.pw_gid)
        with readable(image), directory(work) as place:
            privileges.call(lambda: contents.unpack(image, place), timeout=contents.UNPACK_SECONDS + 10)
        with directory(work / "tree") as tree:
            contents.settle(tree, os.getuid())
        # one syncfs: thousands of single fsyncs took 11 s where this takes one
        units.run(("sync", "--file-system", str(aside)))
        os.rename(work / "tree", target)
        files.fsync_directory(paths.images)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def place_of(paths: Paths, name: str) -> str:
    """The path that an image was built for; its absolute links lead there."""
    return f"/srv/{paths.app}/images/{name}"


def inspect(image: Path, place: str, meanwhile: Callable[[], None] | None = None) -> contents.Contents:
    """Look inside an image without opening it; `meanwhile` is done here while that goes on.

    Raises BluegreenError for what must not be in it; see contents.py.
    """
    from bluegreen import contents  # most calls open nothing

    contents.claimed(image)
    with readable(image):
        seconds = contents.LIST_SECONDS + 10
        found = privileges.call(lambda: contents.look(image, place), timeout=seconds, meanwhile=meanwhile)
    return contents.Contents(*found)


def probe_account() -> pwd.struct_passwd | None:
    """The account without privileges, where there is one and this is root."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(privileges.PROBE_USER) if os.getuid() == 0 else None
    return None


@contextlib.contextmanager
def readable(image: Path) -> Iterator[None]:
    """Let the account without privileges read an image for a while; else it is root's alone."""
    probe = probe_account()
    if probe is None:
        yield
        return
    os.chown(image, 0, probe.pw_gid)
    os.chmod(image, 0o640)
    try:
        yield
    finally:
        os.chmod(image, 0o600)
        os.chown(image, 0, 0)


@contextlib.contextmanager
def directory(path: Path) -> Iterator[int]:
    """A directory's descriptor; never a link's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def close_image(paths: Paths, name: str) -> None:
    """Unmount the image, or remove the unpacked directory."""
    target = paths.images / name
    if is_mounted(target):
        units.run(("umount", str(target)))
    if target.exists():
        files.remove_tree(target)


def free_bytes(path: Path) -> int:
    """Bytes that a new file may use."""
    stats = os.statvfs(path)
    return stats.f_bavail * stats.f_frsize


def check_space(paths: Paths, config: HostConfig, needed: int) -> None:
    """Refuse before the disk is full: the running release must still be able to write."""
    free = free_bytes(paths.images)
    if free - needed < config.min_free_mb * MIB:
        raise refused(
            f"the disk of {paths.images} is nearly full",
            f"{free // MIB} MB free, {needed // MIB} MB needed and {config.min_free_mb} MB must stay free",
            f"free some space, for example: bluegreen prune --app {paths.app} --keep 2",
        )


Keep = Callable[[IO[bytes]], None]


def receive(
    paths: Paths, config: HostConfig, manifest: dict[str, Any], deliver: Callable[[Keep], object]
) -> contents.Contents:
    """Copy an image into a root-owned file while hashing it, and look inside. Returns what is in it.

    `deliver` is given the function that reads the bytes; whoever sends them is not trusted. What is refused leaves
    nothing behind. Raises BluegreenError.
    """
    import hashlib  # slow to import, and only `stage` needs it

    name = parse_stem(paths.app, manifest["artifact"])
    wanted, size = manifest["image"]["sha256"], manifest["image"]["bytes"]
    check_space(paths, config, size)
    final = paths.images / f"{name}.squashfs"
    temporary = paths.images / f"{files.TEMPORARY_PREFIX}{name}.squashfs"
    digest = hashlib.sha256()
    copied = 0

    def keep(reader: IO[bytes]) -> None:
        nonlocal copied
        # opened here and not before: a child that delivers must not inherit it
        with open(temporary, "wb") as writer:
            os.fchmod(writer.fileno(), 0o600)
            while copied <= size and (chunk := reader.read(MIB)):
                digest.update(chunk)
                writer.write(chunk)
                writer.flush()
                # the disk begins at once, so that the fsync at the end finds little left
                os.posix_fadvise(writer.fileno(), copied, len(chunk), os.POSIX_FADV_DONTNEED)
                copied += len(chunk)

    try:
        deliver(keep)
        if copied != size or digest.hexdigest() != wanted:
            why = f"sha256 {digest.hexdigest()[:12]}… instead of {wanted[:12]}…"
            why = why if copied == size else f"{min(copied, size + 1)} bytes instead of {size}"
            todo = "copy the artifact to the store again, or build it again"
            raise check_failed(f"what came is not the image of {manifest['artifact']}", why, todo)
        found = inspect(temporary, place_of(paths, name), meanwhile=lambda: files.fsync_file(temporary))
        os.rename(temporary, final)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise refused(f"the image cannot be copied to {paths.images}", str(problem.strerror)) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    files.fsync_directory(paths.images)
    return found


def from_inbox(paths: Paths, upload: str) -> Callable[[Keep], object]:
    """Delivers an uploaded image. The deploy user owns the inbox, so nothing in it is trusted: no links, no pipes."""
    if os.path.basename(upload) != upload or upload.startswith("."):
        raise bad_input(f"{upload!r} is not the name of a file in the inbox")
    try:
        source = os.open(paths.inbox / upload, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as problem:
        raise bad_input(f"{upload} cannot be read from the inbox", str(problem.strerror)) from None
    if not stat.S_ISREG(os.fstat(source).st_mode):
        os.close(source)
        raise bad_input(f"{upload} in the inbox is not a regular file")

    def deliver(keep: Keep) -> None:
        with os.fdopen(source, "rb") as reader:
            keep(reader)

    return deliver


def from_store(source: dict[str, Any], size: int) -> Callable[[Keep], object]:
    """Delivers an image from an https store: {url, accept, token, seconds}; a child without privileges fetches."""
    from bluegreen import fetch  # slow to import, and only hosts that fetch for themselves need it

    url, accept, token = (str(source.get(key) or "") for key in ("url", "accept", "token"))
    seconds = source.get("seconds")
    if type(seconds) not in (int, float) or not url:
        raise bad_input("source must be an object with url and seconds")
    bounds: dict[str, Any] = {"most": size, "seconds": float(seconds or 0)}

    def deliver(keep: Keep) -> None:
        privileges.stream(
            lambda write: fetch.fetch(url, write, token=token, accept=accept, **bounds),
            keep,
            timeout=bounds["seconds"] + 10,
        )

    return deliver


def add_static(paths: Paths, name: str, hashed: list[str]) -> tuple[int, list[str]]:
    """Add an image's hashed static files to the shared directory: append-only, the first bytes of a name stay.

    Returns how many were added, and the names whose bytes differ from those already there.
    """
    source_root, inside = (paths.images / name / "static").resolve(), (paths.images / name).resolve()
    added, differing = 0, []
    for relative in hashed:
        if relative.startswith("/") or ".." in relative.split("/"):
            raise bad_input(f"the manifest names a static file outside its directory: {relative!r}")
        source, target = source_root / relative, paths.static / relative
        # root copies for everyone to read: a link in the image must not lead out of it
        if not source.resolve().is_relative_to(inside) or not source.is_file():
            raise bad_input(f"the static file {relative!r} of the manifest is not a file of the image")
        if target.exists():
            if target.stat().st_size != source.stat().st_size:
                differing.append(relative)
            continue
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        temporary = target.parent / f"{files.TEMPORARY_PREFIX}{os.getpid()}"
        shutil.copyfile(source, temporary)
        temporary.chmod(0o644)
        times = source.stat()
        os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
        os.rename(temporary, target)
        added += 1
    if added:
        os.sync()
    return added, differing


def forget_upload(paths: Paths, upload: str) -> None:
    """Remove an upload, also a refused one: failed deploys must not fill the disk."""
    path = paths.inbox / upload
    if path.parent == paths.inbox and (path.is_symlink() or not path.is_dir()):
        path.unlink(missing_ok=True)


def stage(
    paths: Paths,
    config: HostConfig,
    manifest: dict[str, Any],
    upload: str | None,
    source: dict[str, Any] | None = None,
    signed: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Make the artifact of `manifest` usable on this host; see the verb `stage`. Its origin was checked before."""
    check_platform(manifest, os.uname().machine, host_glibc(), host_pythons())
    name = parse_stem(paths.app, manifest["artifact"])
    image = paths.images / f"{name}.squashfs"
    known = manifest_of(paths, name)
    if known and known["image"]["sha256"] != manifest["image"]["sha256"]:
        raise refused(
            f"{manifest['artifact']} is staged here with other bytes",
            "it was built twice with different results",
            "deploy the first build, or build with another recipe",
        )
    found = None
    complete = known is not None and image.exists() and image.stat().st_size == manifest["image"]["bytes"]
    if not complete:
        if upload is None and source is None:
            return {"have": False, "stop": True}
        close_image(paths, name)
        if upload is not None:
            found = receive(paths, config, manifest, from_inbox(paths, upload))
            forget_upload(paths, upload)  # the disk must not hold it twice while it is opened
        elif source is not None:
            found = receive(paths, config, manifest, from_store(source, manifest["image"]["bytes"]))
    try:
        method = open_image(paths, config, name, found)
        added, differing = add_static(paths, name, manifest.get("static", {}).get("hashed", []))
    except BluegreenError:
        if known is None:
            remove(paths, name)  # what cannot be used does not stay
        raise
    if not complete or (signed and (known or {}).get("signed") != signed):
        # not indented: that takes three times as long, and a manifest has a megabyte
        text = json.dumps({**manifest, "signed": signed}, sort_keys=True)
        files.write_file(paths.images / f"{name}.json", text + "\n")
    return {
        "have": True,
        "mounted": str(paths.images / name),
        "method": method,
        "static_added": added,
        "static_differing": differing,
        "signed": signed,
    }


def remove(paths: Paths, name: str) -> None:
    """Forget an image: closed first, because one still in use cannot be; then its manifest, which makes it complete."""
    close_image(paths, name)
    files.remove_file(paths.images / f"{name}.json")
    files.remove_file(paths.images / f"{name}.squashfs")


def require_open(paths: Paths, config: HostConfig, name: str) -> str:
    """Open a staged image again, for example after a reboot. Raises when it was not staged completely."""
    if manifest_of(paths, name) is None:
        raise refused(f"the image {name} is not on this host", "it was never staged completely, or pruned")
    return open_image(paths, config, name)
