"""What a person types: taken as it stands, or refused in one line."""

from __future__ import annotations

import datetime
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils import bluegreen_inputs as asked
from plugins.module_utils.bluegreen_inputs import Refused

NASTY = [
    "abc",
    "zzzzzz",
    "abc 123",
    "abc123\n",
    "{{ 7 * 7 }}",
    "$(id)",
    "a" * 41,
    "abc123;id",
    "../../etc",
    "АВС123",
    123456,
    ["abc123"],
]


@pytest.mark.parametrize("value", NASTY)
def test_a_rollback_target_that_is_none(value: object) -> None:
    with pytest.raises(Refused) as refusal:
        asked.check_target(value)
    assert refusal.value.todo


@given(st.text(string.hexdigits, min_size=6, max_size=40))
def test_every_sha_is_a_target(sha: str) -> None:
    assert asked.check_target(sha) == sha.lower()


@given(st.text())
def test_no_other_text_gets_through(text: str) -> None:
    refused = ""
    try:
        found = asked.check_target(text) or ""
    except Refused as refusal:
        found, refused = "", asked.in_one_line(refusal)
    assert set(found) <= set(string.hexdigits + "-")
    assert "\n" not in refused


def test_a_duration() -> None:
    assert [asked.check_seconds("watch", value, 30) for value in (None, "", "0", 5, "2.5")] == [30, 30, 0.0, 5.0, 2.5]


@pytest.mark.parametrize("value", ["soon", "-1", "1e3", "{{ 3 }}", True, "99999", "5\n"])
def test_a_duration_that_is_none(value: object) -> None:
    with pytest.raises(Refused, match="watch"):
        asked.check_seconds("watch", value, 30)


def test_a_yes_or_no() -> None:
    assert [asked.check_flag("x", value) for value in (None, True, "true", "no", False)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(Refused):
        asked.check_flag("x", "perhaps")


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        (None, []),
        ("", []),
        ("0", []),
        (0, []),
        (5, [5]),
        ("5", [5]),
        ("5,25", [5, 25]),
        ("[5, 25]", [5, 25]),
        ([10, 95], [10, 95]),
    ],
)
def test_the_steps_of_a_canary(value: object, steps: list[int]) -> None:
    assert asked.check_canary(value) == steps


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("7", "the nearest is 5"),
        (97, "the nearest is 95"),
        (100, "the nearest is 95"),
        ("3", "the nearest is 5"),
        ("-5", "canary=-5 is not possible"),
        (-5, "the nearest is 5"),
        ("12.6", "the nearest is 15"),
        (12.4, "the nearest is 10"),
        ("1000", "the nearest is 95"),
        ("5,26", "the nearest is 25"),
        ("25,5", "does not rise"),
        ("5,5", "does not rise"),
        ("five", "not a share"),
        ("nan", "not a share"),
        ([5, "x"], "not a share"),
        ("{{ 5 }}", "not a share"),
    ],
)
def test_a_canary_that_is_not_possible_is_one_line(value: object, words: str) -> None:
    with pytest.raises(Refused) as caught:
        asked.check_canary(value)
    line = asked.in_one_line(caught.value)
    assert words in line
    assert "\n" not in line


def test_a_canary_lasts_at_least_a_round() -> None:
    assert asked.check_canary_watch(5.0, 5.0) == 5.0
    with pytest.raises(Refused, match="watch=4 is too short"):
        asked.check_canary_watch(4.0, 5.0)


@pytest.mark.parametrize("seconds", [0.0, 1.0, 30.0])
def test_a_watch_in_which_something_can_be_seen(seconds: float) -> None:
    assert asked.check_watch(seconds, 1.0) == seconds


@pytest.mark.parametrize("seconds", [0.001, 0.5, 0.999])
def test_a_watch_in_which_nothing_can_be_seen_is_one_line_with_what_would_be_right(seconds: float) -> None:
    with pytest.raises(Refused) as caught:
        asked.check_watch(seconds, 1.0)
    line = asked.in_one_line(caught.value)
    assert f"watch={seconds:g} is too short" in line
    assert "every 1 s" in line
    assert "-e watch=0 for none" in line


