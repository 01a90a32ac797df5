"""Code first, then the migration, against a real PostgreSQL: what each release writes works at every moment."""

from __future__ import annotations

import json

import pytest

from bluegreen import ledger
from bluegreen.errors import BluegreenError
from tests.schema import project
from tests.schema.site import ORDER
from tests.schema.test_deploy import NOTE, Releases, releases

__all__ = ["releases"]


def test_a_column_goes_once_no_release_that_serves_knows_it(releases: Releases) -> None:
    host = releases.host
    create = project.CREATE_ORDER.replace("=20))]", '=20)), ("note", models.TextField())]')
    releases.files["shop/models.py"] = ORDER + NOTE.format("")
    releases.files["shop/migrations/0001_initial.py"] = project.migration(create, "initial = True")
    first = releases.make(1)
    releases.deploy(1, first)
    writes = "INSERT INTO shop_order (number, note) VALUES ('1', 'old')"
    releases.sql(writes)

    drop = project.migration('migrations.RemoveField("Order", "note"),', 'dependencies = [("shop", "0001_initial")]')
    add = project.migration(
        'migrations.AddField("Order", "size", models.IntegerField(null=True)),',
        'dependencies = [("shop", "0001_initial")]',
    )
    merge = project.migration("", 'dependencies = [("shop", "0002_drop"), ("shop", "0003_size")]')
    new = ORDER + "    size = models.IntegerField(null=True)\n"
    second = releases.make(
        2, shop__models=new, shop__migrations__0002_drop=drop, shop__migrations__0003_size=add,
        shop__migrations__0004_merge=merge,
    )  # fmt: skip
    with pytest.raises(BluegreenError, match=r"shop\.0002_drop is refused: public\.shop_order\.note") as caught:
        releases.deploy(2, second)
    late = json.loads(caught.value.todo.partition(" -e ")[2].strip("'"))["migrations_late"]
    assert late == ["shop.0002_drop"]
    with pytest.raises(BluegreenError, match=r"shop\.0004_merge depends on shop\.0002_drop") as caught:
        releases.deploy(3, second, late=late)
    late = json.loads(caught.value.todo.partition(" -e ")[2].strip("'"))["migrations_late"]
    with pytest.raises(BluegreenError, match=r"shop\.0002_drop needs approval: .* its data is gone for good") as caught:
        releases.deploy(4, second, late=late)
    allowed = json.loads(caught.value.todo.partition(" -e ")[2].strip("'"))["migrations_approve"]
    words = {"late": late, "approve": allowed, "by": "ann", "reason": "nobody reads it"}

    told = releases.deploy(5, second, **words)
    assert told["applied"] == ["shop.0003_size"]
    assert told["bridged"] == ['ALTER TABLE "public"."shop_order" ALTER COLUMN "note" SET DEFAULT \'\';']
    assert host.live() == second
    releases.sql("INSERT INTO shop_order (number, size) VALUES ('2', 2)")  # as the new release does
    releases.sql(writes.replace("'1'", "'3'"))  # as the one before does, which may still come back
    assert host.do("fits")["fits"][first] == []

    done = host.do("migrate", "deploy-5", 5, release=second, moment="late", **words)
    assert done["applied"] == ["shop.0002_drop", "shop.0004_merge"]
    assert releases.sql("SELECT string_agg(number, ' ' ORDER BY number) FROM shop_order") == "1 2 3"
    assert host.do("fits")["fits"][first][0].startswith("default: public.shop_order.note: ")
    outcomes = [(row["name"], row["outcome"]) for row in ledger.read(host.context()) if row["app"] == "shop"]
    assert outcomes[1:] == [
        ("0003_size", "applied"), ("0002_drop", "bridged"), ("0002_drop", "applied"), ("0004_merge", "applied"),
    ]  # fmt: skip
