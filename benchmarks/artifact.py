#!/usr/bin/env python3
"""How long a host takes from a store to an open release, beside the bare steps and beside others' ways.

It needs root and Debian with what a provisioned host has (squashfs-tools, openssh-client, python3-venv), curl and
openssl, but no test host: it works in a mount namespace of its own, and nothing of it stays. The store is a web server
with TLS on the same machine, slowed down to a network's speed (--megabits; 0: as fast as it can).
"""

from __future__ import annotations

import argparse
import functools
import http.server
import json
import os
import platform
import pwd
import re
import shlex
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))
sys.path.append(str(REPO))

from support.common import Failure, Progress, program, run, run_main, use_project_python  # noqa: E402

use_project_python()

from bluegreen import signature  # noqa: E402
from support.artifact.store import sha256  # noqa: E402
from support.example_fleet import version  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
INSIDE = "BLUEGREEN_BENCHMARK_NAMESPACE"
APP = "bench"
TARGET = 1.3  # of fetch, verification and mount to transfer, digest and mount
CHUNK = 256 << 10
MOST = 600.0  # seconds for any one command
STEPS = {
    "bluegreen": "bluegreen: fetch, signature, digest, look inside, mount",
    "bare": "curl, sha256sum, mount",
    "bluegreen_unpack": "bluegreen where it cannot mount: the same, unpacked",
    "unsquashfs": "curl, sha256sum, unsquashfs",
    "tar": "curl, sha256sum, tar -xzf of the same files",
    "pip": "virtualenv, pip from wheels that are there already",
}
HOST = f"""app = "{APP}"
user = "root"
domain = "bench.example.org"
min_free_mb = 64
"""


