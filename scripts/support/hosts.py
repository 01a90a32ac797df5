"""Test hosts: booted systemd containers that look like bare Debian VMs and are reached over real SSH.

The inventory says which hosts (`ansible_host`: a fixed private address; `test_host_os`: trixie or bookworm;
`test_host_image`: an image of your own). Hosts without `test_host_os` are what the environment's TEST_HOST_OS says, or
their `test_host_usual_os`. Keys and pinned host keys live in `.hosts/`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import ipaddress
import json
import os
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.common import REPO, STATE, Failure, Progress, last_line, locked, process_limits, program, run, write_atomic

IMAGE = "localhost/bluegreen-host"
SYSTEMS = ("trixie", "bookworm")
UP_DEADLINE = 120.0  # seconds until a started host must answer; a busy machine needs 20
LOOP_DEVICES = 256

# A bare VM: what a cloud image has and no more. Everything else is provisioning's business.
BASE_PACKAGES = "systemd,systemd-sysv,dbus,openssh-server,python3,sudo,ca-certificates,iproute2,curl"

# Downloaded into the -cache images and not installed, so that provisioning takes seconds and needs no network.
CACHED_PACKAGES = (
    "acl",
    "age",
    "build-essential",
    "gettext-base",
    "git",
    "gnupg",
    "iptables",
    "libpq5",
    "logrotate",
    "nftables",
    "nginx",
    "openssl",
    "postgresql",
    "postgresql-client",
    "procps",
    "prometheus",
    "python3-apt",
    "python3-cryptography",
    "python3-dev",
    "python3-pip",
    "python3-psycopg2",
    "python3-venv",
    "redis-server",
    "redis-tools",
    "rsync",
    "squashfs-tools",
    "ssl-cert",
)

# Each would change the machine the host runs on, or start apt in the middle of a test.
MASKED_UNITS = (
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "console-getty.service",
    "e2scrub_all.timer",
    "fstrim.timer",
    "getty.target",
    "systemd-binfmt.service",
    "systemd-modules-load.service",
    "systemd-udev-trigger.service",
)

# The distribution's kernel settings would reach the machine's kernel; provisioning's own stay at work.
MASKED_SYSCTLS = (
    "10-coredump-debian.conf",
    "50-coredump.conf",
    "50-default.conf",
    "50-pid-max.conf",
    "99-protect-links.conf",
)

EARLY_UNIT = """\
[Unit]
Description=What a virtual machine has and a container lacks
DefaultDependencies=no
Before=local-fs-pre.target sysinit.target shutdown.target
Conflicts=shutdown.target
Wants=local-fs-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/python3 -IS /usr/local/lib/test-host/early

[Install]
WantedBy=sysinit.target
"""

EARLY_PROGRAM = f"""\
import os
import stat
import subprocess

# Without shared mounts LoadCredential= in a unit yields nothing, silently.
subprocess.run(["mount", "--make-rshared", "/"], check=True)

# A container's /dev has only the loop devices that existed when it started.
os.umask(0)
for number in range({LOOP_DEVICES}):
    try:
        os.mknod(f"/dev/loop{{number}}", 0o660 | stat.S_IFBLK, os.makedev(7, number))
    except FileExistsError:
        pass

# The lists that came with the image count as fresh: apt asks the network only when told to.
stamp = "/var/lib/apt/periodic/update-success-stamp"
if os.path.exists(stamp):
    os.utime(stamp)
    os.utime("/var/lib/apt/lists")
