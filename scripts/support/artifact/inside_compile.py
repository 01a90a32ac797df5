"""Runs in the place of the build, under the virtualenv's Python: byte-compile every module below the given trees.

Unchecked-hash files are never compared with a source's time, so the image's fixed times cannot make them stale.
The work is cut into a fixed number of shares: what is in a .pyc depends on what its process compiled before it.
"""

import compileall
import os
import py_compile
import subprocess
import sys
from pathlib import Path

SHARES = 4


def modules(trees: list[str]) -> list[str]:
    """Every module below the trees, in an order that is always the same."""
    found = []
    for tree in trees:
        for folder, folders, files in os.walk(tree):
            folders[:] = sorted(name for name in folders if name not in {"__pycache__", "node_modules"})
            found += [f"{folder}/{name}" for name in sorted(files) if name.endswith(".py")]
    return found


def compile_share(paths: list[str]) -> int:
    """The number of files that are no Python of this version; they stay as they are."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    return sum(not compileall.compile_file(path, force=True, quiet=2, invalidation_mode=mode) for path in paths)


def main(arguments: list[str]) -> int:
    """`all FILE TREE…`: start the shares and write how many files failed; `N TREE…`: do share N. The exit status."""
    share = arguments[0]
    if share != "all":
        print(compile_share(modules(arguments[1:])[int(share) :: SHARES]))
        return 0
    command = [sys.executable, "-I", __file__]
    env = {"PYTHONHASHSEED": "0", "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    runs = [
        subprocess.Popen([*command, str(number), *arguments[2:]], stdout=subprocess.PIPE, text=True, env=env)
        for number in range(SHARES)
    ]
    outputs = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        return 1
    Path(arguments[1]).write_text(str(sum(int(output) for output in outputs)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