class Bench:
    """One artifact on this machine. `work` is ours; the directories of a host are bound over it."""

    def __init__(self, manifest: Path, megabytes: int, megabits: int, work: Path, progress: Progress) -> None:
        self.megabits = megabits
        self.work, self.progress = work, progress
        self.store = work / "store"
        self.source, self.megabytes = manifest, megabytes
        self.samples: dict[str, list[float]] = {name: [] for name in STEPS}
        self.skipped: dict[str, str] = {}

    # -- what is there before anything is measured

    def prepare(self) -> None:
        """A host's directories, its account and its tool; the artifact, a key, a certificate and a store."""
        for place in ("/srv", "/etc/bluegreen", "/var/lib/bluegreen", "/run/bluegreen"):
            own = self.work / "host" / place[1:]
            own.mkdir(parents=True)
            Path(place).mkdir(parents=True, exist_ok=True)
            self.must(f"mount --bind {shlex.quote(str(own))} {place}")
        for name in ("images", "releases", "static", "data", "inbox"):
            Path("/srv", APP, name).mkdir(parents=True)
        Path("/var/lib/bluegreen", APP).mkdir()
        self.add_account()
        self.tool = self.work / "bluegreen"
        environment = os.environ | {"PYTHONPATH": str(REPO)}
        packed = str(self.work / "packed")
        run([sys.executable, "-m", "bluegreen.build", packed], what="pack the tool", timeout=60, env=environment)
        run([packed, "compile", self.tool], what="compile the tool", timeout=60)
        self.make_artifact()
        self.make_trust()

    def add_account(self) -> None:
        """The account without privileges, in this namespace only."""
        try:
            pwd.getpwnam("bluegreen")
        except KeyError:
            for name, line in (("passwd", "bluegreen:x:64987:64987::/:/bin/false"), ("group", "bluegreen:x:64987:")):
                own = self.work / name
                own.write_text(Path("/etc", name).read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
                own.chmod(0o644)
                self.must(f"mount --bind {shlex.quote(str(own))} /etc/{name}")

    def make_artifact(self) -> None:
        """The given artifact, with random bytes added until its image has the size that is asked for."""
        given = json.loads(self.source.read_text(encoding="utf-8"))
        image = self.source.with_suffix(".squashfs")
        tree = self.work / "tree"
        run(["unsquashfs", "-no-progress", "-quiet", "-dest", tree, image], what="unpack the image", timeout=MOST)
        missing = self.megabytes * 1_000_000 - image.stat().st_size
        if missing > 0:
            (tree / "app" / "filler.bin").write_bytes(os.urandom(missing))
        self.store.mkdir()
        stem = f"{APP}-{given['sha']}-{given['artifact'][-8:]}"
        self.image = self.store / f"{stem}.squashfs"
        pack = ["mksquashfs", tree, self.image, "-quiet", "-no-progress", "-no-xattrs", "-all-root", "-comp", "zstd"]
        run([*pack, "-Xcompression-level", "9"], what="make the image", timeout=MOST)
        run(["tar", "-C", tree, "-czf", self.store / "tree.tar.gz", "."], what="make the tar file", timeout=MOST)
        self.files = sum(len(names) for _, _, names in os.walk(tree))
        self.lock = self.work / "lock.txt"
        self.lock.write_text("\n".join(given.get("lock") or []) + "\n", encoding="utf-8")
        shutil.rmtree(tree)
        about = {"file": self.image.name, "sha256": sha256(self.image), "bytes": self.image.stat().st_size}
        pythons = (re.fullmatch(r"python(3\.\d+)", path.name) for path in Path("/usr/bin").glob("python3.*"))
        here = {"python": next(found[1] for found in pythons if found), "arch": platform.machine(), "glibc": ""}
        static = {"url": "/static/", "hashed": []}  # copying them is no part of opening an image
        self.manifest = given | here | {"app": APP, "artifact": stem, "image": about, "static": static}

    def make_trust(self) -> None:
        """Somebody who signs, and a server whose certificate is good."""
        key, certificate = self.work / "key", self.work / "tls.pem"
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key], what="make a key", timeout=60)
        sign = ["ssh-keygen", "-q", "-Y", "sign", "-n", signature.NAMESPACE, "-f", key]
        self.signature = run(sign, what="sign", timeout=60, stdin=signature.text(self.manifest))
        public = key.with_suffix(".pub").read_text(encoding="utf-8")
        Path(f"/etc/bluegreen/{APP}.signers").write_text(f"bench {public}", encoding="utf-8")
        words = "req -x509 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -subj /CN=localhost"
        names = ["-addext", "subjectAltName=DNS:localhost"]
        files = ["-keyout", str(certificate), "-out", str(self.work / "ca.pem")]
        run(["openssl", *words.split(), *names, *files], what="make a certificate", timeout=60)
        certificate.write_text(
            certificate.read_text(encoding="utf-8") + (self.work / "ca.pem").read_text(encoding="utf-8"),
            encoding="utf-8",
        )
        (self.work / "ca.pem").chmod(0o644)
        handler = functools.partial(Quiet, bytes_per_second=self.megabits * 125_000, directory=str(self.store))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"https://localhost:{server.server_address[1]}"

    # -- what is measured

    def bluegreen(self, mount: bool = True) -> float:
        """One call of the host tool, as the controller makes it with `artifact_fetch: host`."""
        Path(f"/etc/bluegreen/{APP}.toml").write_text(f"{HOST}mount = {str(mount).lower()}\n", encoding="utf-8")
        source = {"url": f"{self.url}/{self.image.name}", "seconds": 600}
        step = {"verb": "stage", "manifest": self.manifest, "signature": self.signature, "source": source}
        call = json.dumps({"deploy_id": "local-1-1", "steps": [step | {"sha": self.manifest["sha"]}]})
        command = [str(self.tool), "batch", "--app", APP]
        environment = os.environ | {"SSL_CERT_FILE": str(self.work / "ca.pem")}
        began = time.monotonic()
        done = subprocess.run(
            command, input=call, capture_output=True, text=True, timeout=MOST, env=environment, check=False
        )
        seconds = time.monotonic() - began
        answer = json.loads(done.stdout)
        method = answer["results"].get("stage", {}).get("method")
        if not answer["ok"] or method != ("mount" if mount else "unpack"):
            raise Failure(f"the tool answered {answer['error'] or method}")
        name = self.manifest["artifact"].removeprefix(f"{APP}-")
        self.must(f"umount /srv/{APP}/images/{name} 2>&1 || true; rm -rf /srv/{APP}/images && mkdir /srv/{APP}/images")
        return seconds

    def shell(self, file: Path, end: str) -> float:
        """curl and sha256sum, then the given end, in a directory of its own; `$F` is the file."""
        digest = sha256(file)
        fetch = f"curl --silent --show-error --fail --cacert {self.work}/ca.pem -o $F {self.url}/{file.name}"
        check = f'echo "{digest}  $F" | sha256sum --check --quiet'
        return self.timed(f"F=image && {fetch} && {check} && {end}", "umount out 2>/dev/null || true")

    def pip(self) -> float:
        """A virtualenv with the artifact's packages, from wheels, as a deploy script would make it."""
        options = (
            f"--no-index --find-links {self.wheels} --quiet --disable-pip-version-check --require-hashes --no-deps"
        )
        return self.timed(f"/usr/bin/python3 -m venv out && out/bin/pip install {options} -r {self.lock}", "true")

    def get_wheels(self) -> None:
        """Download them; that is not measured. Where it cannot be done, pip is left out."""
        self.wheels = self.work / "wheels"
        venv = self.work / "downloader"
        try:
            run(["/usr/bin/python3", "-m", "venv", venv], what="make a virtualenv", timeout=MOST)
            # the lock file is complete; what another Python needs besides is none of it
            get = [venv / "bin/pip", "download", "--quiet", "--require-hashes", "--no-deps", "--only-binary", ":all:"]
            run([*get, "-d", self.wheels, "-r", self.lock], what="download the wheels", timeout=MOST)
        except Failure as failure:
            self.skipped["pip"] = str(failure)

    def timed(self, script: str, after: str) -> float:
        """Seconds that a script takes in an empty directory, which then goes."""
        place = Path(tempfile.mkdtemp(dir="/srv"))
        (place / "out").mkdir()
        try:
            began = time.monotonic()
            self.must(script, place)
            return time.monotonic() - began
        finally:
            self.must(after, place)
            shutil.rmtree(place)

    def must(self, script: str, place: Path = Path("/")) -> None:
        run(["sh", "-ec", script], what=f"run {script[:60]!r}", timeout=MOST, cwd=place)

    def measure(self, rounds: int, slow_rounds: int) -> None:
        """One after the other, again and again: the machine's own speed changes, and only neighbours are compared."""
        image, tar = self.image, self.store / "tree.tar.gz"
        ways: dict[str, Callable[[], float]] = {
            "bluegreen": self.bluegreen,
            "bare": lambda: self.shell(image, "mount -t squashfs -o loop,ro,nosuid,nodev $F out"),
            "bluegreen_unpack": lambda: self.bluegreen(mount=False),
            "unsquashfs": lambda: self.shell(image, "unsquashfs -no-progress -quiet -force -dest out $F"),
            "tar": lambda: self.shell(tar, "tar -xzf $F -C out"),
            "pip": self.pip,
        }
        if slow_rounds:
            self.progress("download the wheels")
            self.get_wheels()
        for number in range(rounds + 1):
            for name, way in ways.items():
                slow = name not in ("bluegreen", "bare")
                if name in self.skipped or (slow and (number > slow_rounds or not slow_rounds)):
                    continue
                seconds = way()
                if number:  # the first round warms the caches
                    self.samples[name].append(seconds)
            self.progress(f"round {number} of {rounds}")

    def ratios(self) -> list[float]:
        """Of each round's bluegreen to the bare steps right after it."""
        return [ours / bare for ours, bare in zip(self.samples["bluegreen"], self.samples["bare"], strict=True)]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A web server that says nothing and keeps to a network's speed."""

    def __init__(self, *words: Any, bytes_per_second: int, **more: Any) -> None:
        self.bytes_per_second = bytes_per_second
        super().__init__(*words, **more)

    def copyfile(self, source: Any, outputfile: Any) -> None:
        began, sent = time.monotonic(), 0
        while chunk := source.read(CHUNK):
            outputfile.write(chunk)
            sent += len(chunk)
            if self.bytes_per_second:
                time.sleep(max(0.0, began + sent / self.bytes_per_second - time.monotonic()))

    def log_message(self, *_args: Any) -> None: ...


