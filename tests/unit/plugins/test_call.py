"""What is sent to the host tool, and what its answer, or its silence, means."""

from __future__ import annotations

import json

import pytest

from plugins.module_utils import bluegreen_call as calls


def test_everything_but_the_application_goes_to_stdin() -> None:
    assert calls.command("shop") == "sudo -n /usr/local/bin/bluegreen batch --app shop"
    text = calls.message([{"verb": "status"}], {"deploy_id": "x", "holder": "me"}, 7, dry_run=True)
    assert json.loads(text) == {
        "deploy_id": "x",
        "holder": "me",
        "fence": 7,
        "dry_run": True,
        "steps": [{"verb": "status"}],
    }


def test_a_good_answer_behind_a_login_banner() -> None:
    out = 'Welcome to web1\n{"ok": true, "results": {"status": {"app": "shop"}}, "error": null, "seconds": 0.1}\n'
    answer = calls.understand("web1", "shop", 0, out, "")
    assert (answer["verdict"], answer["results"]["status"]["app"], answer["error"]) == ("pass", "shop", None)


def test_a_failed_step_keeps_its_error_and_the_answers_before_it() -> None:
    error = {"verb": "start", "what": "it did not start", "why": "ImportError", "next": "journalctl", "code": 4}
    out = json.dumps({"ok": False, "results": {"stage": {"have": True}}, "error": error})
    answer = calls.understand("web1", "shop", 4, out, "")
    assert (answer["verdict"], answer["error"]["why"], answer["results"]["stage"]["have"]) == (
        "fail",
        "ImportError",
        True,
    )


@pytest.mark.parametrize(
    ("status", "err", "what"),
    [
        (127, "sh: 1: sudo: not found", "never provisioned"),
        (1, "sudo: /usr/local/bin/bluegreen: command not found", "never provisioned"),
        (1, "sudo: a password is required", "never provisioned for this user"),
        (137, "Killed", "the host tool gave no answer"),
        (0, "", "the host tool gave no answer"),
    ],
)
def test_silence_is_explained(status: int, err: str, what: str) -> None:
    answer = calls.understand("web1", "shop", status, "", err)
    assert (answer["verdict"], answer["error"]["what"]) == ("fail", what)
    assert answer["error"]["next"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("via ssh: ssh: connect to host 192.0.2.1 port 22: No route to host", "unreachable"),
        ("deploy@192.0.2.1: Permission denied (publickey).", "the login is refused"),
        ("Host key verification failed.", "the host key is not the known one"),
    ],
)
def test_an_unreachable_host_is_explained(text: str, what: str) -> None:
    assert calls.unreachable("web1", "deploy", text)["what"] == what


def test_a_session_is_found_and_never_printed() -> None:
    results = {"smoke": {"verdict": "pass", "session": {"sessionid": "secret"}}, "note": {}}
    assert calls.session_of(results) == {"sessionid": "secret"}
    assert "secret" not in json.dumps(calls.without_secrets(results))


def test_a_lease_that_another_run_holds() -> None:
    assert calls.lease_held({"error": {"code": 5}})
    assert calls.lease_held({"error": {"code": 75}}), "a migration that a dead run began"
    assert not calls.lease_held({"error": None})


def test_a_host_of_another_version_is_to_be_provisioned() -> None:
    error = {"what": "extend has no parameter 'release'", "why": "known: ttl", "next": "", "code": 2}
    found = calls.understand("web1", "shop", 2, json.dumps({"ok": False, "results": {}, "error": error}), "")
    assert "another version" in found["error"]["why"]
    assert found["error"]["next"] == "ansible-playbook provision.yml"
