"""The program scripts/load."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from support.load.answers import APART
from support.load.shapes import BadInput, Shape, parse_profile, parse_target
from support.load.tally import Tally
from support.load.traffic import Load


def summary(report: dict[str, Any]) -> str:
    """The report for people: some lines of plain text."""
    by_class = ", ".join(f"{count} {name}" for name, count in report["failed_by_class"].items())
    lines = [
        f"{report['requests']} requests in {report['seconds']:.1f} s, {report['failed']} failed"
        + (f" ({by_class})" if by_class else "")
        + "".join(f", {report[name]} {name}" for name in APART if report[name])
    ]
    lines.append(
        f"{'kind':10}{'requests':>10}{'failed':>8}{'refused':>9}{'closed':>8}"
        f"{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'max ms':>9}"
    )
    for name, kind in report["kinds"].items():
        lines.append(
            f"{name:10}{kind['requests']:>10}{kind['failed']:>8}{kind['refused']:>9}{kind['closed']:>8}"
            f"{kind['p50_ms']:>9}{kind['p95_ms']:>9}{kind['p99_ms']:>9}{kind['max_ms']:>9}"
        )
    for url, place in report["targets"].items():
        lines.append(
            f"{url}: {place['requests']} requests, {place['failed']} failed, "
            f"longest time without an answer {place['longest_gap_seconds']:.2f} s"
        )
    for name, seen in report["releases"].items():
        lines.append(f"{name}: {seen['answers']} answers, from {seen['first']['at']} to {seen['last']['at']}")
    for failure in report["failures"][:5]:
        lines.append(
            f"failed: {failure['method']} {failure['target']}{failure['path']} ({failure['kind']}): {failure['detail']}"
        )
    return "\n".join(lines)


def profile_from_options(options: argparse.Namespace) -> tuple[Shape, ...]:
    """The mix that the command line asks for. Raises BadInput."""
    if options.profile:
        try:
            return parse_profile(json.loads(Path(options.profile).read_text(encoding="utf-8")))
        except OSError as error:
            raise BadInput(f"--profile {options.profile}: {error.strerror}") from error
        except ValueError as error:
            raise BadInput(f"--profile {options.profile} is not JSON: {error}") from error
    entries: list[dict[str, object]] = [
        {"kind": "get", "path": options.path, "weight": 60},
        {"kind": "fresh", "path": options.path, "weight": 25},
    ]
    for kind, path, weight in (
        ("post", options.post_path, 15),
        ("slow", options.slow_path, 2),
        ("upload", options.upload_path, 2),
        ("asset", options.asset_path, 5),
        ("stream", options.stream_path, 2),
        ("h2", options.h2_path, 20),
        ("websocket", options.websocket_path, 1),
    ):
        if path:
            entries.append({"kind": kind, "path": path, "weight": weight})
    return parse_profile(entries)


def parser() -> argparse.ArgumentParser:
    """The command line of scripts/load."""
    result = argparse.ArgumentParser(
        prog="scripts/load",
        description="Steady mixed HTTP traffic on test hosts; every answer is judged, nothing is retried. "
        "Exit status: 0 no request failed, 1 some failed or none was sent, 2 bad input.",
    )
    result.add_argument("urls", nargs="+", metavar="URL", help="base URL, for example http://10.0.0.11")
    result.add_argument("--host", default="", help="the Host header to send (default: the URL's host)")
    result.add_argument("--rate", type=float, default=50.0, help="requests per second, all URLs together (50)")
    result.add_argument("--duration", type=float, help="seconds; without it until --until-file or Ctrl-C")
    result.add_argument("--until-file", metavar="FILE", help="run until this file exists")
    result.add_argument("--report", metavar="FILE", help="write the summary as JSON")
    result.add_argument("--log", metavar="FILE", help="write one JSON line for each request")
    result.add_argument(
        "--profile",
        metavar="FILE",
        help="JSON list of {kind, path, method, body, weight, expect, seconds, ends, connections}",
    )
    result.add_argument("--path", default="/", help="what GETs ask for (/)")
    result.add_argument("--post-path", default="", help="also POST to this path")
    result.add_argument("--slow-path", default="", help="also GET this path, which takes long")
    result.add_argument("--upload-path", default="", help="also POST 256 KiB in pieces to this path")
    result.add_argument("--asset-path", default="", help="also read this page and the static files it names")
    result.add_argument("--stream-path", default="", help="also GET this path, whose answer comes in chunks")
    result.add_argument("--h2-path", default="", help="also GET this path by HTTP/2 (https:// only)")
    result.add_argument("--websocket-path", default="", help="also hold two websockets open here that echo")
    result.add_argument("--delay", type=float, default=0.0, help="milliseconds of round trip to add (0)")
    result.add_argument("--connections", type=int, default=8, help="kept-alive connections per URL (8)")
    result.add_argument("--timeout", type=float, default=30.0, help="seconds for one request (30)")
    result.add_argument(
        "--probe-token-file", metavar="FILE", help="send this token, so that answers name their release"
    )
    return result


def _load_from_options(options: argparse.Namespace, log: TextIO | None) -> Load:
    token = ""
    if options.probe_token_file:
        try:
            token = Path(options.probe_token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise BadInput(f"--probe-token-file {options.probe_token_file}: {error.strerror}") from error
    for name, value in (("--timeout", options.timeout), ("--duration", options.duration)):
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{name} is {value:g}; it must be a number of seconds above 0")
    if not 1 <= options.connections <= 1000:
        raise BadInput(f"--connections is {options.connections}; it must be from 1 to 1000")
    return Load(
        [parse_target(url, options.host) for url in options.urls],
        profile=profile_from_options(options),
        rate=options.rate,
        connections=options.connections,
        timeout=options.timeout,
        probe_token=token,
        delay=options.delay,
        log=log,
    )


async def _run_with_signals(load: Load, options: argparse.Namespace) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, load.stop)
    until = Path(options.until_file).exists if options.until_file else None
    ticker = loop.create_task(_tick(load.tally)) if sys.stderr.isatty() else None
    try:
        return await load.run(options.duration, until)
    finally:
        if ticker is not None:
            ticker.cancel()
            sys.stderr.write("\n")


async def _tick(tally: Tally) -> None:
    before = 0
    while True:
        await asyncio.sleep(1)
        seconds = time.monotonic() - tally.started.monotonic
        rate, before = tally.requests - before, tally.requests
        line = f"{seconds:5.0f} s  {tally.requests} requests  {rate}/s  {tally.failed} failed"
        sys.stderr.write(f"\r{line:70}")
        sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """scripts/load: gives the exit status."""
    options = parser().parse_args(arguments)
    with contextlib.ExitStack() as stack:
        try:
            log = stack.enter_context(Path(options.log).open("w", encoding="utf-8")) if options.log else None
            load = _load_from_options(options, log)
            if options.report:
                Path(options.report).touch()  # an unwritable place is better known before than after
        except OSError as error:
            raise BadInput(f"cannot write {error.filename}: {error.strerror}") from error
        report = asyncio.run(_run_with_signals(load, options))
    if options.report:
        Path(options.report).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(summary(report))
    return 1 if report["failed"] or not report["requests"] else 0
