"""The route: a directory of links that nginx follows, replaced by one rename.

Why links and no reload: docs/architecture.md. `links` decides, `write` acts.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from bluegreen import files
from bluegreen.config import COLOURS, SLOTS, Paths, other

KEPT_GENERATIONS = 5
KEPT_CHANGES = 100


def links(
    paths: Paths,
    live: str,
    share: int,
    statics: Mapping[str, str],
    stand_ins: Container[str] = (),
    websockets: Container[str] = (),
) -> dict[str, str]:
    """The content of a generation: link name → target.

    `live` is the colour that serves, `share` the percentage (0 to 100, steps of 5) routed to the other colour,
    `statics` each colour's directory of unhashed static files, `stand_ins` the colours that may stand in when the
    chosen one does not answer (only confirmed releases may), `websockets` those with a socket for websockets alone.
    """
    if not 0 <= share <= 100 or share % (100 // SLOTS):
        raise ValueError(f"share must be 0 to 100 in steps of {100 // SLOTS}, not {share}")
    idle = other(live)
    moved = share * SLOTS // 100
    result = {"next": str(paths.socket(idle))}
    for slot in range(SLOTS):
        # the first slots move first: the visitors at 5 % are among those at 25 %
        colour = idle if slot < moved else live
        spare = other(colour) if other(colour) in stand_ins else colour
        result[f"s{slot:02}"] = str(paths.socket(colour))
        result[f"ws{slot:02}"] = str(paths.websocket(colour) if colour in websockets else paths.socket(colour))
        result[f"fb{slot:02}"] = str(paths.socket(spare))
        result[f"st{slot:02}"] = statics.get(colour, str(paths.state / "empty"))
    return result


def page_links(paths: Paths, live: str, statics: Mapping[str, str], flag: Path) -> dict[str, str]:
    """The generation of a maintenance window: no slot leads anywhere, and nginx answers with the page.

    `flag`: the file that is there while the window is open; nginx looks for it through this link. Testers still reach
    the other colour.
    """
    nowhere = str(paths.run / "maintenance")
    result = links(paths, live, 0, statics)
    result |= {name: nowhere for name in result if name.startswith(("s0", "s1", "ws", "fb"))}
    return result | {"maintenance": str(flag)}


def write(paths: Paths, content: dict[str, str]) -> str:
    """Make `content` the route. Returns the new generation's name."""
    generation = prepare(paths, content)
    use(paths, generation)
    return generation


def prepare(paths: Paths, content: dict[str, str]) -> str:
    """Make a generation that nobody follows yet. Returns its name."""
    paths.routes.mkdir(exist_ok=True)
    # always above what is there, also after the clock was set back: the oldest are removed below
    newest = max((int(path.name) for path in paths.routes.iterdir() if path.name.isdigit()), default=0)
    generation = str(max(time.time_ns(), newest + 1))
    with files.directory_aside(paths.routes / generation) as aside:
        aside.chmod(0o755)
        for name, target in content.items():
            os.symlink(target, aside / name)
    return generation


def use(paths: Paths, generation: str) -> None:
    """Follow a generation: traffic moves at the rename, and the journal says when. The oldest generations go."""
    content, begun = read_links(paths.routes / generation), time.time()
    files.replace_symlink(paths.route, f"routes/{generation}")
    # when the link itself was made: syncing the directory may take long
    at = min(time.time(), max(begun, os.lstat(paths.route).st_ctime))
    note(paths, {"from": begun, "at": at, "slots": slots(content, paths), "generation": generation})
    for old in sorted(int(path.name) for path in paths.routes.iterdir() if path.name.isdigit())[:-KEPT_GENERATIONS]:
        files.remove_tree(paths.routes / str(old))


def read(paths: Paths) -> dict[str, str] | None:
    """The links of the current generation, or None where there is none."""
    try:
        return read_links(paths.route)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_links(directory: Path) -> dict[str, str]:
    """The links in a directory: name → target."""
    return {entry.name: os.readlink(entry.path) for entry in os.scandir(directory) if entry.is_symlink()}


def slots(content: dict[str, str], paths: Paths) -> str:
    """The first letter of each slot's colour, in order."""
    letters = {str(paths.socket(colour)): colour[0] for colour in COLOURS}
    return "".join(letters.get(content.get(f"s{slot:02}", ""), "-") for slot in range(SLOTS))


def note(paths: Paths, entry: dict[str, Any]) -> None:
    """Add a replacement to the journal, by which requests are attributed. It is no state: it may lose a line."""
    with contextlib.suppress(OSError):
        kept = paths.journal.read_bytes().splitlines(keepends=True) if paths.journal.exists() else []
        line = json.dumps(entry).encode() + b"\n"
        if len(kept) < 2 * KEPT_CHANGES:
            with paths.journal.open("ab") as stream:
                stream.write(line)
        else:
            aside = paths.journal.with_name(".route.jsonl")
            aside.write_bytes(b"".join([*kept[-KEPT_CHANGES:], line]))
            aside.rename(paths.journal)


def journal(paths: Paths) -> list[dict[str, Any]]:
    """The latest replacements, oldest first; a line cut short by a power failure is left out."""
    found = []
    with contextlib.suppress(OSError):
        for line in paths.journal.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [entry for entry in found if isinstance(entry, dict)]


def current_generation(paths: Paths) -> str | None:
    """The name of the current generation."""
    try:
        return Path(os.readlink(paths.route)).name
    except OSError:
        return None


def shares(content: dict[str, str] | None, paths: Paths) -> dict[str, int]:
    """The percentage of slots each colour has."""
    count = {"blue": 0, "green": 0}
    for slot in range(SLOTS):
        for colour in count:
            if content and content.get(f"s{slot:02}") == str(paths.socket(colour)):
                count[colour] += 1
    return {colour: number * 100 // SLOTS for colour, number in count.items()}
