"""Migrations undone, on a real PostgreSQL: everything is asked first, tried on a shadow, then done one at a time."""

from __future__ import annotations

import copy
import secrets
from pathlib import Path
from typing import Any

import pytest

from bluegreen.errors import BluegreenError
from bluegreen.schema import shadow
from tests.schema import project
from tests.schema.site import ORDER, Site
from tests.schema.test_runner import FILL

NOTE = 'migrations.AddField("Order", "note", models.TextField(null=True)),'
SIZE = 'migrations.AddField("Order", "size", models.IntegerField(default=7)),'


@pytest.fixture(scope="module")
def older_site(server: shadow.Server, django: str, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The older release has run its migrations."""
    made = Site(server, django, tmp_path_factory.mktemp("older"), "older")
    made.run()
    return made


@pytest.fixture
def site(older_site: Site, tmp_path: Path) -> Site:
    return Site(older_site.server, older_site.python, tmp_path, f"site_{secrets.token_hex(4)}", "older")


def older(site: Site, tmp_path: Path) -> tuple[Site, dict[str, Any]]:
    """The release before: the same database, without what was added since."""
    place = project.write(tmp_path / "older", site.files)
    there = copy.copy(site)
    there.place = place
    print_of = there.call("footprint")
    return there, {**there.call("known"), "older": print_of}


def server_of(site: Site) -> dict[str, Any]:
    return {"host": site.server.host, "port": site.server.port, "user": site.server.user, "bin": site.server.bin}


def ours(*names: str) -> list[list[str]]:
    return [["default", "shop", name] for name in names]


def test_a_release_goes_back_with_its_schema(site: Site, tmp_path: Path) -> None:
    there, before = older(site, tmp_path)
    assert before["known"][-1] == ["shop", "0001_initial"]
    site.migration("0002_note", NOTE)
    site.migration("0003_fill", "migrations.RunPython(fill, migrations.RunPython.noop),", "", FILL)
    site.migration("0004_size", SIZE)
    fields = "    note = models.TextField(null=True)\n    size = models.IntegerField(default=7)\n"
    project.write(site.place, {"shop/models.py": ORDER + fields})
    site.run()
    site.sql("UPDATE shop_order SET note = 'written since'; ANALYZE shop_order")
    order = {**before, "bundle": site.call("read"), "server": server_of(site), "methods": ["cluster"]}
    told = site.call("back", ours=ours("0002_note", "0003_fill", "0004_size"), **order)
    assert told["problems"] == []
    assert [one["name"] for one in told["steps"]] == ["0004_size", "0003_fill", "0002_note"]
    assert [one["costs"] for one in told["steps"]] == [
        ["lost: the column public.shop_order.size (about 1 rows)"],
        ["stays: what it did to rows (Raw Python operation)"],
        ["lost: the column public.shop_order.note (about 1 rows)"],
    ]
    # the older release does not write `size`, which is NOT NULL: it fits only after the first step
    assert "size: it does not write this column" in told["older"]["start"][0]
    assert told["older"]["end"] == []
    assert "note: it reads and writes this column" in told["newer"]["end"][-1] or told["newer"]["end"]
    assert site.sql("SELECT note FROM shop_order") == "written since", "nothing but the shadow was touched"
    done = site.call("undo", steps=told["steps"], older=before["older"])
    assert (done["failed"], done["left"]) == (None, [])
    assert [one["name"] for one in done["undone"]] == ["0004_size", "0003_fill", "0002_note"]
    assert site.sql("SELECT string_agg(name, ' ') FROM django_migrations WHERE app = 'shop'") == "0001_initial"
    assert there.call("pending", ledger={"shop.0001_initial": ""})["problems"] == []
    again = site.call("undo", steps=told["steps"], older=before["older"])
    assert (again["undone"], again["failed"]) == ([], None), "the same again finds nothing to do"


def test_nothing_is_undone_unless_everything_can_be(site: Site, tmp_path: Path) -> None:
    _, before = older(site, tmp_path)
    site.migration("0002_note", NOTE)
    site.migration("0003_fill", "migrations.RunPython(fill),", "", FILL)
    site.run()
    order = {**before, "bundle": site.call("read"), "server": server_of(site), "methods": ["cluster"]}
    told = site.call("back", ours=ours("0002_note", "0003_fill"), **order)
    assert told["problems"] == ["shop.0003_fill cannot be undone: Raw Python operation"]
    assert told["steps"] == []
    strange = site.call("back", ours=ours("0002_note"), **order)
    assert "shop.0003_fill is applied, the older release does not have it, and the ledger" in strange["problems"][0]
    with pytest.raises(BluegreenError, match="a reverse is never predicted"):
        site.call("back", **{**order, "methods": ["static"]})


def test_a_reverse_that_real_rows_refuse_leaves_what_it_found(site: Site, tmp_path: Path) -> None:
    _, before = older(site, tmp_path)
    site.migration("0002_longer", 'migrations.AlterField("Order", "number", models.CharField(max_length=90)),')
    project.write(site.place, {"shop/models.py": ORDER.replace("20", "90")})
    site.run()
    site.sql(f"INSERT INTO shop_order (number) VALUES ('{'9' * 60}')")
    order = {**before, "bundle": site.call("read"), "server": server_of(site), "methods": ["cluster"]}
    told = site.call("back", ours=ours("0002_longer"), **order)
    assert told["problems"] == []
    small, large = "character varying(20)", "character varying(90)"
    assert told["steps"][0]["costs"] == [
        f"may fail: public.shop_order.number becomes {small} again, and values of {large} may not fit"
    ]
    done = site.call("undo", steps=told["steps"], older=before["older"])
    assert done["undone"] == []
    assert done["failed"]["what"] == "shop.0002_longer failed"
    assert done["failed"]["why"].startswith("DataError: value too long")
    assert (done["failed"]["recorded"], done["failed"]["finished"]) == (True, False)
    assert done["failed"]["next"] == "nothing of it was undone; correct the rows that it names, then the same again"