def spread(values: Sequence[float]) -> str:
    """Median, and the smallest and largest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "–"


def table(bench: Bench) -> str:
    """The results as a Markdown table."""
    lines = ["| way | times | seconds | of the bare steps |", "|---|---|---|---|"]
    bare = statistics.median(bench.samples["bare"])
    for name, text in STEPS.items():
        values = bench.samples[name]
        share = spread(bench.ratios()) if name == "bluegreen" else ""
        share = share or (f"{statistics.median(values) / bare:.1f}" if values else bench.skipped.get(name, "–"))
        lines.append(f"| {text} | {len(values)} | {spread(values)} | {share} |")
    return "\n".join(lines)


def speed(megabits: int) -> str:
    """The network's speed in words."""
    return f"slowed down to {megabits} Mbit/s" if megabits else "as fast as it can"


def report(bench: Bench, facts: dict[str, Any]) -> str:
    """The results for people."""
    ratio = statistics.median(bench.ratios())
    return f"""\
# From a store to an open release

{facts["date"]}, {facts["machine"]}, {facts["processors"]} processors, load {facts["load"]:.1f},
niceness {facts["niceness"]}. bluegreen {facts["bluegreen"]}.
An image of {facts["megabytes"]:.1f} MB with {facts["files"]} files, from a web server with TLS on the same machine,
{speed(facts["megabits"])}.

{table(bench)}

Median (smallest–largest) in seconds of wall clock. The aim, at most {TARGET} times the bare steps in the same round, is
{"met" if ratio <= TARGET else "missed"}: {ratio:.2f}.

Again: `{facts["command"]}`
"""