"""

SSHD_CONFIG = """\
# The one host key that is pinned; keys only, and no waiting for reverse look-ups.
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
UseDNS no
"""


@dataclass(frozen=True)
class Host:
    """One test host of an inventory."""

    name: str
    address: str
    system: str  # trixie or bookworm
    image: str  # "" = the one made here

    def container(self, inventory: str) -> str:
        return f"bluegreen-{inventory}-{self.name}"


# ---------------------------------------------------------------------------------------------------------------
# Pure: what the inventory says and which commands follow from it


def inventory_name(path: Path) -> str:
    """Name of the set of hosts: the directory's name, or the file's if it has a name of its own."""
    own = path.stem if path.suffix or path.is_file() else path.name
    if own in {"hosts", "inventory"}:
        own = path.resolve().parent.name
    name = re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-")
    if not name:
        raise Failure(f"{path}: an inventory needs a name of letters and digits", 2)
    return name


def hosts_of(listing: Mapping[str, Any], where: str, wanted: str = "") -> list[Host]:
    """The hosts in the output of `ansible-inventory --list`, sorted by name. Raises Failure with one line.

    wanted: the system of hosts that name none.
    """
    hosts = []
    for name, values in sorted(listing.get("_meta", {}).get("hostvars", {}).items()):
        if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?", name):
            raise Failure(f"{where}: {name}: a test host's name has small letters, digits and dashes only", 2)
        system = str(values.get("test_host_os") or wanted or values.get("test_host_usual_os") or SYSTEMS[0])
        if system not in SYSTEMS:
            raise Failure(f"{where}: {name}: test_host_os is {system!r}, it must be {' or '.join(SYSTEMS)}", 2)
        image = str(values.get("test_host_image", ""))
        hosts.append(Host(name, _address(values.get("ansible_host"), f"{where}: {name}"), system, image))
    if not hosts:
        raise Failure(f"{where}: the inventory has no hosts", 2)
    taken: dict[str, str] = {}
    for host in hosts:
        if host.address in taken:
            raise Failure(f"{where}: {taken[host.address]} and {host.name} have the same address {host.address}", 2)
        taken[host.address] = host.name
    return hosts


def _address(value: object, where: str) -> str:
    try:
        address = ipaddress.IPv4Address(str(value))
    except ValueError:
        raise Failure(f"{where}: ansible_host must be an IPv4 address such as 10.213.55.11, not {value!r}", 2) from None
    if not address.is_private or address.is_loopback or address.is_link_local:
        raise Failure(f"{where}: {address} is not a private address: no test host is made there", 2)
    return str(address)


def subnet_of(hosts: Iterable[Host], where: str) -> ipaddress.IPv4Network:
    """The one /24 in which all hosts are; its first address is the machine's own."""
    hosts = list(hosts)
    subnet = ipaddress.IPv4Network(f"{hosts[0].address}/24", strict=False)
    reserved = {subnet.network_address, subnet.network_address + 1, subnet.broadcast_address}
    for host in hosts:
        address = ipaddress.IPv4Address(host.address)
        if address not in subnet:
            raise Failure(f"{where}: {host.name}: {address} is outside of {subnet}: one /24 holds all test hosts", 2)
        if address in reserved:
            raise Failure(f"{where}: {host.name}: {address} is reserved: use .2 to .254 of {subnet}", 2)
    return subnet


def chosen(hosts: Sequence[Host], names: Sequence[str], where: str) -> list[Host]:
    """The named hosts, all of them if none is named."""
    unknown = [name for name in names if name not in {host.name for host in hosts}]
    if unknown:
        known = ", ".join(host.name for host in hosts)
        raise Failure(f"{where} has no host {', '.join(unknown)}; it has {known}", 2)
    return [host for host in hosts if not names or host.name in names]


def containers_conf(limits: Mapping[str, int]) -> str:
    """podman's configuration: runc boots systemd also on hybrid cgroups; limits that this process may hand on."""
    ulimits = ", ".join(f'"{name}={value}:{value}"' for name, value in sorted(limits.items()))
    return f'[engine]\nruntime = "runc"\nevents_logger = "file"\n\n[containers]\ndefault_ulimits = [{ulimits}]\n'


def mac_of(address: str) -> str:
    """A hardware address that stays: after a restart with another one, neighbours lose packets for 15 s."""
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x62, *ipaddress.IPv4Address(address).packed))


