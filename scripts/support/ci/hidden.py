"""Keep secrets out of the process list: this program runs again with an environment that holds none.

A process's first environment can be read in /proc for as long as it lives, whatever it removes from it later. So
what may be secret goes into a file that has no name (memfd), and the program is executed again with what is left.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from support.common import VENV

FD = "BLUEGREEN_HIDDEN_FD"
# what programs need to find their files and to speak to a person, and where the page of the job is
PLAIN = frozenset(
    (
        "CI_JOB_URL", "COLUMNS", "GITHUB_ACTIONS", "GITHUB_OUTPUT", "GITHUB_REPOSITORY", "GITHUB_RUN_ID",
        "GITHUB_SERVER_URL", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE", "HOME", "LANG", "LOGNAME", "PATH",
        "PYTHONDONTWRITEBYTECODE", "SSL_CERT_DIR", "SSL_CERT_FILE", "TERM", "TMPDIR", "TZ", "USER",
    )
)  # fmt: skip
PROXIES = ("http_proxy", "https_proxy", "no_proxy")  # plain unless they hold a password
GIVEN = "BLUEGREEN_"  # the variables that scripts/deploy itself reads; see secrets.py


def split(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The plain part of an environment, and the part that is ours and may be secret. The rest belongs to neither."""
    plain = {name: text for name, text in environment.items() if name in PLAIN or name.startswith("LC_")}
    plain |= {name: text for name, text in environment.items() if name.lower() in PROXIES and "@" not in text}
    given = {name: text for name, text in environment.items() if name.startswith(GIVEN) and name != FD}
    return plain, given


def hide(everything_else: bool = False) -> None:
    """Run the program again, by the project's Python, with a plain environment. Returns in the second run.

    everything_else: only what is ours leaves the environment.
    """
    if FD in os.environ:
        return
    plain, given = split(os.environ)
    if everything_else:
        plain = {name: text for name, text in os.environ.items() if name not in given}
    handle = os.memfd_create("bluegreen", 0)  # 0: it stays open across exec
    with open(handle, "w", encoding="utf-8", errors="surrogateescape", closefd=False) as out:
        json.dump(given, out)
    os.lseek(handle, 0, os.SEEK_SET)
    python = VENV / "bin" / "python"
    program = str(python) if os.access(python, os.X_OK) else sys.executable
    plain["PATH"] = f"{Path(program).parent}{os.pathsep}{plain.get('PATH', os.defpath)}"
    os.execve(program, [program, *sys.argv], plain | {FD: str(handle)})  # noqa: S606


def given() -> dict[str, str]:
    """What `hide` put aside, once; from then on nothing of it is in the environment."""
    number = os.environ.pop(FD, None)
    if number is None:
        return split(os.environ)[1]
    with os.fdopen(int(number), encoding="utf-8", errors="surrogateescape") as handle:
        found: dict[str, str] = json.load(handle)
    return found
