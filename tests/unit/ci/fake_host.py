#!/usr/bin/env python3
"""Stands in for sudo: the host tool of two hosts that serve a release and keep an older one, warm.

Beside it lie: calls.jsonl, what was asked; hang-VERB: that verb does not answer; fail-VERB: it fails and says what the
file holds; committed: the register says COMMIT.
"""

import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OLD, NEW, NEXT = "a" * 40, "b" * 40, "c" * 40


def record(sha: str, generation: int) -> dict[str, object]:
    release = f"{sha[:12]}-00000000"
    return {"id": release, "sha": sha, "state": "confirmed", "confirmed_fence": generation, "complete": True}


STATUS = {
    "live": {"colour": "blue", "release": f"{NEW[:12]}-00000000", "sha": NEW},
    "idle": {"colour": "green", "release": f"{OLD[:12]}-00000000", "sha": OLD, "running": True},
    "releases": [record(OLD, 5), record(NEW, 6)],
    "share": {"blue": 100, "green": 0},
    "pending": None,
    "drift": [],
}


def answer(verb: str, step: dict[str, object], deploy_id: str) -> dict[str, object]:
    if verb == "lease" and step.get("action") == "take":
        lease = {"deploy_id": deploy_id, "since": "2026-11-21T12:00:00"}
        return {"lease": lease, "generation": 8, "fence": 6, "register": "r", "status": STATUS, "machine": {}}
    committed = (HERE / "committed").exists()
    return {
        "lease": {"released": True, "lease": None, "error": None},
        "status": STATUS,
        "configure": {"release": f"{NEXT[:12]}-00000000", "changed": True},
        "migrate": {"pending": ["shop.0002_note"], "applied": ["shop.0002_note"]},
        "route": {"colour": "green", "generation": 3},
        "decide": {"decision": "COMMIT"},
        "confirm": {"live": STATUS["live"], "changed": True},
        "revert": {"reverted": not committed, "decided": "COMMIT" if committed else "ABORT", "live": STATUS["live"]},
    }.get(verb, {})


def main() -> None:
    call = json.load(sys.stdin)
    results = {}
    for step in call["steps"]:
        verb = step["verb"]
        with (HERE / "calls.jsonl").open("a") as log:
            log.write(json.dumps({"deploy_id": call["deploy_id"], "fence": call["fence"], **step}) + "\n")
        if (HERE / f"hang-{verb}").exists():
            time.sleep(300)
        if (HERE / f"fail-{verb}").exists():
            error = {"what": (HERE / f"fail-{verb}").read_text(), "why": "so it was", "next": "", "code": 4}
            print(json.dumps({"ok": False, "results": results, "error": error}))
            return
        results[step.get("id", verb)] = answer(verb, step, call["deploy_id"])
    print(json.dumps({"ok": True, "results": results, "seconds": 0.1}))


main()