def test_a_choice_is_one_of_its_words() -> None:
    assert asked.check_choice("inconclusive", None, ("go_on", "revert"), "revert") == "revert"
    assert asked.check_choice("inconclusive", "go_on", ("go_on", "revert"), "revert") == "go_on"
    with pytest.raises(Refused, match="inconclusive='perhaps' is not known"):
        asked.check_choice("inconclusive", "perhaps", ("go_on", "revert"), "revert")


@pytest.mark.parametrize("value", ["{{ x }}", "a\nb", 5])
def test_a_file_name_that_is_none(value: object) -> None:
    with pytest.raises(Refused):
        asked.check_path("out", value)


def test_a_command_is_taken_whole() -> None:
    # Ansible would make `--deploy` a stray word of it
    assert asked.typed("command", ["sha=abc", "command=check --deploy"]) == "check --deploy"
    assert asked.typed("command", ["command='shell -c \"print(1)\"'"]) == 'shell -c "print(1)"'
    assert asked.typed("command", ["commander=x"]) is None


def test_stray_words_are_refused() -> None:
    asked.check_stray(None, "deploy")
    with pytest.raises(Refused, match="def"):
        asked.check_stray("def", "deploy")


def test_a_limit_is_refused() -> None:
    asked.check_limit(None, "deploy")
    with pytest.raises(Refused, match="--limit"):
        asked.check_limit("web1", "deploy")


def test_the_migration_host_is_an_app_server() -> None:
    assert asked.check_hosts(["web2", "web1"], None) == "web1"
    assert asked.check_hosts(["web2", "web1"], "web2") == "web2"
    for hosts, chosen in ([], None), (["web1"], "db1"):
        with pytest.raises(Refused):
            asked.check_hosts(hosts, chosen)


def test_the_configuration_of_a_release() -> None:
    values = {
        "app_wsgi": "shop.wsgi:app",
        "app_asgi": "",
        "app_workers": "4",
        "app_secrets": {"KEY": "x"},
        "app_domain": "d",
    }
    found = asked.config(values)
    assert found == {"wsgi": "shop.wsgi:app", "workers": 4, "secrets": {"KEY": "x"}}
    assert asked.config({**values, "app_secrets_revoked": []}) == found, "the same release"
    assert asked.config({**values, "app_secrets_revoked": ["KEY"]})["secrets_revoked"] == ["KEY"]


def test_values_become_plain() -> None:
    class Tagged(str):
        __slots__ = ()

    found = asked.plain({"a": [Tagged("x"), True, 3, 1.5, None]})
    assert type(found["a"][0]) is str
    assert found == {"a": ["x", True, 3, 1.5, None]}


def test_whether_anything_signs_in() -> None:
    assert asked.signs_in([{"name": "in", "session": "start"}])
    assert not asked.signs_in([{"name": "home", "path": "/"}])


def test_the_name_and_the_holder_of_a_run() -> None:
    now = datetime.datetime(2026, 11, 21, 3, 0, tzinfo=datetime.UTC)
    assert asked.deploy_id(now, "abcdef") == "20261121T030000-abcdef"
    assert asked.holder("ann", "laptop") == "ann@laptop"
    assert asked.run_url({}) == ""
    assert asked.run_url({"CI_JOB_URL": "https://ci.example/7"}) == "https://ci.example/7"
    run = {"GITHUB_SERVER_URL": "https://git.example", "GITHUB_REPOSITORY": "shop/shop", "GITHUB_RUN_ID": "7"}
    assert asked.run_url(run) == "https://git.example/shop/shop/actions/runs/7"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("web9", "names no app server"),
        ("web1,web2,web3", "leaves no app server"),
        ("web1", "migration host"),
        (7, "no app"),
    ],
)
def test_hosts_to_leave_out_must_be_known_and_not_needed(value: object, words: str) -> None:
    with pytest.raises(asked.Refused, match=words):
        asked.check_without(value, ["web1", "web2", "web3"], None)


def test_hosts_are_left_out_by_name() -> None:
    assert asked.check_without("web3, web2", ["web1", "web2", "web3"], "web1") == ["web2", "web3"]
    assert asked.check_without(None, ["web1"], None) == []


def test_a_lease_is_named_by_its_id() -> None:
    assert asked.check_lease("20260101T000000-abcdef") == "20260101T000000-abcdef"
    assert asked.check_lease("") is None
    with pytest.raises(asked.Refused, match="not the id of a lease"):
        asked.check_lease("x; rm")


