"""Runs in the place of the build: become exactly the program asked for, with exactly its environment."""

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.umask(0o022)
    os.chdir(spec["cwd"])
    try:
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606 - the whole point
    except OSError as error:
        sys.exit(f"{spec['argv'][0]}: {error.strerror}")
