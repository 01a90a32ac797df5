"""A change of a column's type is named for what it does to code written for the old one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen.schema.types import Change, change, parse


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("varchar(20)", "character varying(20)", Change.SAME),
        ("numeric(10, 2)", "numeric(10,2)", Change.SAME),
        ("serial", "integer", Change.SAME),
        ("character varying(20)", "character varying(40)", Change.WIDER),
        ("character varying(20)", "text", Change.WIDER),
        ("numeric(10,2)", "numeric", Change.WIDER),
        ("timestamp(0) with time zone", "timestamp with time zone", Change.WIDER),
        ("integer", "bigint", Change.LARGER),
        ("real", "double precision", Change.LARGER),
        ("text", "citext", Change.LARGER),
        ("numeric(10,2)", "numeric(12,4)", Change.LARGER),
        ("text", "varchar(200)", Change.NARROWER),
        ("bigint", "integer", Change.NARROWER),
        ("numeric(10,2)", "numeric(12,5)", Change.NARROWER),
        ("integer", "integer[]", Change.OTHER),
        ("integer", "text", Change.OTHER),
        ("timestamp with time zone", "date", Change.OTHER),
        ("timestamp with time zone", "timestamp without time zone", Change.OTHER),
        ("json", "jsonb", Change.OTHER),
        ("geometry(Point,4326)", "geometry(Point, 4326)", Change.SAME),
        ("geometry(Point,4326)", "geometry(Point,3857)", Change.OTHER),
    ],
)
def test_a_change_has_a_name(old: str, new: str, expected: Change) -> None:
    assert change(old, new) is expected


TYPES = st.one_of(
    st.integers(1, 300).map(lambda n: f"character varying({n})"),
    st.tuples(st.integers(1, 20), st.integers(0, 5)).map(lambda t: f"numeric({t[0] + t[1]},{t[1]})"),
    st.sampled_from(["smallint", "integer", "bigint", "text", "numeric", "character varying", "date", "boolean"]),
)


@given(TYPES, TYPES)
def test_what_is_wider_one_way_is_narrower_the_other_way(old: str, new: str) -> None:
    there, back = change(old, new), change(new, old)
    assert (there is Change.SAME) == (back is Change.SAME)
    assert (there in (Change.WIDER, Change.LARGER)) <= (back is Change.NARROWER)


@given(TYPES, TYPES, TYPES)
def test_wider_than_what_is_wider_is_wider(one: str, two: str, three: str) -> None:
    if change(one, two) is Change.WIDER and change(two, three) is Change.WIDER:
        assert change(one, three) is Change.WIDER


@given(st.text(max_size=40))
def test_any_text_is_taken(text: str) -> None:
    assert change(text, text) is Change.SAME
    assert isinstance(parse(text)[0], str)
