"""A stored footprint tells, from one catalog query, whether its release can come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import catalog, stored
from bluegreen.schema.facts import Footprint, TableUse, Use

FOOTPRINT = Footprint({"t": TableUse("shop.T", {"id": Use("bigint", False, "auto"), "a": Use("varchar(20)", True)})})


def database(*columns: list[Any]) -> Any:
    """Answers the catalog query as psql would."""
    names = ("tables", "constraints", "indexes", "triggers", "policies", "functions", "enums", "extensions")
    rows = [["public.t", "r", [["id", "bigint", True, None, "d", False, ""], *columns], 1, True, [], "", False]]

    def ask(alias: str, sql: str) -> str:
        assert (alias, sql) == ("default", catalog.QUERY)
        return json.dumps({**dict.fromkeys(names), "tables": rows})

    return ask


def kept_on(ask: Any) -> Any:
    """What is kept of the release when it is confirmed on a schema, as it comes back from a file."""
    misfits = stored.against(FOOTPRINT, ask("default", catalog.QUERY))
    known = {"default": [list(one.key) for one in misfits]}
    return json.loads(json.dumps({"format": 1, "databases": {"default": FOOTPRINT.as_json()}, "known": known}))


A = ["a", "character varying(20)", False, None, "", False, ""]


def test_a_release_fits_the_schema_it_was_confirmed_on() -> None:
    kept = kept_on(database(A))
    assert stored.misfits(kept, database(A)) == []


def test_a_release_does_not_come_back_to_a_schema_without_its_column() -> None:
    kept = kept_on(database(A))
    (line,) = stored.misfits(kept, database())
    assert line.startswith("default: public.t.a: the older release reads and writes this column (shop.T)")


def test_a_release_does_not_come_back_where_its_inserts_fail() -> None:
    kept = kept_on(database(A))
    (line,) = stored.misfits(kept, database(A, ["b", "integer", True, None, "", False, ""]))
    assert "INSERTs fail" in line


def test_what_did_not_fit_when_it_was_confirmed_is_no_reason_later() -> None:
    kept = kept_on(database())
    assert stored.misfits(kept, database()) == []


@pytest.mark.parametrize("kept", [{}, {"format": 2}, {"format": 1, "databases": {"default": {"tables": {"t": {}}}}}])
def test_what_is_not_a_footprint_is_said_in_one_line(kept: dict[str, Any]) -> None:
    with pytest.raises(BluegreenError, match="the stored footprint"):
        stored.misfits(kept, database())
