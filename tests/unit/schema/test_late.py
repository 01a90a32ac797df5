"""Which migrations may run once the new release is live, and how they are judged then. No database."""

from __future__ import annotations

from typing import Any

import pytest

from bluegreen.schema import decide, rules
from bluegreen.schema.facts import Constraint, Footprint, Index, Size, Use, Verdict
from tests.unit.schema.test_rules import TEXT, WRITES, Catalog, Column, catalog, footprint, step, table

NEEDED = Column("a", "text", not_null=True)


def judged(
    before: Catalog, after: Catalog, late: bool, live: Footprint | None = None, new: Footprint | None = None
) -> Any:
    """One migration between a release that uses the column `a` and one that does not, unless other ones are given."""
    setting = rules.Setting(before, live or footprint(a=WRITES), {"public.t": Size(5, 8192)})
    named = frozenset({"shop.0002_x"} if late else ())
    case = decide.Case("default", (step(before, after),), setting, new or footprint(), late=named)
    return decide.judge(case)[0][0]


def test_a_column_that_only_the_older_release_uses_may_go_once_the_new_one_is_live() -> None:
    before, after = catalog(table(TEXT)), catalog(table())
    now, late = judged(before, after, False), judged(before, after, True)
    assert (now.verdict, now.late, now.bridge) == (Verdict.REFUSED, True, ())
    assert (late.verdict, late.late) == (Verdict.NEEDS_APPROVAL, True), "as in the commit after: its data is gone"


def test_what_the_new_release_leaves_out_gets_a_default_before_the_switch() -> None:
    late = judged(catalog(table(NEEDED)), catalog(table()), True)
    assert late.late
    assert late.bridge == ('ALTER TABLE "public"."t" ALTER COLUMN "a" SET DEFAULT \'\';',)


@pytest.mark.parametrize(
    "rule",
    [
        {
            "constraints": {
                ("public.t", "k"): Constraint("k", "public.t", "f", ("a",), "FOREIGN KEY (a) REFERENCES o(id)")
            }
        },
        {"constraints": {("public.t", "k"): Constraint("k", "public.t", "c", (), "CHECK (lower(a) <> '')")}},
        {"indexes": {"public.i": Index("public.i", "public.t", ("a",), "CREATE UNIQUE INDEX i ON t (a)", unique=True)}},
    ],
    ids=["foreign key", "check", "unique"],
)
def test_there_is_no_default_that_a_rule_of_the_table_may_refuse(rule: dict[str, Any]) -> None:
    assert not judged(catalog(table(NEEDED), **rule), catalog(table()), True).late
    plain = {"indexes": {"public.i": Index("public.i", "public.t", ("a",), "CREATE INDEX i ON t (a)")}}
    assert judged(catalog(table(NEEDED), **plain), catalog(table()), True).late


def test_what_the_new_release_reads_must_be_there_before_it() -> None:
    late = judged(catalog(table()), catalog(table(TEXT)), True, footprint(), footprint(a=Use("text", True)))
    assert not late.late


def test_what_breaks_the_new_release_is_refused_late_as_well() -> None:
    both = footprint(a=WRITES)
    assert judged(catalog(table(TEXT)), catalog(table()), True, both, both).verdict is Verdict.REFUSED