@pytest.mark.parametrize(
    ("line", "what", "why", "todo"),
    [
        (
            "abc is ambiguous: it begins a and b; give more characters",
            "abc is ambiguous",
            "it begins a and b",
            "give more characters",
        ),
        ("no artifact", "no artifact", "", "ansible-playbook deploy.yml -e sha=<6 to 40 hex characters>"),
    ],
)
def test_a_refused_artifact(line: str, what: str, why: str, todo: str) -> None:
    refusal = asked.artifact_refusal(line)
    assert (refusal.what, refusal.why, refusal.todo) == (what, why, todo)


def test_settings_that_cannot_work() -> None:
    refusal = asked.settings_refusal(["app_domain is not set: set it in group_vars/all/app.yml"])
    assert (refusal.what, refusal.todo) == ("app_domain is not set", "set it in group_vars/all/app.yml")


@pytest.mark.parametrize("value", [None, "", "Shop", "shop {{ x }}", 5])
def test_a_name_that_is_none(value: object) -> None:
    with pytest.raises(Refused, match="app_name"):
        asked.check_app(value)


TOKEN = "shop.0007_fill@sha256:" + "ab" * 32


@pytest.mark.parametrize("value", [[TOKEN, TOKEN], f"{TOKEN},{TOKEN}", f"[{TOKEN}, {TOKEN}]"])
def test_approvals_are_a_list_or_a_text(value: object) -> None:
    found = asked.check_approvals(value, " ann ", "80 rows")
    assert found == {"approve": [TOKEN, TOKEN], "by": "ann", "reason": "80 rows"}
    assert asked.check_approvals(None, None, None) == {"approve": [], "by": "", "reason": ""}


@pytest.mark.parametrize(
    ("value", "by", "why", "says"),
    [
        ("shop.0007_fill", "ann", "r", "is not an approval"),
        ([7], "ann", "r", "is not an approval"),
        (TOKEN + "\n", "ann", "r", ""),
        (TOKEN, None, "r", "migrations_approved_by is missing"),
        (TOKEN, "ann", "", "migrations_approve_reason is missing"),
        (TOKEN, "ann", "two\nlines", "is not a line of text"),
    ],
)
def test_an_approval_is_whole_and_says_who_and_why(value: object, by: object, why: object, says: str) -> None:
    if not says:
        assert asked.check_approvals(value, by, why)["approve"] == [TOKEN]
        return
    with pytest.raises(asked.Refused, match=says):
        asked.check_approvals(value, by, why)


def test_late_migrations_are_named_in_a_list_or_a_text() -> None:
    for value in (["shop.0007_x", "shop.0008_y"], "shop.0007_x,shop.0008_y", "[shop.0007_x, shop.0008_y]"):
        assert asked.check_late(value, []) == ["shop.0007_x", "shop.0008_y"]
    assert asked.check_late(None, ["web3"]) == []
    for value in ("0007_x", [7], TOKEN, "shop.0007_x;ls"):
        with pytest.raises(Refused, match="is not a migration"):
            asked.check_late(value, [])
    with pytest.raises(Refused, match="not for a deploy that leaves hosts out") as caught:
        asked.check_late("shop.0007_x", ["web3"])
    assert "web3" in caught.value.why


def test_a_window_is_for_the_whole_fleet_and_for_nothing_else() -> None:
    assert asked.check_window("true", None, []) is True
    assert asked.check_window(None, "shop.0007_x", ["web3"]) is False
    with pytest.raises(Refused, match="do not go together"):
        asked.check_window(True, ["shop.0007_x"], [])
    with pytest.raises(Refused, match="not for a deploy that leaves hosts out"):
        asked.check_window(True, None, ["web3"])
    with pytest.raises(Refused, match="neither true nor false"):
        asked.check_window("perhaps", None, [])


@pytest.mark.parametrize("value", ["last", "20260101T000000", "../20260101T000000-aaaaaaaaaaaa-aaaaaaaa", 7, ["a"]])
def test_what_is_no_snapshot_is_refused_before_any_host_is_asked(value: object) -> None:
    assert asked.check_snapshot("snapshot", "20260101T000000-aaaaaaaaaaaa-aaaaaaaa").endswith("-aaaaaaaa")
    assert asked.check_snapshot("snapshot", None) == ""
    with pytest.raises(Refused, match="is no snapshot"):
        asked.check_snapshot("snapshot", value)
