"""The software bill of materials: CycloneDX of the virtualenv as it was built, licences included."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from support.artifact.errors import BuildError, InputError
from support.common import last_line


def write(target: Path, site_packages: Path, app: str, sha: str, seconds: int, scratch: Path) -> int:
    """Write the SBOM of an installed environment to `target`; returns the number of components. No network."""
    beside = Path(sys.executable).with_name("cyclonedx-py")
    tool = str(beside) if beside.exists() else shutil.which("cyclonedx-py")
    if tool is None:
        raise InputError("cyclonedx-py is not installed: run scripts/setup")
    # The tool asks an interpreter for its sys.path; the real one may not run here (another system's), so this answers.
    interpreter = scratch / "python"
    interpreter.write_text(f"#!/bin/sh\necho {shlex.quote(json.dumps([str(site_packages)]))}\n", encoding="utf-8")
    interpreter.chmod(0o755)
    env = {"PATH": os.environ.get("PATH", os.defpath), "SOURCE_DATE_EPOCH": str(seconds), "TZ": "UTC"}
    words = [tool, "environment", "--output-reproducible", "--of", "JSON", "--no-validate", "-o", str(target)]
    done = subprocess.run([*words, str(interpreter)], env=env, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise BuildError(f"cyclonedx-py made no SBOM: {last_line(done.stderr)}", done.stderr.splitlines()[-20:])
    bom = json.loads(target.read_text(encoding="utf-8"))
    bom.setdefault("metadata", {})["component"] = {
        "type": "application",
        "name": app,
        "version": sha,
        "bom-ref": "root-component",
    }
    target.write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return len(bom.get("components", []))
