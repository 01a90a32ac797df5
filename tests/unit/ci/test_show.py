"""What GitHub is told, and what a host's words cannot make it do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from support.ci import play, show
from support.ci.record import Record


def test_commands_are_escaped() -> None:
    line = show.error_line("a%b\nc", heading="x: y, z", path="/w/roles/a.yml", line=3, workspace="/w")
    assert line == "::error file=roles/a.yml,line=3,title=x%3A y%2C z::a%25b%0Ac"
    assert show.mask_lines(["a%"]) == ["::add-mask::a%25"]


@given(st.text())
def test_nothing_that_a_host_says_is_a_command(text: str) -> None:
    for line in show.harmless(f"::set-output name=a::b\n {text}\n\t::group::x ##[group]y").splitlines():
        assert not line.lstrip().startswith("::")
        assert "##[" not in line


def test_the_line_breaks_of_an_event_are_kept() -> None:
    assert show.text_of({"stdout": "a\r\nb", "start_line": 1, "end_line": 4}) == "a\nb\n\n"
    assert show.text_of({"stdout": "", "start_line": 4, "end_line": 4}) == ""


def test_at_most_ten_annotations() -> None:
    style, record, said = show.GitHub(), Record(), ""
    for number in range(30):
        data = {"host": f"web{number}", "task": "t", "task_path": f"/r/{number}.yml:1", "res": {"msg": "no"}}
        event = {"event": "runner_on_failed", "event_data": data}
        said += style.event(event, record, record.take(event))
    said += style.end({"what": "w", "why": "y", "next": "n"})
    assert said.count("::error ") == 10


def test_a_summary_shows_text_and_no_markup() -> None:
    result = {
        "verb": "deploy", "environment": "production", "sha": "a" * 40, "outcome": "reverted", "hosts": ["web1"],
        "phases": [{"name": "switch", "seconds": 1.25, "hosts": {"web1": "fail"}}],
        "migrations": ["shop.0002", {"name": "shop.0003", "verdict": "safe"}],
        "failure": {"what": "Switch: <img src=x> | x", "why": "[a](b)", "next": "scripts/deploy `x`"},
    }  # fmt: skip
    text = show.summary(result)
    assert "<img" not in text
    assert r"\[a\](b)" in text
    assert "| Switch | 1.2 | fail |" in text
    assert r"shop.0002, shop.0003 safe" in text


def test_no_inventory_can_switch_the_check_of_host_keys_off(tmp_path: object) -> None:
    from pathlib import Path

    words = play.ssh_args(known_hosts=Path("/m/known_hosts"))
    assert words.startswith("-o StrictHostKeyChecking=yes -o 'UserKnownHostsFile=\"/m/known_hosts\"'")
    assert "ControlMaster=auto" in words
    assert play.connection(Path("/m/known_hosts")) == {"ansible_ssh_args": words, "ansible_host_key_checking": True}
    found = play.environment({}, Path("/m"), agent=None, known_hosts=None, vault=None, tty=False)
    assert found["ANSIBLE_HOST_KEY_CHECKING"] == "True"


def test_nothing_of_github_but_the_page_of_the_run_reaches_ansible() -> None:
    from pathlib import Path

    own = {"GITHUB_RUN_ID": "1", "GITHUB_STEP_SUMMARY": "/s", "GITHUB_WORKSPACE": "/w"}
    found = play.environment(own, Path("/m"), agent=None, known_hosts=None, vault=None, tty=False)
    assert {name for name in found if name.startswith("GITHUB_")} == {"GITHUB_RUN_ID"}
