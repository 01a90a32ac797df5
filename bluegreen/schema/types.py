"""Column types: how Django and PostgreSQL write them, and what a change from one to another means for old code."""

from __future__ import annotations

import enum
import re

_NAMES = {
    "varchar": "character varying", "char": "character", "bpchar": "character", "int2": "smallint", "int4": "integer",
    "int": "integer", "int8": "bigint", "serial": "integer", "bigserial": "bigint", "smallserial": "smallint",
    "float4": "real", "float8": "double precision", "bool": "boolean", "decimal": "numeric",
    "timestamptz": "timestamp with time zone", "timestamp": "timestamp without time zone",
    "timetz": "time with time zone", "time": "time without time zone", "varbit": "bit varying",
}  # fmt: skip
_WHOLE = ("smallint", "integer", "bigint")
_TEXTS = ("character varying", "text")
# What every server has, by one name each: of two of them it is certain that they are not the same type.
_PLAIN = {
    *_WHOLE, *_TEXTS, "character", "numeric", "real", "double precision", "boolean", "date", "uuid", "json", "jsonb",
    "bytea", "inet", "interval", "timestamp with time zone", "timestamp without time zone", "time without time zone",
}  # fmt: skip


class Change(enum.Enum):
    """What a change of type means to code that was written for the old one."""

    SAME = "same"
    WIDER = "wider"  # everything fits, nothing is rewritten
    LARGER = "larger"  # everything fits, but the table is rewritten or values get larger than old code knows
    NARROWER = "narrower"  # values that are legal today are refused
    OTHER = "other"


def parse(text: str) -> tuple[str, tuple[int, ...], str]:
    """Name, numbers in parentheses, array brackets: `varchar(20)[]` → ("character varying", (20,), "[]")."""
    text = re.sub(r"\s+", " ", text.strip())
    match = re.fullmatch(
        r"(?P<name>[^(\[]+?)\s*(?:\((?P<args>[^)]*)\))?(?P<rest>[^(\[]*?)(?P<array>(?:\[\d*\])*)", text
    )
    if match is None:
        return text, (), ""
    name = f"{match['name']}{match['rest']}".strip()
    args = [part.strip() for part in (match["args"] or "").split(",") if part.strip()]
    if not all(re.fullmatch(r"-?\d+", part) for part in args):
        return re.sub(r"\s*,\s*", ",", text).lower(), (), ""  # geometry(Point,4326): compared as it is
    bare = name if '"' in name else name.lower()
    return _NAMES.get(bare, bare), tuple(int(part) for part in args), "[]" if match["array"] else ""


def change(old: str, new: str) -> Change:
    """From `old` to `new`, both as PostgreSQL or Django writes them.

    Without a rewrite, by PostgreSQL's own rules (ALTER TABLE, notes): varchar longer, varchar to text, numeric with
    more digits and the same scale, more fractional seconds.
    """
    before, after = parse(old), parse(new)
    if before == after:
        return Change.SAME
    if before[2] != after[2]:
        return Change.OTHER
    if before[0] in _WHOLE and after[0] in _WHOLE:
        return Change.LARGER if _WHOLE.index(after[0]) > _WHOLE.index(before[0]) else Change.NARROWER
    if before[0] in _TEXTS and after[0] in _TEXTS:
        return _longer(_length(before), _length(after))
    if before[0] == after[0]:
        return _same_name(before[0], before[1], after[1])
    if {before[0], after[0]} == {"real", "double precision"}:
        return Change.LARGER if after[0] == "double precision" else Change.NARROWER
    if {before[0], after[0]} <= {"citext", *_TEXTS} and not after[1]:
        return Change.LARGER  # compared in another way
    return Change.OTHER


def apart(one: str, other: str) -> bool:
    """Certainly two types, of which neither can hold what the other does. An extension's own are never known to be."""
    pair = {parse(one)[0], parse(other)[0]}
    return pair <= _PLAIN and change(one, other) is Change.OTHER


def _length(kind: tuple[str, tuple[int, ...], str]) -> float:
    return kind[1][0] if kind[0] == "character varying" and kind[1] else float("inf")


def _longer(old: float, new: float) -> Change:
    return Change.SAME if old == new else Change.WIDER if new > old else Change.NARROWER


def _same_name(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> Change:
    if name == "numeric":
        return _numeric(old, new)
    if name == "bit varying" or name.startswith(("timestamp", "time", "interval")):
        return _longer(old[0] if old else float("inf"), new[0] if new else float("inf"))
    if name == "character":
        return Change.LARGER if (new or (1,)) > (old or (1,)) else Change.NARROWER
    return Change.OTHER


def _numeric(old: tuple[int, ...], new: tuple[int, ...]) -> Change:
    if not new:
        return Change.WIDER
    if not old:
        return Change.NARROWER
    digits, scale, *_ = (*old, 0)
    new_digits, new_scale, *_ = (*new, 0)
    if new_scale < scale or new_digits - new_scale < digits - scale:
        return Change.NARROWER
    return Change.WIDER if new_scale == scale else Change.LARGER
