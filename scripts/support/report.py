"""Draw a deploy's report.json again: the page is made by plugins/module_utils/bluegreen_page.py."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from support.common import REPO, Failure, write_atomic


def main(arguments: list[str]) -> int:
    """scripts/report: writes the page. Raises Failure."""
    sys.path.append(str(REPO))
    from plugins.module_utils import bluegreen_page as pages

    parser = argparse.ArgumentParser(
        prog="scripts/report", description="Draw the report.json of a deploy or rollback again, as one HTML page."
    )
    parser.add_argument("report", type=Path, metavar="FILE", help="the report that the run wrote (JSON)")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to (beside it, with the ending .html)")
    given = parser.parse_args(arguments)
    output = given.output or given.report.with_suffix(".html")
    if output.resolve() == given.report.resolve():
        raise Failure(f"{output} is the report itself: give another name with --output", 2)
    try:
        data = json.loads(given.report.read_bytes())
    except OSError as error:
        raise Failure(f"{given.report}: {error.strerror}", 2) from error
    except (ValueError, RecursionError) as error:
        raise Failure(f"{given.report} is not JSON: {error}", 2) from error
    if not isinstance(data, dict):
        raise Failure(f"{given.report} is not the report of a run: it must be an object with app, sha, ending", 2)
    try:
        write_atomic(output, pages.page(pages.read(data)))
    except OSError as error:
        raise Failure(f"cannot write {output}: {error.strerror}", 2) from error
    print(output)
    return 0
