"""The register: its SQL on a real PostgreSQL, what psql prints, and that the fake of the other tests does the same."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bluegreen import register
from bluegreen.errors import BluegreenError, Code
from bluegreen.register import ABORT, COMMIT, Decision, Silent, Wanted

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
NUMBERS = itertools.count(1)


class Cluster:
    """A throwaway PostgreSQL on a unix socket, as a user without privileges."""

    def __init__(self, directory: Path, binaries: Path):
        self.directory, self.binaries = directory, binaries
        directory.chmod(0o777)
        self.rights: dict[str, Any] = {}
        if os.getuid() == 0:
            self.rights = {"user": "nobody", "group": "nogroup", "extra_groups": []}
        data = str(directory / "data")
        self.run("initdb", "-D", data, "-U", "bluegreen", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        options = f"-k {directory} -c listen_addresses= -c fsync=off -c max_connections=60"
        self.run("pg_ctl", "-D", data, "-w", "-l", str(directory / "log"), "-o", options, "start")

    def run(self, program: str, *words: str) -> None:
        command = (str(self.binaries / program), *words)
        subprocess.run(
            command, check=True, timeout=120, cwd="/", stdout=subprocess.DEVNULL, env={"PATH": "/bin"}, **self.rights
        )

    def database(self) -> str:
        """The URL of a fresh database."""
        name = f"base{next(NUMBERS)}"
        self.run("createdb", "-h", str(self.directory), "-U", "bluegreen", name)
        return f"postgresql://bluegreen:p%40ss@{str(self.directory).replace('/', '%2F')}/{name}"

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.directory / "data"), "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not BINARIES or not (BINARIES[-1] / "initdb").exists() or not shutil.which("psql"):
        pytest.skip("PostgreSQL is not installed here (apt-get install postgresql)")
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    directory = Path(tempfile.mkdtemp(prefix="bg-", dir=memory))
    made = Cluster(directory, BINARIES[-1])
    yield made
    made.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def url(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(register, "USER", "nobody")
    return cluster.database()


def connected(url: str, app: str = "orders") -> register.Register:
    return register.Register(app, lambda sql, patience: register.psql(url, sql, patience))


def wanted(deploy_id: str = "d1", host: str = "web1", ttl: float = 60, cap: float = 600, fence: int = 0) -> Wanted:
    return Wanted(deploy_id, "someone@controller", host, "4711", "https://ci/1", f"deploy {deploy_id}", ttl, cap, fence)


def decision(deploy_id: str = "d1", what: str = COMMIT, generation: int = 1, **more: Any) -> Decision:
    base = Decision(deploy_id, what, "web1", "", generation, f"r-{deploy_id}", "5a" * 20, "deploy", [], "")
    return dataclasses.replace(base, **more)


def later(url: str, seconds: float) -> None:
    """Time passes on the server."""
    back = f"make_interval(secs => {seconds})"
    register.psql(url, f"UPDATE lease SET expires = expires - {back}, cap = cap - {back};", 5)


# the SQL


def test_twenty_takes_at_once_have_one_winner(url: str) -> None:
    """The tables are made by whoever is first, too."""
    replies: dict[str, register.Reply] = {}

    def one(name: str) -> None:
        replies[name] = connected(url).take(wanted(name))

    names = [f"d{number}" for number in range(20)]
    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [name for name, reply in replies.items() if reply.done]
    assert len(winners) == 1
    assert {reply.lease.deploy_id for reply in replies.values() if reply.lease} == set(winners)
    assert {reply.generation for reply in replies.values()} == {1}


def test_who_made_the_tables_is_told(url: str) -> None:
    assert [connected(url).look().made for _ in range(2)] == [True, False]


def test_twenty_decisions_at_once_are_one(url: str) -> None:
    connected(url).take(wanted())
    replies: list[register.Reply] = []

    def one(number: int) -> None:
        what = COMMIT if number % 2 else ABORT
        replies.append(connected(url).decide(decision("d1", what, host=f"web{number}"), what == COMMIT))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(replies) == 20
    assert len({(reply.decision.decision, reply.decision.host) for reply in replies if reply.decision}) == 1
    assert sum(reply.done for reply in replies) == 1


def test_a_lease_is_joined_renewed_and_given_back(url: str) -> None:
    here = connected(url)
    here.look()  # makes the tables
    assert here.look() == register.Reply(False, None, 0, None, None, here.look().id)
    assert len(here.look().id) == 12
    first = here.take(wanted(fence=6))
    assert first.done
    assert first.lease
    assert (first.generation, first.lease.hosts) == (7, ["web1"])
    assert 58 < first.lease.left <= 60
    assert 598 < first.lease.cap_left <= 600
    assert first.lease.since.endswith("Z")
    # the other hosts of the run; one of them knows a higher generation
    assert here.take(wanted(host="web2", fence=2)).generation == 7
    third = here.take(wanted(host="web3", fence=11))
    assert third.lease
    assert (third.generation, third.lease.hosts) == (12, ["web1", "web2", "web3"])
    assert third.lease.since == first.lease.since
    refused = here.take(wanted("d2"))
    assert not refused.done
    assert refused.lease
    assert refused.lease.deploy_id == "d1"
    assert refused.lease.what == "deploy d1"
    assert here.renew("d1", 100).done
    assert not here.renew("d2", 100).done
    assert 98 < (here.look().lease or refused.lease).left <= 100
    for host, left in (("web2", ["web1", "web3"]), ("web1", ["web3"]), ("web9", ["web3"])):
        lease = here.release("d1", host).lease
        assert lease
        assert lease.hosts == left
    assert here.release("d1", "web3").lease is None
    assert here.take(wanted("d2", fence=3)).generation == 13


def test_expiry_and_the_cap(url: str) -> None:
    here = connected(url)
    assert here.take(wanted(ttl=60, cap=150)).done
    later(url, 61)
    # expired, but nobody took it
    assert here.renew("d1", 60).done
    later(url, 61)
    assert here.take(wanted(host="web2", ttl=60)).done
    lease = here.look().lease
    assert lease
    assert 20 < lease.left <= 28, "not past the cap"
    later(url, 29)
    # past the cap nothing helps but a new lease
    assert not here.renew("d1", 60).done
    assert not here.take(wanted(ttl=60)).done
    assert here.take(wanted("d2")).generation == 2
    assert not here.renew("d1", 60).done
    assert not here.decide(decision(), True).done


def test_a_broken_lease_makes_its_holder_an_old_one(url: str) -> None:
    here = connected(url)
    here.take(wanted(fence=4))
    assert not here.take_away("d2").done
    broken = here.take_away("d1")
    assert (broken.done, broken.lease, broken.generation) == (True, None, 6)
    assert not here.renew("d1", 60).done
    assert here.decide(decision(), True).decision is None
    assert here.take(wanted("d2")).generation == 7


def test_the_first_decision_stands(url: str) -> None:
    here = connected(url)
    # without the lease nobody commits; everybody may give up
    assert here.decide(decision(), True).decision is None
    here.take(wanted())
    first = here.decide(decision(why="all is well", without=["web7", "web'8"]), True)
    assert first.done
    assert first.decision
    assert first.decision == dataclasses.replace(
        decision(why="all is well", without=["web7", "web'8"]), at=first.decision.at
    )
    assert first.latest == first.decision
    late = here.decide(decision(what=ABORT, host="web2"), False)
    assert (late.done, late.decision) == (False, first.decision)
    assert here.decide(decision("d2", ABORT, 9), False).latest == first.decision
    # a COMMIT that a failover lost is written again by a host that confirmed it, whoever holds the lease
    other = here.decide(decision("d0", COMMIT, 5), False)
    assert other.done
    assert other.latest == other.decision


ODD = ["it's", "\\", "\\'; DROP TABLE about; --", ":app", "$$", "%s %", "é🦄\n\t", '"', "", "\x01", "E'\\\\'"]


def test_odd_texts_come_back_as_they_were(url: str) -> None:
    here = connected(url)
    for number, text in enumerate(ODD):
        given_back = here.take(dataclasses.replace(wanted(), what=text, run_url=text, holder=text)).lease
        assert given_back
        assert (given_back.what, given_back.run_url, given_back.holder) == (text, text, text)
        kept = here.decide(decision(f"d-{number}{text}", ABORT, why=text, without=[text]), False).decision
        assert kept
        assert (kept.deploy_id, kept.why, kept.without) == (f"d-{number}{text}", text, [text])


@given(st.text(max_size=50), st.booleans())
@settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)
@example("\\'", True)
def test_a_quoted_text_is_one_literal(cluster: Cluster, text: str, standard: bool) -> None:
    if "\0" in text:
        with pytest.raises(BluegreenError, match="cannot store"):
            register.quote(text)
        return
    sql = f"SET standard_conforming_strings = {standard};\nSELECT to_json({register.quote(text)}::text);\n"
    base = f"postgresql://bluegreen@{str(cluster.directory).replace('/', '%2F')}/postgres"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "USER", "nobody")
        done = register.psql(base, sql, 5)
    assert (done.returncode, json.loads(done.stdout)) == (0, text)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_what_cannot_be_stored_is_refused(text: str) -> None:
    with pytest.raises(BluegreenError, match="cannot store") as caught:
        register.quote(text)
    assert caught.value.code is Code.BAD_INPUT


def silent(call: Any, *arguments: Any) -> str:
    with pytest.raises(Silent) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.code is Code.REFUSED
    return text


def test_the_register_of_another(url: str) -> None:
    connected(url, "orders").take(wanted())
    other = connected(url, "notes")
    assert "the register is that of orders, not of notes" in silent(other.take, wanted("d9"))
    assert "that of orders" in silent(other.decide, decision("d9", ABORT), False)
    register.psql(url, "UPDATE about SET format = 2;", 5)
    newer = silent(connected(url).renew, "d1", 60)
    assert "the register has format 2, this program knows 1" in newer
    # a newer version may have other columns: still the same line
    register.psql(url, "ALTER TABLE lease RENAME COLUMN expires TO until;", 5)
    assert silent(connected(url).take, wanted()) == newer
    register.psql(url, "UPDATE about SET format = 1;", 5)
    assert 'column "expires" does not exist' in silent(connected(url).take, wanted())
    register.psql(url, "DELETE FROM about;", 5)
    assert "the register" in silent(connected(url).look)
    assert register.psql(url, "SELECT count(*) FROM decision;", 5).stdout == "0\n"


def test_a_role_that_may_not_create_tables(url: str) -> None:
    register.psql(url, "CREATE ROLE poor LOGIN; REVOKE CREATE ON SCHEMA public FROM public;", 5)
    poor = connected(url.replace("bluegreen:", "poor:"))
    assert "the register's tables cannot be made: ERROR:  permission denied for schema public" in silent(poor.look)


def test_a_database_that_is_not_there(url: str, cluster: Cluster) -> None:
    text = silent(connected(url + "x").look)
    assert "the register cannot be asked" in text
    assert 'database "' in text
    text = silent(connected("postgresql://someone:s3cret@127.0.0.1:1/base").look)
    assert "Connection refused" in text
    assert "s3cret" not in text


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "USER", "nobody")
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        here = connected(f"postgresql://someone@127.0.0.1:{listener.getsockname()[1]}/base")
        here.patience = 0.5
        begun = time.monotonic()
        assert "PostgreSQL took more than" in silent(here.look)
        assert time.monotonic() - begun < 2


def test_a_statement_that_is_held_up_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connected(url).take(wanted())
    script = "BEGIN; LOCK TABLE lease; SELECT pg_sleep(3);"
    holder = threading.Thread(target=register.psql, args=(url, script, 10))
    holder.start()
    time.sleep(0.3)
    assert "timeout" in silent(connected(url).renew, "d1", 60)
    holder.join()
    assert connected(url).renew("d1", 60).done


def test_each_register_has_a_name_of_its_own(url: str, cluster: Cluster) -> None:
    first = connected(url).look().id
    assert connected(url).look().id == first != connected(cluster.database()).look().id
    # one that was made before they had names
    register.psql(url, "ALTER TABLE about DROP COLUMN id;", 5)
    assert connected(url).take(wanted()).id == ""


# the address


def test_the_address_goes_into_the_environment() -> None:
    found = register.environment("postgresql://us%40er:p%3Aw%2F@db1,[::1]:5433/base?sslmode=require")
    assert found == {
        "PGHOST": "db1,::1",
        "PGPORT": "5432,5433",
        "PGUSER": "us@er",
        "PGPASSWORD": "p:w/",
        "PGDATABASE": "base",
        "PGSSLMODE": "require",
        "PGCONNECT_TIMEOUT": "2",
        "PGAPPNAME": "bluegreen",
        "PGCLIENTENCODING": "UTF8",
    }
    assert register.environment("postgresql://u@%2Frun%2Fpg/b")["PGHOST"] == "/run/pg"


@pytest.mark.parametrize(
    "wrong",
    ["", "base", "mysql://u:s3cret@h/b", "postgresql://u:s3cret@/b", "postgresql://u:s3cret@h", "postgresql://h/b",
     "postgresql://u:s3cret@h/b?options=-csearch_path%3Dx", "postgresql://u:s3cret@h/b%0A", "postgresql://u@h:x/b"],
)  # fmt: skip
def test_an_address_that_is_none(wrong: str) -> None:
    text = silent(register.environment, wrong)
    assert "the register's URL is not understood" in text
    assert "s3cret" not in text


def test_no_file_no_psql_no_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "orders.register is missing" in silent(register.connect, "orders", tmp_path / "orders.register")
    (tmp_path / "orders.register").write_text("postgresql://u:s3cret@h/b\n")
    here = register.connect("orders", tmp_path / "orders.register")
    monkeypatch.setattr(register, "USER", "nobody")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert "psql is not installed" in silent(here.look)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(register, "USER", "no-such-user")
    assert "there is no user no-such-user" in silent(here.look)


def test_what_psql_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(command: Any, **options: Any) -> Any:
        seen.update(options, command=command)
        return subprocess.CompletedProcess(command, 1, "", 'psql:<stdin>:3: ERROR:  it is "broken"\nLINE 1: x\n')

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pwd.struct_passwd((name, "", 998, 997, "", "", "")))
    (tmp_path / "orders.register").write_text("postgresql://u:s3cret@h/b\n")
    text = silent(register.connect("orders", tmp_path / "orders.register").look)
    assert text.startswith('the register cannot be asked: ERROR:  it is "broken" (')
    assert "s3cret" not in str(seen["command"]) + seen["input"]
    assert seen["env"]["PGPASSWORD"] == "s3cret"
    assert (seen["user"], seen["group"], seen["extra_groups"]) == (998, 997, [])
    assert seen["timeout"] == 5


# the fake of the other tests

DEPLOYS = st.sampled_from(["d1", "d2", "d3"])
HOSTS = st.sampled_from(["web1", "web2"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), DEPLOYS, HOSTS, st.integers(0, 9)),
        st.tuples(st.just("renew"), DEPLOYS),
        st.tuples(st.just("release"), DEPLOYS, HOSTS),
        st.tuples(st.just("take_away"), DEPLOYS),
        st.tuples(st.just("decide"), DEPLOYS, HOSTS, st.sampled_from([COMMIT, ABORT]), st.booleans()),
        st.tuples(st.just("look"), DEPLOYS),
        st.tuples(st.just("wait"), st.sampled_from([10, 50, 200])),
    ),
    max_size=14,
)


@given(STEPS)
@settings(max_examples=10, suppress_health_check=list(HealthCheck), deadline=None)
def test_the_fake_does_what_the_sql_does(cluster: Cluster, tools: Any, steps: list[Any]) -> None:
    """Time passes on the server by moving its times back."""
    clock = [1000.0]
    fake = tools.FakeRegister(lambda: clock[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(register, "USER", "nobody")
        url = f"postgresql://bluegreen@{str(cluster.directory).replace('/', '%2F')}/postgres"
        real = connected(url)
        register.psql(url, "DROP TABLE IF EXISTS about, lease, decision;", 5)
        real.look()
        for step in steps:
            if step[0] == "wait":
                clock[0] += step[1]
                later(url, step[1])
                continue
            answers = [seen(ask(side, *step)) for side in (fake, real)]
            assert answers[0] == answers[1], step


def ask(side: Any, verb: str, deploy_id: str, *more: Any) -> register.Reply:
    """One question to either side."""
    if verb == "take":
        return side.take(wanted(deploy_id, more[0], ttl=60, cap=150, fence=more[1]))
    if verb == "renew":
        return side.renew(deploy_id, 60)
    if verb == "decide":
        return side.decide(decision(deploy_id, more[1], 3, host=more[0]), more[2])
    return getattr(side, verb)(deploy_id, *more)


def seen(reply: register.Reply) -> Any:
    """What both sides must agree on: not the clock's own texts and fractions."""
    lease = reply.lease and {**vars(reply.lease), "since": "", "left": 0, "cap_left": 0}
    left = reply.lease and (round(reply.lease.left / 10), round(reply.lease.cap_left / 10))
    kept = [item and dataclasses.replace(item, at="") for item in (reply.decision, reply.latest)]
    if kept[1]:
        kept[1] = kept[1].generation
    return reply.done, lease, left, reply.generation, kept
