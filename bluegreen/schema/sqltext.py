"""What a statement of SQL is, from its words. The catalog tells what it did; this is for what it cannot show."""

from __future__ import annotations

import enum
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<string>[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*')
    |(?P<dollar>\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$)
    |(?P<name>"(?:[^"]|"")*")
    |(?P<end>;)
    |(?P<word>[^\W\d][\w$]*)
    |(?P<space>\s+)
    |(?P<other>.)""",
    re.DOTALL | re.VERBOSE,
)


class Kind(enum.Enum):
    """What a statement can do beside changing the schema."""

    SCHEMA = "schema"  # the catalog shows what it did
    DATA = "data"
    VALIDATE = "validate"
    SETTING = "setting"  # of the session; or a comment, or statistics: nothing that a release could notice
    QUERY = "query"
    OPAQUE = "opaque"  # a block of code, or nothing we know
    RIGHTS = "rights"
    REWRITE = "rewrite"  # rewrites or rebuilds under a lock, and changes nothing
    LOCK = "lock"


_DATA = ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE", "COPY", "IMPORT")
_KINDS = {
    **dict.fromkeys(_DATA, Kind.DATA),
    **dict.fromkeys(("CREATE", "DROP", "ALTER"), Kind.SCHEMA),
    **dict.fromkeys(
        ("SET", "RESET", "SHOW", "COMMENT", "ANALYZE", "BEGIN", "COMMIT", "START", "SAVEPOINT", "RELEASE", "DISCARD"),
        Kind.SETTING,
    ),
    **dict.fromkeys(("GRANT", "REVOKE", "REASSIGN", "SECURITY"), Kind.RIGHTS),
    **dict.fromkeys(("SELECT", "VALUES", "TABLE", "EXPLAIN", "FETCH", "DECLARE", "CLOSE"), Kind.QUERY),
    **dict.fromkeys(("CLUSTER", "VACUUM", "REINDEX"), Kind.REWRITE),
    "LOCK": Kind.LOCK,
    "REFRESH": Kind.DATA,
}


def _tokens(sql: str) -> Iterator[tuple[str, str]]:
    for found in _TOKEN.finditer(sql):
        yield str(found.lastgroup if found.lastgroup != "tag" else "dollar"), found.group()


def split(sql: str) -> list[str]:
    """The statements of a script, without comments, one space between words. Strings and names stay as they are."""
    statements, current = [], ""
    for kind, text in _tokens(sql):
        if kind == "end":
            statements.append(current)
            current = ""
        elif kind in ("comment", "space"):
            current += " " if current and not current.endswith(" ") else ""
        else:
            current += text
    statements.append(current)
    return [one.strip() for one in statements if one.strip()]


def words(statement: str) -> list[str]:
    """The bare words in upper case; what stands in strings, quoted names and code blocks is left out."""
    return [text.upper() for kind, text in _tokens(statement) if kind == "word"]


def kind(statement: str) -> Kind:
    """What a single statement (of `split`) can do."""
    said = words(statement)
    if not said:
        return Kind.SETTING if not statement.strip() else Kind.OPAQUE
    first = said[0]
    if first == "WITH" or (first == "EXPLAIN" and "ANALYZE" in said):
        return Kind.DATA if any(word in _DATA for word in said[1:]) else Kind.QUERY
    if first == "SELECT" and "INTO" in said:
        return Kind.DATA
    if first == "CREATE" and ("TABLE" in said[:4] or "MATERIALIZED" in said[:3]) and _copies(said):
        return Kind.DATA if said[-2:] != ["NO", "DATA"] else Kind.SCHEMA
    if first in ("CREATE", "DROP", "ALTER") and len(said) > 1:
        return _definition(said)
    return _KINDS.get(first, Kind.OPAQUE)


def _copies(said: list[str]) -> bool:
    """AS SELECT, but not GENERATED … AS IDENTITY."""
    pairs = itertools.pairwise(said)
    return any(one == "AS" and then in ("SELECT", "WITH", "TABLE", "VALUES", "EXECUTE") for one, then in pairs)


def _definition(said: list[str]) -> Kind:
    if said[1] in (
        "ROLE",
        "USER",
        "GROUP",
        "DATABASE",
        "SYSTEM",
        "TABLESPACE",
        "SERVER",
        "SUBSCRIPTION",
        "PUBLICATION",
    ):
        return Kind.RIGHTS
    if said[1:3] in (["DEFAULT", "PRIVILEGES"], ["EVENT", "TRIGGER"]) or "OWNER" in said:
        return Kind.RIGHTS
    if said[:2] == ["ALTER", "TABLE"] and "VALIDATE" in said:
        return Kind.VALIDATE
    return Kind.SCHEMA


def calls_a_function(statement: str) -> bool:
    """A query that calls something may do anything: setval(…), an extension's function."""
    return re.search(r"[\w\"]\s*\(", re.sub(r"'(?:[^']|'')*'", "''", statement)) is not None and not re.search(
        r"\bEXISTS\s*\(", statement, re.IGNORECASE
    )


def repeatable(statement: str) -> bool:
    """Run a second time it does no harm and does not fail: IF [NOT] EXISTS, OR REPLACE, VALIDATE, settings."""
    said = words(statement)
    return (
        kind(statement) in (Kind.SETTING, Kind.QUERY, Kind.VALIDATE)
        or "REPLACE" in said[:3]
        or any(
            said[i : i + 2] == ["IF", "EXISTS"] or said[i : i + 3] == ["IF", "NOT", "EXISTS"] for i in range(len(said))
        )
    )


def concurrent(statements: Iterable[str]) -> set[str]:
    """Bare names of the indexes that are made or dropped CONCURRENTLY; quotes and schema are left out."""
    found = set()
    for sql in statements:
        for one in split(sql):
            match = re.match(
                r"(?:CREATE\s+(?:UNIQUE\s+)?|DROP\s+|RE)INDEX\s+(?:INDEX\s+)?CONCURRENTLY\s+"
                r'(?:IF\s+(?:NOT\s+)?EXISTS\s+)?(?:(?:"[^"]+"|\w+)\.)?("[^"]+"|\w+)',
                one,
                re.IGNORECASE,
            )
            if match:
                found.add(match.group(1).strip('"'))
    return found


def digest(statements: Iterable[str]) -> str:
    """sha256 (64 hex characters) of the statements; white space and comments do not count."""
    plain = [one for sql in statements for one in split(sql)]
    return hashlib.sha256("\n".join(plain).encode()).hexdigest()
