"""The state of an order becomes its archive, in five releases: each is deployed, taken back and deployed again while
visitors read and customers order, and at the end every row says what it said before. The tests are one story.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from urllib.parse import urlencode

import pytest
from promises import Deployment, approvals, until

ORDERS_OF_BEFORE = 6000
BACKFILL = {"archive": {"command": "python manage.py archive_orders --stay --batch 100 --rate 200", "singleton": True}}
# What archived_at has to be while the columns before it are there.
WANTED = "case when state = 'confirmed' then coalesce(confirmed_at, taken_at) end"
WITH_STATE = """
    alter table if exists orders_order add column if not exists state varchar(12) not null default 'waiting',
        add column if not exists confirmed_at timestamptz"""
# Back to the schema of r7: an earlier run on these hosts may have left a later one.
AS_BEFORE = f"""{WITH_STATE};
    alter table orders_order alter column state drop default, drop column if exists archived_at;
    drop trigger if exists to_shadow on orders_order;
    drop trigger if exists same on orders_order;
    drop function if exists orders_order_to_shadow, orders_order_same;
    drop table if exists orders_order_shadow, orders_order_before;
    drop table if exists waffle_flag_users, waffle_flag_groups, waffle_flag, waffle_switch, waffle_sample;
    delete from django_migrations where app = 'waffle' or (app = 'orders' and name > '0005')"""
EMPTY = "delete from orders_order"
SEED = f"""
    insert into orders_order (product_id, quantity, customer, state, taken_at, taken_by, confirmed_at, confirmed_by)
    select 1 + n % 6, 1 + n % 40, 'before', case when n % 50 = 0 then 'waiting' else 'confirmed' end,
        now() - n * interval '1 minute', '', case when n % 50 = 0 then null else now() - n * interval '1 minute' end, ''
    from generate_series(1, {ORDERS_OF_BEFORE}) as n"""


def sql(fleet: Deployment, text: str) -> str:
    """What the database answers."""
    return fleet.on("db1", f'runuser -u postgres -- psql -XtA -v ON_ERROR_STOP=1 orders -c "{text}"').strip()


def left(fleet: Deployment) -> int:
    """Orders whose archived_at is not what the columns before it say."""
    return int(sql(fleet, f"select count(*) from orders_order where archived_at is distinct from {WANTED}"))


class Customers:
    """People who order a coffee through the load balancer, one after the other, until they are stopped."""

    def __init__(self, fleet: Deployment, name: str) -> None:
        self.name = name
        self.address, self.domain = fleet.urls[0].removeprefix("http://"), fleet.domain
        self.numbers: list[int] = []
        self.problems: list[str] = []
        self.enough = threading.Event()
        self.thread = threading.Thread(target=self.go_on, daemon=True)

    def go_on(self) -> None:
        """Order, again and again."""
        while not self.enough.wait(0.2):
            try:
                self.numbers.append(self.order())
            except (OSError, AssertionError) as problem:
                self.problems.append(f"{type(problem).__name__}: {problem}")

    def leave(self) -> None:
        """Nobody orders any more."""
        self.enough.set()
        self.thread.join(30)

    def order(self) -> int:
        """The number on the receipt."""
        talk = HTTPConnection(self.address, timeout=20)
        with contextlib.closing(talk):
            talk.request("GET", "/orders/new/", headers={"Host": self.domain})
            answer = talk.getresponse()
            form, cookies = answer.read().decode(), answer.headers.get_all("Set-Cookie") or []
            assert answer.status == 200, answer.status
            token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', form)
            assert token, form[:300]
            headers = {"Host": self.domain, "Content-Type": "application/x-www-form-urlencoded"}
            headers["Cookie"] = "; ".join(cookie.partition(";")[0] for cookie in cookies)
            fields = {"product": 1, "quantity": 1, "customer": self.name, "csrfmiddlewaretoken": token[1]}
            talk.request("POST", "/orders/new/", urlencode(fields), headers)
            answer = talk.getresponse()
            answer.read()
            assert answer.status == 302, answer.status
            return int(answer.headers["Location"].strip("/").rsplit("/", 1)[-1])


@contextlib.contextmanager
def ordering(fleet: Deployment, name: str) -> Iterator[Customers]:
    """r7 on the schema of its time, orders of before, and customers who order from the first step to the last."""
    sql(fleet, WITH_STATE)
    fleet.given("r7")
    sql(fleet, AS_BEFORE)
    sql(fleet, EMPTY)
    sql(fleet, SEED)
    customers = Customers(fleet, name)
    customers.thread.start()
    try:
        yield customers
    finally:
        customers.leave()
        sql(fleet, WITH_STATE)  # other scenarios deploy older releases to the same database
        sql(fleet, EMPTY)


@pytest.fixture(scope="module")
def customers(fleet: Deployment) -> Iterator[Customers]:
    """Those of the five releases."""
    with ordering(fleet, "of the five") as found:
        yield found


@pytest.fixture(scope="module")
def shoppers(fleet: Deployment, customers: Customers) -> Iterator[Customers]:
    """Those of the swap, which begins anew."""
    customers.leave()
    with ordering(fleet, "of the swap") as found:
        yield found


@pytest.fixture(scope="module")
def before(fleet: Deployment, customers: Customers) -> dict[int, str]:
    """Number → since when it is archived, as the columns before say it; filled when the last of them is about to go."""
    return {}


def there_back_and_there_again(fleet: Deployment, customers: Customers, old: str, new: str, *words: str) -> None:
    """Deploy, roll back, deploy: nobody notices, and orders go on coming in on both."""
    with fleet.under_load(rate=15):
        for playbook, release in (("deploy.yml", new), ("rollback.yml", old), ("deploy.yml", new)):
            extra = {"sha": fleet.sha(new), "watch": 1} if playbook == "deploy.yml" else {}
            fleet.must(playbook, *words if extra else (), **extra)
            fleet.expect_live(release)
            count = len(customers.numbers)
            until(lambda count=count: len(customers.numbers) >= count + 2, f"customers order on {release}", 30)
    assert customers.problems == []


def approved(fleet: Deployment, release: str) -> list[str]:
    """The words that approve what a release asks for, from its refusal."""
    asked = fleet.refuse("deploy.yml", sha=fleet.sha(release), watch=1)
    return [word for name, value in approvals(asked).items() for word in ("-e", f"{name}={value}")]


def archived(fleet: Deployment, since: str) -> dict[int, str]:
    """Number → since when, of the orders that are done."""
    rows = sql(fleet, f"select id, {since} from orders_order where {since} is not null order by id").splitlines()
    return {int(line.partition("|")[0]): line.partition("|")[2] for line in rows}


def expect_every_row(fleet: Deployment, customers: Customers, before: dict[int, str]) -> None:
    """What was done before is done since the same moment; what customers have receipts for is there, once, and done."""
    customers.leave()
    assert customers.problems == []
    own = f"select count(*) from orders_order where customer = '{customers.name}'"
    assert len(set(customers.numbers)) == len(customers.numbers) == int(sql(fleet, own))
    until(lambda: sql(fleet, f"{own} and archived_at is null") == "0", "all that was ordered is confirmed", 90)
    now = archived(fleet, "archived_at")
    assert len(before) > ORDERS_OF_BEFORE * 0.9
    assert {number: now.get(number) for number in before} == before
    assert set(customers.numbers) <= set(now)


def turn_on(fleet: Deployment, switch: str) -> None:
    """By the command that a person types."""
    fleet.must("manage.yml", "-e", json.dumps({"command": f"waffle_switch {switch} on --create"}))


def test_expand_makes_room(fleet: Deployment, customers: Customers) -> None:
    there_back_and_there_again(fleet, customers, "r7", "r8")


def test_dual_write_begins_with_a_switch(fleet: Deployment, customers: Customers) -> None:
    there_back_and_there_again(fleet, customers, "r8", "r9")
    turn_on(fleet, "archive_writes")
    number = customers.numbers[-1]
    until(lambda: customers.numbers[-1] > number + 3, "customers order", 30)
    archived = (
        f"select count(*) from orders_order where id > {number} and state = 'confirmed' and archived_at is not null"
    )
    until(lambda: int(sql(fleet, archived)) > 0, "new orders are archived when they are confirmed", 30)
    assert left(fleet) >= ORDERS_OF_BEFORE * 0.9


def test_reads_cannot_be_switched_before_the_backfill_is_through(fleet: Deployment, customers: Customers) -> None:
    ran = fleet.refuse("deploy.yml", sha=fleet.sha("r10"), watch=1)
    assert "readiness" in ran.output, ran.tail()
    fleet.expect_live("r9")


def test_the_backfill_runs_beside_the_traffic_and_a_rollback_pauses_it(fleet: Deployment, customers: Customers) -> None:
    processes = json.dumps({"app_processes": {**fleet.settings["app_processes"], **BACKFILL}})
    turn_on(fleet, "archive_backfill")
    with fleet.under_load(rate=15):
        fleet.must("deploy.yml", "-e", processes, sha=fleet.sha("r9"), watch=1)
        begun = left(fleet)
        until(lambda: left(fleet) < begun, "the backfill works", 60)
        fleet.must("rollback.yml", to=fleet.sha("r8"))
        fleet.expect_live("r8")
        units = "systemctl list-units -q --plain --state=active 'orders-*@archive*'"
        assert not any(fleet.everywhere(units).values())
        paused = left(fleet)
        assert paused > 0, "it should have been at work when it was paused: make ORDERS_OF_BEFORE larger"
        number = customers.numbers[-1]
        until(lambda: customers.numbers[-1] > number + 3, "customers order on the release before", 30)
        assert left(fleet) >= paused
        fleet.must("deploy.yml", "-e", processes, sha=fleet.sha("r9"), watch=1)
        until(lambda: left(fleet) == 0, "the backfill goes on to its end", 180)
    assert customers.problems == []


def test_reads_are_switched(fleet: Deployment, customers: Customers) -> None:
    there_back_and_there_again(fleet, customers, "r9", "r10")
    until(lambda: left(fleet) == 0, "both say the same", 30)


def test_the_last_step_is_refused_too_early(fleet: Deployment, customers: Customers) -> None:
    ran = fleet.refuse("deploy.yml", sha=fleet.sha("r12"), watch=1)
    assert "0009_drop_the_state is refused: public.orders_order." in ran.lines[-3], ran.tail()
    fleet.expect_live("r10")


def test_contract_forgets_the_state(fleet: Deployment, customers: Customers, before: dict[int, str]) -> None:
    before |= archived(fleet, WANTED)
    there_back_and_there_again(fleet, customers, "r10", "r11")


def test_the_columns_are_dropped_when_somebody_has_approved_it(fleet: Deployment, customers: Customers) -> None:
    there_back_and_there_again(fleet, customers, "r11", "r12", *approved(fleet, "r12"))
    columns = "from information_schema.columns where table_name = 'orders_order' and column_name = 'state'"
    assert sql(fleet, f"select count(*) {columns}") == "0"


def test_every_row_says_what_it_said_before(fleet: Deployment, customers: Customers, before: dict[int, str]) -> None:
    expect_every_row(fleet, customers, before)


def test_a_swap_does_the_same(fleet: Deployment, shoppers: Customers) -> None:
    rows: dict[int, str] = {}
    with fleet.under_load(rate=15):
        fleet.must("deploy.yml", *approved(fleet, "s8"), sha=fleet.sha("s8"), watch=1)
        fleet.must("manage.yml", "-e", json.dumps({"command": "fill_shadow --batch 200 --rate 4000"}))
        rows |= archived(fleet, WANTED)
        fleet.must("deploy.yml", *approved(fleet, "s9"), sha=fleet.sha("s9"), watch=1)
        assert left(fleet) == 0, "the trigger keeps both the same"
        fleet.must("rollback.yml")
        fleet.expect_live("s8")
        number = shoppers.numbers[-1]
        until(lambda: shoppers.numbers[-1] > number + 3, "customers order on the release before", 30)
        assert left(fleet) == 0, "the trigger keeps both the same, whoever writes"
        fleet.deploy("s9", watch=1)
        fleet.must("deploy.yml", *approved(fleet, "s10"), sha=fleet.sha("s10"), watch=1)
        fleet.expect_live("s10")
    expect_every_row(fleet, shoppers, rows)
