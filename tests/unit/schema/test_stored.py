"""A stored footprint tells, from one catalog query, whether its release can come back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import catalog, stored
from bluegreen.schema.facts import Footprint, TableUse, Use

RELEASE = {
    "format": 1,
    "databases": {
        "default": Footprint(
            {"t": TableUse("shop.T", {"id": Use("bigint", False, "auto"), "a": Use("varchar(20)", True)})}
        ).as_json()
    },
    "drift": [],
}


def database(*columns: list[Any]) -> Any:
    """Answers the catalog query as psql would."""
    names = ("tables", "constraints", "indexes", "triggers", "policies", "functions", "enums", "extensions")
    rows = [["public.t", "r", [["id", "bigint", True, None, "d", False, ""], *columns], 1, True, [], "", False]]

    def ask(alias: str, sql: str) -> str:
        assert (alias, sql) == ("default", catalog.QUERY)
        return json.dumps({**dict.fromkeys(names), "tables": rows})

    return ask


A = ["a", "character varying(20)", False, None, "", False, ""]


def test_a_release_fits_the_schema_it_was_confirmed_on() -> None:
    kept = json.loads(json.dumps(stored.confirmed(RELEASE, database(A))))
    assert stored.misfits(kept, database(A)) == []


def test_a_release_does_not_come_back_to_a_schema_without_its_column() -> None:
    kept = stored.confirmed(RELEASE, database(A))
    (line,) = stored.misfits(kept, database())
    assert line.startswith("default: public.t.a: the older release reads and writes this column (shop.T)")


def test_a_release_does_not_come_back_where_its_inserts_fail() -> None:
    kept = stored.confirmed(RELEASE, database(A))
    (line,) = stored.misfits(kept, database(A, ["b", "integer", True, None, "", False, ""]))
    assert "INSERTs fail" in line


def test_what_did_not_fit_when_it_was_confirmed_is_no_reason_later() -> None:
    kept = json.loads(json.dumps(stored.confirmed(RELEASE, database())))
    assert stored.misfits(kept, database()) == []


@pytest.mark.parametrize("kept", [{}, {"format": 2}, {"format": 1, "databases": {"default": {"tables": {"t": {}}}}}])
def test_what_is_not_a_footprint_is_said_in_one_line(kept: dict[str, Any]) -> None:
    with pytest.raises(BluegreenError, match="the stored footprint"):
        stored.misfits(kept, database())
