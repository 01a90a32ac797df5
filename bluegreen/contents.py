"""What is inside an image, before anything opens it.

unsquashfs lists the image as a user without privileges; the list decides. Regular files, directories and links
that stay inside, of bounded number and size: whatever else is in it, the image is neither mounted nor unpacked.
"""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from bluegreen import units
from bluegreen.errors import BluegreenError, check_failed

MOST_MEMBERS = 200_000  # a real application with its virtualenv had 9,500 (160 MB)
MOST_BYTES = 4 << 30
MOST_LIST = 64 << 20  # bytes of the list: 335 for each member; in a real application they had 148
LIST_SECONDS = 60.0
UNPACK_SECONDS = 300.0
MEMORY = 4 << 30  # bytes of address space for unsquashfs: its queues, and the stacks of a thread for each processor
ROOT = "squashfs-root"
# mode owner size|major, minor date time name; a name may hold blanks, and a link's target follows an arrow
LINE = re.compile(
    r"(?P<kind>.)(?P<mode>[-rwxsStT]{9}) +\d+/\d+ +(?P<size>\d+|\d+, *\d+) +[\d-]{10} [\d:]{5} (?P<name>.*)"
)
# the same for all that may be, which is nearly all: one look for each of thousands of lines
PART = r"(?!\.\.?(?:/|$))[^/\x00-\x1f\x7f-\x9f]+"
ORDINARY = re.compile(
    rf"([-d])[-rwx]{{9}} +\d+/\d+ +(\d+) +[\d-]{{10}} [\d:]{{5}} squashfs-root(?:/({PART}(?:/{PART})*))?"
)
STEP = re.compile(r"(^|/)\.{0,2}(/|$)")  # an empty part of a path, `.` or `..`
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SPECIAL = {"b": "a block device", "c": "a character device", "p": "a pipe", "s": "a socket"}
INTERPRETER = re.compile(r"venv/bin/python(3(\.\d+)?)?")
SYSTEM_PYTHON = re.compile(r"/usr/bin/python3(\.\d+)?")


class Contents(NamedTuple):
    """How much an image holds."""

    members: int
    bytes: int


def bad(what: str, why: str = "") -> BluegreenError:
    """An image that must not be opened."""
    return check_failed(f"the image holds {what}", why, "correct the build, and deploy a new commit")


def examine(lines: Iterable[str], place: str) -> Contents:
    """Judge the list of an image that will be opened at `place`. Raises BluegreenError that names the member."""
    names: list[str] = []
    size = 0
    for line in lines:
        ordinary = ORDINARY.fullmatch(line)
        kind, length, name = ordinary.groups(default="") if ordinary else judged(line, place)
        if kind == "-":
            size += int(length)
        names.append(name)
    if not names:
        raise bad("nothing")
    if len(set(names)) != len(names):
        raise bad("a name that is there twice", twice(names)[:120])
    if len(names) > MOST_MEMBERS:
        raise bad(f"more than {MOST_MEMBERS} members", "an image may not")
    if size > MOST_BYTES:
        raise bad(f"files of more than {MOST_BYTES >> 20} MB together", "an image may not")
    return Contents(len(names), size)


def judged(line: str, place: str) -> tuple[str, str, str]:
    """Kind, size and path of a member that is not quite ordinary, such as a link. Raises BluegreenError."""
    found = LINE.fullmatch(line)
    if found is None or CONTROL.search(found["name"]):
        raise bad("a name that cannot be read", ascii(line[:120]))
    kind, (name, target) = found["kind"], split_name(found["name"], found["kind"] == "l")
    if kind in SPECIAL:
        raise bad(SPECIAL[kind], name[:120])
    if kind not in "-dl":
        raise bad("a member of an unknown kind", ascii(line[:120]))
    if set(found["mode"]) & set("sStT"):
        raise bad("a setuid, setgid or sticky member", name[:120])
    if not plain(name):
        raise bad("a name that leads outside", name[:120])
    if kind == "l" and (problem := link_problem(name, target, place)):
        raise bad(f"a link that {problem}", f"{name} -> {target}"[:200])
    return kind, found["size"], name


def twice(names: Iterable[str]) -> str:
    """The first name that was there before."""
    seen: set[str] = set()
    return next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def split_name(shown: str, link: bool) -> tuple[str, str]:
    """A member's path below the image's root, and a link's target. Raises BluegreenError."""
    name, arrow, target = shown.partition(" -> ") if link else (shown, "", "")
    if link and (not arrow or " -> " in target):
        raise bad("a link that cannot be read", ascii(shown[:120]))
    if name != ROOT and not name.startswith(f"{ROOT}/"):
        raise bad("a name that leads outside", name[:120])
    return name[len(ROOT) + 1 :], target