def create_command(host: Host, inventory: str, image: str, network: str) -> list[str]:
    """Arguments for podman that create a host's container, not started."""
    labels = {
        "bluegreen.inventory": inventory,
        "bluegreen.host": host.name,
        "bluegreen.os": host.system,
        "bluegreen.address": host.address,
        "bluegreen.root": str(REPO),
    }
    return [
        *("create", "--name", host.container(inventory), "--hostname", host.name),
        *("--network", network, "--ip", host.address, "--mac-address", mac_of(host.address)),
        *("--privileged", "--systemd=always", "--stop-signal", "SIGRTMIN+3", "--pull=missing"),
        *(word for name, value in labels.items() for word in ("--label", f"{name}={value}")),
        *(image, "/sbin/init"),
    ]


def debootstrap_command(system: str, target: str, mirror: str = "") -> list[str]:
    """The command that makes a bare host's root file system as a tar file."""
    shape = ["--variant=apt", f"--include={BASE_PACKAGES}", "--dpkgopt=force-unsafe-io"]
    hook = '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*'
    return ["mmdebstrap", *shape, hook, system, target, *([mirror] if mirror else [])]


def cache_script(packages: Iterable[str]) -> str:
    """Shell script that downloads packages and what they need inside a host image."""
    return "\n".join(
        (
            "set -e",
            "rm -f /etc/apt/apt.conf.d/docker-clean",
            """printf 'APT::Keep-Downloaded-Packages "true";\\n' > /etc/apt/apt.conf.d/80keep-downloads""",
            "apt-get -q update",
            f"DEBIAN_FRONTEND=noninteractive apt-get -qy install --download-only {' '.join(packages)}",
            "mkdir -p /var/lib/apt/periodic",
            "touch /var/lib/apt/periodic/update-success-stamp",
            "rm -f /var/cache/apt/*.bin",
        )
    )


def digest(*parts: object) -> str:
    """Short digest of a recipe."""
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()[:16]