def enter(arguments: list[str]) -> NoReturn:
    """Become ourselves again, in a mount namespace of our own; what signals us still does."""
    if os.geteuid() != 0:
        raise Failure("it mounts images: run it as root", 2)
    words = [program("unshare"), "--mount", "--propagation", "private", sys.executable, __file__, *arguments]
    os.execve(words[0], words, os.environ | {INSIDE: "1"})  # noqa: S606


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End as Ctrl-C does: what was made is removed."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    parser = argparse.ArgumentParser(prog="artifact.py", description=__doc__)
    parser.add_argument("manifest", type=Path, help="a built artifact's manifest: <store>/<stem>.json")
    parser.add_argument("--megabytes", type=int, default=30, help="size of the image; random bytes fill it up (30)")
    parser.add_argument("--megabits", type=int, default=1000, help="per second from the store, 0 for no limit (1000)")
    parser.add_argument("--rounds", type=int, default=9, help="of the two that are compared (9)")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of unpacking and pip (3)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    given = parser.parse_args(arguments)
    if not given.manifest.is_file() or not given.manifest.with_suffix(".squashfs").is_file():
        raise Failure(f"{given.manifest} is no manifest with its image beside it: scripts/build-artifact makes one", 2)
    if not 0 <= given.slow_rounds <= given.rounds <= 100 or not 1 <= given.megabytes <= 1000 or given.megabits < 0:
        raise Failure("give --rounds of 1 to 100, --slow-rounds of no more (0: none), --megabytes of 1 to 1000", 2)
    if INSIDE not in os.environ:
        enter(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    with tempfile.TemporaryDirectory(prefix="bluegreen-benchmark-", dir="/var/tmp") as folder:
        work = Path(folder)
        work.chmod(0o755)
        bench = Bench(given.manifest.absolute(), given.megabytes, given.megabits, work, Progress())
        bench.prepare()
        bench.measure(given.rounds, given.slow_rounds)
        facts: dict[str, Any] = {
            "format": 1,
            "date": datetime.now(UTC).date().isoformat(),
            "command": " ".join(
                ["benchmarks/artifact.py", "MANIFEST", *(word for word in arguments if word != str(given.manifest))]
            ),
            "megabits": given.megabits,
            "bluegreen": version(),
            "machine": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
            "processors": os.cpu_count(),
            "load": os.getloadavg()[2],  # of the last 15 minutes
            "niceness": os.nice(0),
            "megabytes": bench.image.stat().st_size / 1e6,
            "files": bench.files,
            "skipped": bench.skipped,
        }
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "artifact.json").write_text(
        json.dumps(facts | {"samples": bench.samples, "ratios": bench.ratios()}, indent=2) + "\n", encoding="utf-8"
    )
    (given.results / "artifact.md").write_text(report(bench, facts), encoding="utf-8")
    print(table(bench))
    return 0 if statistics.median(bench.ratios()) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(run_main(main))