def plain(name: str) -> bool:
    """Whether a path has neither empty parts nor `.` nor `..`; the root itself is the empty one."""
    return not name or STEP.search(name) is None


def link_problem(name: str, target: str, place: str) -> str:
    """Why a link of an image must not be: "leads outside", or empty.

    `..` may stand at the beginning only: there it is counted against real directories. Behind a name, which may be
    another link, it cannot be counted.
    """
    if INTERPRETER.fullmatch(name) and SYSTEM_PYTHON.fullmatch(target):
        return ""  # a virtualenv has no interpreter of its own
    if target.startswith("/"):
        inside = target == place or target.startswith(f"{place}/")
        return "" if inside and plain(target[len(place) + 1 :].rstrip("/")) else "leads outside"
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    depth = name.count("/")
    return "leads outside" if not target or ups > depth or ".." in parts[ups:] else ""


def claimed(image: Path) -> int:
    """How many members the image says it has: the second field of its superblock, which is its first 96 bytes.

    Raises BluegreenError if it is no squashfs image, or if they are too many.
    """
    with image.open("rb") as stream:
        block = stream.read(96)
    if len(block) < 96 or block[:4] != b"hsqs":
        raise check_failed(
            f"{image.name.removeprefix('.tmp-')} is not a squashfs image", "", "build the artifact again"
        )
    members = int(struct.unpack("<I", block[4:8])[0])
    if members > MOST_MEMBERS:
        raise bad(f"{members} members", f"an image may have {MOST_MEMBERS}")
    return members


def limited(*words: str) -> tuple[str, ...]:
    """A command of squashfs-tools with bounds to its memory, its time and the files it writes."""
    limits = (f"--as={MEMORY}", f"--cpu={UNPACK_SECONDS:.0f}", f"--fsize={MOST_BYTES}", "--core=0")
    return ("prlimit", *limits, *words)


def listed(image: Path) -> list[str]:
    """The list of an image's members, at most one more than may be. To be called without privileges.

    Raises BluegreenError if it cannot be made or is too long: it is kept in the memory of a host that serves.
    """
    # one thread, and no look at /etc/localtime for each member's date: a third of the time
    command = limited("env", "TZ=UTC0", "unsquashfs", "-processors", "1", "-lln", str(image))
    status, lines, whole = units.head(command, MOST_MEMBERS + 1, MOST_LIST, LIST_SECONDS)
    if not whole and len(lines) <= MOST_MEMBERS:
        raise bad(f"names and links of more than {MOST_LIST >> 20} MB together", "an image may not")
    if status and whole:
        raise check_failed(f"{image.name.removeprefix('.tmp-')} cannot be read", lines[-1] if lines else "")
    return lines


def look(image: Path, place: str) -> Contents:
    """List an image and judge the list, to be called without privileges. Raises BluegreenError; see examine.

    Both are done by the same user: a list is as good as the program that made it, and root reads none of it.
    """
    return examine(listed(image), place)


def unpack(image: Path, directory: int) -> None:
    """Unpack an image as `tree` into the directory with this descriptor. To be called without privileges."""
    import os

    os.fchdir(directory)  # its parents are closed to this user
    command = limited("unsquashfs", "-no-xattrs", "-no-progress", "-quiet", "-dest", "tree", str(image))
    done = units.run(command, timeout=UNPACK_SECONDS, check=False)
    if done.returncode:
        raise check_failed(f"{image.name} cannot be unpacked", units.last_line(done.stderr))


def settle(tree: int, owner: int) -> int:
    """Give what was unpacked to `owner`, with modes that only root can change. Returns the number of members.

    It was written by a user without privileges: every member is looked at again, without following a link.
    Raises BluegreenError for what cannot have been in the list.
    """
    import os

    members = 1
    for _, folders, names, here in os.fwalk(".", dir_fd=tree, follow_symlinks=False):
        os.fchmod(here, 0o755)
        os.fchown(here, owner, owner)
        for name in (*folders, *names):
            mode = os.lstat(name, dir_fd=here).st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                raise bad("a special file", name)
            os.chown(name, owner, owner, dir_fd=here, follow_symlinks=False)
            if stat.S_ISREG(mode):
                os.chmod(name, 0o755 if mode & 0o100 else 0o644, dir_fd=here)
            members += 1
    return members