def host_files(private_key: str, public_key: str, authorized: str) -> bytes:
    """A tar archive with everything that makes an image this one host."""
    files = {
        "etc/ssh/ssh_host_ed25519_key": (private_key, 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (public_key, 0o644),
        "etc/ssh/sshd_config.d/10-test-host.conf": (SSHD_CONFIG, 0o644),
        "etc/dpkg/dpkg.cfg.d/test-host": ("force-unsafe-io\n", 0o644),
        "root/.ssh/authorized_keys": (authorized, 0o600),
        "etc/systemd/system/test-host-early.service": (EARLY_UNIT, 0o644),
        "usr/local/lib/test-host/early": (EARLY_PROGRAM, 0o644),
    }
    links = {f"etc/systemd/system/{unit}": "/dev/null" for unit in MASKED_UNITS}
    links |= {f"etc/sysctl.d/{name}": "/dev/null" for name in MASKED_SYSCTLS}
    links["etc/systemd/system/sysinit.target.wants/test-host-early.service"] = "../test-host-early.service"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo("root/.ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        tar.addfile(folder)
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            data = content.encode()
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for name, target in links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return out.getvalue()


def known_hosts_with(text: str, pins: Mapping[str, str]) -> str:
    """The content of known_hosts with these addresses pinned to these public keys, others kept."""
    kept = [line for line in text.splitlines() if line.strip() and line.split()[0] not in pins]
    new = [f"{address} {' '.join(key.split()[:2])}" for address, key in pins.items()]
    return "".join(f"{line}\n" for line in sorted([*kept, *new]))


# ---------------------------------------------------------------------------------------------------------------
# Doing: podman, files in .hosts/


class Podman:
    """podman as root with the project's own configuration."""

    def __init__(self) -> None:
        podman = program("podman")
        program("runc")
        self.config = STATE / "containers.conf"
        STATE.mkdir(mode=0o700, exist_ok=True)
        conf = containers_conf(process_limits())
        if not self.config.exists() or self.config.read_text() != conf:
            write_atomic(self.config, conf)
        self.prefix = [*as_root(), "env", f"CONTAINERS_CONF={self.config}", podman]

    def __call__(self, *words: str, what: str, timeout: float = 60, stdin: bytes | None = None) -> str:
        return run([*self.prefix, *words], what=what, timeout=timeout, stdin=stdin)

    def containers(self, inventory: str = "") -> list[dict[str, Any]]:
        """The test hosts' containers: name, state, labels, of every inventory or of one."""
        wanted = f"label=bluegreen.inventory={inventory}" if inventory else "label=bluegreen.inventory"
        out = self("ps", "-a", "--filter", wanted, "--format", "json", what="list containers")
        return [
            {"container": item["Names"][0], "state": state_of(item), "image": item["Image"], "labels": item["Labels"]}
            for item in json.loads(out or "[]") or []
        ]

    def networks(self) -> list[str]:
        return self("network", "ls", "--format", "{{.Name}}", what="list networks").split()

    def label(self, image: str) -> str:
        """The recipe an image was made by; "" if there is no such image."""
        words = [*self.prefix, "image", "inspect", "--format", '{{ index .Labels "bluegreen.recipe" }}', image]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""


def state_of(item: Mapping[str, Any], proc: Path = Path("/proc")) -> str:
    """podman's state of a container; "lost" where podman takes it for running and its processes are gone."""
    if item["State"] != "running":
        return str(item["State"])
    try:  # the number alone could be another program's by now
        alive = item["Id"] in (proc / str(item["Pid"]) / "cgroup").read_text()
    except OSError:
        alive = False
    return "running" if alive else "lost"


def as_root() -> list[str]:
    """What to put before a command that needs root."""
    return [] if os.geteuid() == 0 else [program("sudo")]


def ensure_image(podman: Podman, system: str, progress: Progress, *, cache: bool = True, rebuild: bool = False) -> str:
    """Name of the image for a system; made first if it is missing or its recipe changed."""
    mirror = os.environ.get("BLUEGREEN_DEBIAN_MIRROR", "")
    packages = sorted({*CACHED_PACKAGES, *os.environ.get("BLUEGREEN_HOST_PACKAGES", "").split()})
    script = cache_script(packages)
    base, base_recipe = f"{IMAGE}:{system}", digest(*debootstrap_command(system, "-", mirror))
    full, full_recipe = f"{IMAGE}:{system}-cache", digest(base_recipe, script)
    if rebuild or podman.label(base) != base_recipe:
        _make_base(podman, system, base, base_recipe, mirror, progress)
    if not cache:
        return base
    if rebuild or podman.label(full) != full_recipe:
        _make_cache(podman, base, full, full_recipe, script, progress)
    return full


def _make_base(podman: Podman, system: str, image: str, recipe: str, mirror: str, progress: Progress) -> None:
    program("mmdebstrap")
    progress(f"making the image {image} (mmdebstrap {system}, about half a minute, once)")
    target = f"/var/tmp/bluegreen-{system}-{os.getpid()}.tar"  # noqa: S108  not /tmp: often in memory, or nodev
    try:
        command = [*as_root(), "env", "TMPDIR=/var/tmp", *debootstrap_command(system, target, mirror)]
        run(command, what=f"make a Debian {system} file system", timeout=900)
        podman("import", *_image_changes(recipe), target, image, what=f"import {image}", timeout=300)
    finally:
        run([*as_root(), "rm", "-f", target], what=f"remove {target}", timeout=60)


def _make_cache(podman: Podman, base: str, image: str, recipe: str, script: str, progress: Progress) -> None:
    progress(f"making the image {image} (downloads what provisioning will install, once)")
    name = f"bluegreen-image-{os.getpid()}"
    download = ["run", "--name", name, "--network=host", base, "sh", "-c", script]
    try:
        podman(*download, what=f"download packages for {image}", timeout=900)
        podman("commit", "--quiet", *_image_changes(recipe), name, image, what=f"save {image}", timeout=300)
    finally:
        podman("rm", "-f", "-i", name, what=f"remove {name}")
    # What the new images replaced, if no host uses it any more.
    podman("image", "prune", "-f", "--filter", "label=bluegreen.recipe", what="remove older images", timeout=120)


def _image_changes(recipe: str) -> list[str]:
    return ["--change", 'CMD ["/sbin/init"]', "--change", f"LABEL bluegreen.recipe={recipe}"]


def read_inventory(path: Path) -> dict[str, Any]:
    """What `ansible-inventory --list` says about an inventory of any format."""
    if not path.exists():
        raise Failure(f"{path}: no such inventory (a directory or a file)", 2)
    command = [program("ansible-inventory"), "-i", str(path.resolve()), "--list"]
    out = run(command, what=f"read {path}", timeout=120, env={"ANSIBLE_CONFIG": str(REPO / "ansible.cfg")}, cwd=REPO)
    listing: dict[str, Any] = json.loads(out)
    return listing


def key_pair(path: Path, comment: str) -> tuple[str, str]:
    """Private and public key at a path, made once."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)]
        run(command, what=f"make the key {path.name}", timeout=30)
    return path.read_text(), path.with_name(path.name + ".pub").read_text()


def ssh_command(address: str, *words: str) -> list[str]:
    """Run words as root on a test host, its host key checked against the pinned one."""
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": "5",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f'"{STATE / "known_hosts"}"',
    }
    flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [program("ssh"), "-F", "none", "-i", str(STATE / "id_ed25519"), *flags, f"root@{address}", *words]


def wait_for_host(podman: Podman, host: Host, container: str, deadline: float) -> str:
    """Wait until ssh answers and systemd has started everything; "running" or "degraded: <failed units>"."""
    problem = "no answer on port 22"
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Failure(f"{host.name} is not up after {UP_DEADLINE:g} s: {problem}\n{_tail(podman, container)}")
        if not _ssh_banner(host.address, min(left, 2.0)):
            state = podman("inspect", "--format", "{{.State.Status}}", container, what=f"look at {container}").strip()
            if state != "running":
                raise Failure(f"{host.name} ended while it booted ({state})\n{_tail(podman, container)}")
            time.sleep(0.1)
            continue
        command = ssh_command(
            host.address, "systemctl is-system-running --wait; systemctl --failed --plain --no-legend"
        )
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            problem = "systemd is still starting units"
            continue
        state, *failed = done.stdout.splitlines() or [""]
        if state == "running":
            return state
        if state == "degraded":
            return f"degraded: {', '.join(line.split()[0] for line in failed if line.strip())}"
        problem = last_line(done.stderr) or f"systemd says {state!r}"
        time.sleep(0.2)


def _ssh_banner(address: str, timeout: float) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _tail(podman: Podman, container: str) -> str:
    """The last lines of a host's journal, or of its console if it runs no more."""
    for words in (
        ("exec", container, "journalctl", "-b", "-n", "15", "--no-pager"),
        ("logs", "--tail", "15", container),
    ):
        done = subprocess.run([*podman.prefix, *words], capture_output=True, text=True, timeout=30, check=False)
        lines = (done.stdout + done.stderr).strip().splitlines()
        if done.returncode == 0 and lines:
            return "\n".join(f"    {line}" for line in lines)
    return "    (no journal)"


def in_parallel(work: Callable[[Host], None], hosts: Sequence[Host]) -> None:
    """Do work for every host at once; all of them end before the first problem is raised, each problem a line."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        outcomes = [pool.submit(work, host) for host in hosts]
    problems = [str(error) for outcome in outcomes if (error := outcome.exception()) is not None]
    for outcome in outcomes:
        error = outcome.exception()
        if error is not None and not isinstance(error, Failure):
            raise error
    if problems:
        raise Failure("\n".join(problems))


def _count(hosts: Sequence[Host]) -> str:
    return f"{len(hosts)} host{'' if len(hosts) == 1 else 's'}"


def up(path: Path, names: Sequence[str], *, bare: bool, rebuild: bool) -> int:
    """Make and start hosts; those that run stay as they are."""
    progress = Progress()
    podman = Podman()
    name = inventory_name(path)
    where = str(path)
    every = hosts_of(read_inventory(path), where, os.environ.get("TEST_HOST_OS", ""))
    subnet = subnet_of(every, where)
    hosts = chosen(every, names, where)
    network = f"bluegreen-{name}"

    with locked(STATE / "lock", lambda: progress("waiting for another scripts/hosts")):
        existing = _without_abandoned(podman, podman.containers(name))
        for host in hosts:
            _check_existing(host, existing.get(host.name))
        # "created": an earlier run was stopped before the host had its keys. podman cannot start a "lost" one again.
        unusable = [host for host in hosts if existing.get(host.name, {}).get("state") in ("created", "lost")]
        missing = [host for host in hosts if host.name not in existing or host in unusable]
        given = os.environ.get("BLUEGREEN_HOST_IMAGE", "")
        images = {
            system: ensure_image(podman, system, progress, cache=not bare, rebuild=rebuild)
            for system in sorted({host.system for host in missing if not (host.image or given)})
        }
        _ensure_network(podman, network, subnet)  # before the pins: another inventory may own these addresses
        authorized = key_pair(STATE / "id_ed25519", "bluegreen test hosts")[1]
        keys = {host: key_pair(STATE / "keys" / name / host.name, host.name) for host in hosts}
        pinned = STATE / "known_hosts"
        before = pinned.read_text() if pinned.exists() else ""
        after = known_hosts_with(before, {host.address: keys[host][1] for host in hosts})
        if after != before:
            write_atomic(pinned, after, 0o600)

    def start(host: Host) -> None:
        container = host.container(name)
        if host in unusable:
            _remove(podman, container)
        if host in missing:
            image = host.image or given or images[host.system]
            what = f"make {host.name}"
            podman(*create_command(host, name, image, network), what=what, timeout=600)
            podman("cp", "-", f"{container}:/", what=what, stdin=host_files(*keys[host], authorized))
        was = existing.get(host.name, {}).get("state", "new")
        if was != "running":
            podman("start", container, what=f"start {host.name}", timeout=120)
        state = wait_for_host(podman, host, container, time.monotonic() + UP_DEADLINE)
        note = {"running": "was running", "lost": "was lost, made again, is up"}.get(was, "is up")
        progress(f"{host.name} {note} at {host.address} ({host.system}){'' if state == 'running' else ', ' + state}")

    in_parallel(start, hosts)
    ssh = f"ssh -i {STATE / 'id_ed25519'} -o UserKnownHostsFile={pinned} root@{hosts[0].address}"
    progress(f"{_count(hosts)} up; {ssh}")
    return 0


def abandoned(item: Mapping[str, Any], here: Path) -> bool:
    """Whether a host's clone has no use for it: another clone's, and that is gone or its host does not run."""
    root = Path(item["labels"].get("bluegreen.root", "/nowhere"))
    return root != here and (item["state"] != "running" or not root.is_dir())


def _without_abandoned(podman: Podman, found: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The hosts by name; those that nobody has a use for are removed."""
    for item in found:
        if abandoned(item, REPO):
            _remove(podman, item["container"])
    return {item["labels"]["bluegreen.host"]: item for item in found if not abandoned(item, REPO)}


def _check_existing(host: Host, item: Mapping[str, Any] | None) -> None:
    if item is None:
        return
    labels = item["labels"]
    if labels.get("bluegreen.root") != str(REPO):
        raise Failure(f"{host.name}: {item['container']} belongs to another clone: {labels.get('bluegreen.root')}")
    if (labels["bluegreen.address"], labels["bluegreen.os"]) != (host.address, host.system):
        raise Failure(
            f"{host.name} was made as {labels['bluegreen.os']} at {labels['bluegreen.address']}, "
            f"the inventory says {host.system} at {host.address}: remove it first (scripts/hosts down)"
        )


def _ensure_network(podman: Podman, network: str, subnet: ipaddress.IPv4Network) -> None:
    if network not in podman.networks():
        create = ["--disable-dns", "--subnet", str(subnet), "--gateway", str(subnet.network_address + 1), network]
        podman("network", "create", *create, what=f"make the network {network} ({subnet})")
        return
    shape = json.loads(podman("network", "inspect", network, what=f"look at the network {network}"))
    has = [entry["subnet"] for entry in shape[0].get("subnets", [])]
    if has != [str(subnet)]:
        raise Failure(
            f"the network {network} is {', '.join(has)}, the inventory needs {subnet}: scripts/hosts down first"
        )


def down(path: Path, names: Sequence[str]) -> int:
    """Remove hosts, and the network with the last of them. Needs no inventory file: the name says it all."""
    progress = Progress()
    podman = Podman()
    name = inventory_name(path)
    found = _without_abandoned(podman, podman.containers(name))
    foreign = [item for item in found.values() if item["labels"].get("bluegreen.root") != str(REPO)]
    if foreign:
        labels = foreign[0]["labels"]
        raise Failure(f"{foreign[0]['container']} belongs to another clone: {labels.get('bluegreen.root')}")
    unknown = [host for host in names if host not in found]
    if unknown:
        raise Failure(
            f"{name} has no running test host {', '.join(unknown)}; it has {', '.join(sorted(found)) or 'none'}", 2
        )
    gone = [Host(host, "", "", "") for host in sorted(found) if not names or host in names]

    in_parallel(lambda host: _remove(podman, host.container(name)), gone)
    network = f"bluegreen-{name}"
    if not podman.containers(name) and network in podman.networks():
        podman("network", "rm", network, what=f"remove the network {network}")
    progress(f"{_count(gone)} of {name} removed")
    return 0


def _remove(podman: Podman, container: str) -> None:
    for attempt in range(4):  # under load podman's first try can find the mounts busy
        try:
            podman("rm", "-f", "-i", "-t", "0", container, what=f"remove {container}", timeout=120)
            return
        except Failure:
            if attempt == 3:
                raise
            time.sleep(0.5 * (attempt + 1))


def show(path: Path | None, form: str) -> int:
    """Print the test hosts that exist."""
    rows = [
        {
            "inventory": item["labels"]["bluegreen.inventory"],
            "host": item["labels"]["bluegreen.host"],
            "address": item["labels"].get("bluegreen.address", ""),
            "os": item["labels"].get("bluegreen.os", ""),
            "state": item["state"],
            "container": item["container"],
            "image": item["image"],
        }
        for item in Podman().containers(inventory_name(path) if path else "")
    ]
    rows.sort(key=lambda row: (row["inventory"], row["host"]))
    if form == "json":
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("no test hosts")
    else:
        widths = {"inventory": 12, "host": 12, "address": 15, "os": 8, "state": 8, "container": 0}
        for row in rows:
            print("  ".join(str(row[key]).ljust(width) for key, width in widths.items()))
    return 0


def image(system: str, *, bare: bool, rebuild: bool) -> int:
    """Make a host image if it is missing and print its name."""
    progress, podman = Progress(), Podman()
    with locked(STATE / "lock", lambda: progress("waiting for another scripts/hosts")):
        print(ensure_image(podman, system, progress, cache=not bare, rebuild=rebuild))
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="hosts", description="Test hosts: systemd containers that are reached over SSH.")
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb, text in (("up", "make and start the hosts of an inventory"), ("down", "remove them")):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("inventory", type=Path, help="an inventory directory or file")
        one.add_argument("host", nargs="*", help="only these hosts")
    listing = verbs.add_parser("list", help="show the hosts that exist")
    listing.add_argument("inventory", type=Path, nargs="?")
    listing.add_argument("--format", choices=("text", "json"), default="text")
    images = verbs.add_parser("image", help="make the image of a system, print its name")
    images.add_argument("system", choices=SYSTEMS)
    no_downloads = os.environ.get("BLUEGREEN_HOST_BARE", "0") not in ("", "0")
    for one in (verbs.choices["up"], images):
        text = "without the downloaded packages (also: BLUEGREEN_HOST_BARE=1)"
        one.add_argument("--bare", action="store_true", default=no_downloads, help=text)
        one.add_argument("--rebuild", action="store_true", help="make the images again (newer packages)")
    return top


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    given = parser().parse_args(arguments)
    if given.verb == "up":
        return up(given.inventory, given.host, bare=given.bare, rebuild=given.rebuild)
    if given.verb == "down":
        return down(given.inventory, given.host)
    if given.verb == "image":
        return image(given.system, bare=given.bare, rebuild=given.rebuild)
    return show(given.inventory, given.format)
