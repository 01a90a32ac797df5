"""Findings follow from catalogs and footprints alone: no database, no Django."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluegreen.schema import advice, decide, fits, rules
from bluegreen.schema.facts import (
    Catalog,
    Column,
    Constraint,
    Finding,
    Footprint,
    Index,
    Operation,
    Size,
    Statement,
    Step,
    Table,
    TableUse,
    Use,
    Verdict,
)

ID = Column("id", "bigint", True, identity="d")
SMALL, LARGE = Size(9_999, 9_999_999), Size(10_000, 1)


def table(*columns: Column, name: str = "public.t", **more: Any) -> Table:
    return Table(name, "r", {one.name: one for one in (ID, *columns)}, **more)


def catalog(*tables: Table, **more: Any) -> Catalog:
    return Catalog({one.name: one for one in tables}, **more)


def footprint(**columns: Use) -> Footprint:
    return Footprint({"t": TableUse("shop.T", {"id": Use("bigint", False, "auto"), **columns})})


def step(before: Catalog, after: Catalog, **more: Any) -> Step:
    return Step("default", "shop", "0002_x", before, after, **more)


def found(
    before: Catalog, after: Catalog, live: Footprint | None = None, size: Size = SMALL, **more: Any
) -> dict[str, Verdict]:
    setting = rules.Setting(before, live if live is not None else footprint(), {"public.t": size})
    return {one.rule: one.verdict for one in rules.findings(step(before, after, **more), setting)}


TEXT = Column("a", "text")
WRITES = Use("text", True)


def test_nothing_changed_is_nothing_found() -> None:
    assert found(catalog(table(TEXT)), catalog(table(TEXT)), footprint(a=WRITES)) == {}


def test_a_dropped_column_is_refused_while_it_is_used_and_asks_afterwards() -> None:
    before, after = catalog(table(TEXT)), catalog(table())
    assert found(before, after, footprint(a=WRITES)) == {"missing-column": Verdict.REFUSED}
    assert found(before, after, footprint()) == {"drop-column": Verdict.NEEDS_APPROVAL}


def test_what_did_not_fit_before_is_not_the_migrations_fault() -> None:
    before = catalog(table(Column("b", "integer", True)))
    after = catalog(table(Column("b", "integer", True), Column("c", "integer")))
    assert found(before, after, footprint(gone=WRITES)) == {}


@pytest.mark.parametrize(
    ("column", "breaks"),
    [
        (Column("n", "integer"), False),
        (Column("n", "integer", True), True),
        (Column("n", "integer", True, "7"), False),
        (Column("n", "integer", True, identity="a"), False),
        (Column("n", "integer", True, generated=True), False),
    ],
)
def test_a_new_column_must_fill_itself(column: Column, breaks: bool) -> None:
    said = found(catalog(table()), catalog(table(column)))
    assert (said.get("insert-omits") is Verdict.REFUSED) == breaks


def test_not_null_is_refused_where_the_live_release_may_write_null_and_a_default_does_not_help() -> None:
    before, after = catalog(table(TEXT)), catalog(table(Column("a", "text", True, "''::text")))
    assert found(before, after, footprint(a=Use("text", True)))["not-null"] is Verdict.REFUSED
    assert found(before, after, footprint(a=Use("text", False))) == {"not-null-scan": Verdict.SAFE}
    assert found(before, after, footprint(a=Use("text", False)), LARGE) == {"not-null-scan": Verdict.NEEDS_APPROVAL}


def test_a_valid_check_spares_the_scan() -> None:
    check = {("public.t", "c"): Constraint("c", "public.t", "c", ("a",), "CHECK ((a IS NOT NULL))")}
    before = catalog(table(TEXT), constraints=check)
    after = catalog(table(Column("a", "text", True)), constraints=check)
    assert found(before, after, footprint(a=Use("text", False)), LARGE) == {}


def test_a_dropped_not_null_asks_only_if_the_live_release_does_not_expect_null() -> None:
    before, after = catalog(table(Column("a", "text", True))), catalog(table(TEXT))
    assert found(before, after, footprint(a=Use("text", False))) == {"may-read-null": Verdict.NEEDS_APPROVAL}
    assert found(before, after, footprint(a=Use("text", True))) == {"not-null-dropped": Verdict.SAFE}


def test_a_default_that_is_relied_on_must_stay() -> None:
    before, after = catalog(table(Column("a", "text", True, "'x'"))), catalog(table(Column("a", "text", True)))
    assert found(before, after, footprint(a=Use("text", False, "default")))["lost-default"] is Verdict.REFUSED
    assert found(before, after, footprint(a=Use("text", False))) == {}
    assert found(before, after, footprint())["insert-omits"] is Verdict.REFUSED


@pytest.mark.parametrize(
    ("size", "verdict"),
    [
        (SMALL, Verdict.SAFE),
        (LARGE, Verdict.NEEDS_APPROVAL),
        (Size(None, None), Verdict.NEEDS_APPROVAL),
        (Size(0, 10_000_000), Verdict.NEEDS_APPROVAL),
    ],
)
def test_what_blocks_asks_from_ten_thousand_rows_or_ten_megabytes_on(size: Size, verdict: Verdict) -> None:
    before, after = catalog(table(file=1)), catalog(table(file=2))
    assert found(before, after, size=size) == {"rewrite": verdict}


def test_a_truncated_table_is_not_rewritten_but_emptied() -> None:
    sql = (Statement("TRUNCATE t", 0, "sql"),)
    assert found(catalog(table(file=1)), catalog(table(file=2)), size=LARGE, statements=sql) == {
        "data": Verdict.NEEDS_APPROVAL
    }


def index(*columns: str, name: str = "public.i", **more: Any) -> Index:
    return Index(name, "public.t", columns, f"CREATE INDEX {name} ON t USING btree ({columns})", **more)


def with_index(one: Index, *columns: Column) -> Catalog:
    return catalog(table(*columns), indexes={one.name: one})


def test_an_index_blocks_unless_it_is_built_concurrently() -> None:
    before, after = catalog(table(TEXT)), with_index(index("a"), TEXT)
    assert found(before, after, size=LARGE) == {"index-blocks": Verdict.NEEDS_APPROVAL}
    built = (Statement("create index concurrently i on t (a)", 0, "sql"),)
    assert found(before, after, size=LARGE, statements=built, atomic=False) == {}


def test_a_renamed_index_is_the_same_index() -> None:
    old = index("a", number=7)
    same = dataclasses.replace(old, name="public.j", definition=old.definition.replace("public.i", "public.j"))
    assert found(with_index(old, TEXT), with_index(same, TEXT), size=LARGE) == {}
    again = dataclasses.replace(same, number=8)
    both = catalog(table(TEXT), indexes={old.name: old, again.name: again})
    assert set(found(with_index(old, TEXT), both, size=LARGE)) == {"index-blocks"}, "built once more, which blocks"


def test_a_check_that_is_there_twice_was_read_twice() -> None:
    one = Constraint("small", "public.t", "c", ("a",), "CHECK ((a < 5))")
    two = dataclasses.replace(one, name="again")
    before = catalog(table(TEXT), constraints={("public.t", "small"): one})
    after = catalog(table(TEXT), constraints={("public.t", "again"): two, ("public.t", "small"): one})
    assert found(before, after, size=LARGE) == {"validates": Verdict.NEEDS_APPROVAL}
    renamed = catalog(table(TEXT), constraints={("public.t", "again"): two})
    assert found(before, renamed, size=LARGE) == {"renamed-constraint": Verdict.SAFE}


@pytest.mark.parametrize(
    ("column", "expects", "rule"),
    [
        ("text", "numeric(12, 2)", "another-type"),
        ("timestamp with time zone", "date", "another-type"),
        ("text", "varchar(20)", ""),
        ("bigint", "integer", ""),
        ("integer", "bigint", "too-narrow"),
        ("numeric(9,2)", "numeric(9, 3)", "too-narrow"),
        ("geometry(Point,4326)", "text", ""),
        ("mood", "text", ""),
    ],
)
def test_a_column_must_hold_what_a_release_writes(column: str, expects: str, rule: str) -> None:
    there = catalog(table(Column("a", column)))
    assert {one.rule for one in fits.misfits(footprint(a=Use(expects, True)), there)} == ({rule} if rule else set())


GONE = Column("gone", "character varying(20)", True)


@pytest.mark.parametrize(
    ("more", "late", "bridge"),
    [
        ({}, True, 1),
        ({"indexes": {"public.u": Index("public.u", "public.t", ("gone",), "", unique=True)}}, False, 0),
        ({"constraints": {("public.t", "f"): Constraint("f", "public.t", "f", ("gone",), "")}}, False, 0),
        ({"indexes": {"public.u": Index("public.u", "public.t", ("id",), "", unique=True)}}, False, 0),
    ],
)
def test_the_code_may_go_first_if_a_default_can_stand_in_for_what_it_no_longer_writes(
    more: dict[str, Any], late: bool, bridge: int
) -> None:
    before, after = catalog(table(GONE), **more), catalog(table())
    drop = step(before, after)
    case = decide.Case("default", [drop], rules.Setting(before, None, {}), footprint())
    possible, statements = decide.late_possible(case, drop)
    assert (possible, len(statements)) == (late, bridge)
    never = dataclasses.replace(case, new=footprint(missing=WRITES))
    assert decide.late_possible(never, drop) == (False, ()), "the new release does not fit in the end either"


def test_a_new_unique_index_is_refused_if_the_live_release_can_break_it() -> None:
    unique = index("a", unique=True)
    before, after = catalog(table(TEXT)), with_index(unique, TEXT)
    assert found(before, after, footprint(a=WRITES))["unique"] is Verdict.REFUSED
    assert "unique" not in found(before, after, footprint())  # always NULL, and NULLs differ
    same = dataclasses.replace(unique, nulls_distinct=False)
    assert found(before, with_index(same, TEXT), footprint())["unique"] is Verdict.REFUSED
    declared = Footprint({"t": TableUse("shop.T", {"a": WRITES}, unique=frozenset([frozenset("a")]))})
    assert "unique" not in found(before, after, declared)


def test_a_plan_may_do_anything_to_what_it_made_itself() -> None:
    mine = table(Column("a", "integer", True), name="public.mine")
    setting = rules.Setting(catalog(table()), footprint(), {"public.t": LARGE})
    gone = step(catalog(table(), mine), catalog(table()))
    assert rules.findings(gone, setting) == []


def test_a_failed_migration_is_refused_with_its_reason() -> None:
    said = rules.findings(step(catalog(), catalog(), failed="ProgrammingError: no"), rules.Setting(catalog(), None, {}))
    assert [(one.rule, one.verdict) for one in said] == [("failed", Verdict.REFUSED)]
    assert "ProgrammingError: no" in advice.text(said[0]).why


def test_undoing_nothing_is_right_only_where_there_is_nothing_to_undo() -> None:
    def said(sql: str) -> set[str]:
        operation = (Operation(0, "RunSQL", "Raw SQL", "sql", "noop"),)
        return set(found(catalog(), catalog(), operations=operation, statements=(Statement(sql, 0, "sql"),)))

    assert said("ALTER TABLE t VALIDATE CONSTRAINT c") == set()
    assert said("UPDATE t SET a = 1") == {"noop-reverse", "data"}
    assert said("CREATE VIEW v AS SELECT 1") == {"noop-reverse"}


def test_without_a_live_release_nothing_of_it_can_break() -> None:
    setting = rules.Setting(catalog(table(TEXT)), None, {"public.t": SMALL})
    said = rules.findings(step(catalog(table(TEXT)), catalog(table())), setting)
    assert [(one.rule, one.verdict) for one in said] == [("drop-column", Verdict.NEEDS_APPROVAL)]


def test_every_rule_has_its_words() -> None:
    for rule in advice.TEXTS:
        text = advice.text(Finding(rule, Verdict.REFUSED, "public.t", "a", values={"model": "shop.T"}))
        assert text.why
        assert "{" not in text.why


COLUMNS = st.builds(
    Column,
    st.sampled_from("abc"),
    st.sampled_from(["integer", "bigint", "text", "character varying(9)"]),
    st.booleans(),
    st.sampled_from([None, "0"]),
)
TABLES = st.lists(COLUMNS, max_size=3).map(lambda columns: table(*columns))
USES = st.dictionaries(
    st.sampled_from("abc"),
    st.builds(
        Use, st.sampled_from(["integer", "text", "varchar(9)"]), st.booleans(), st.sampled_from(["value", "default"])
    ),
)


@given(TABLES, TABLES, USES)
def test_a_verdict_says_refused_exactly_when_the_live_release_stops_fitting_or_its_types_do(
    before: Table, after: Table, uses: dict[str, Use]
) -> None:
    live = footprint(**uses)
    old, new = catalog(before), catalog(after)
    worse = {one.key for one in fits.misfits(live, new)} - {one.key for one in fits.misfits(live, old)}
    said = found(old, new, live)
    refused = {rule for rule, verdict in said.items() if verdict is Verdict.REFUSED}
    if "type-changed" in refused:
        worse = {key for key in worse if key[0] != "another-type"}
    assert bool(worse) == bool(refused - {"type-narrower", "type-changed"})


@given(USES)
def test_a_footprint_survives_storage(uses: dict[str, Use]) -> None:
    live = footprint(**uses)
    assert Footprint.from_json(live.as_json()) == live
