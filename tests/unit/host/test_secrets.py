"""Secrets on a host: they arrive unharmed, only root can read what is stored, and a missing one stops the start."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluegreen import files, processes, release, secrets, units
from bluegreen.config import PROCESS_NAME, Paths
from bluegreen.errors import BluegreenError, Code
from tests.unit.host.test_release import systemd_reads

ODD = "line 1\nline 2\r\n\"quoted\" 'x' '' $HOME `id` $(id) \\ \\n %s {{ x }} ü € 😀 \x81\x88\t\n\n"
SECRETS: dict[str, Any] = {
    "ODD": ODD,
    "KEY": "hunter2-key",
    "CERT": {"value": f"hunter2-pem\n{ODD}", "as": "file"},
}
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1) | st.text(
    "\\\"'$`\n\r\t !#;=x", min_size=1
)


def credentials(host: Any, name: str, place: Path) -> dict[str, str]:
    """What systemd would hand to a unit of a release: its files, opened, under their names. Returns its environment."""
    place.mkdir(exist_ok=True)
    kept = secrets.kept(host.paths.releases / name)
    assert kept is not None
    for path in (host.paths.releases / name / "secrets").iterdir():
        text = secrets.unseal(path.name, path) if kept.way == secrets.SEALED else path.read_bytes().decode()
        (place / f"{secrets.ID}_{path.name}").write_text(text, newline="")
    return {"CREDENTIALS_DIRECTORY": str(place)}


def started(script: Path, *words: str, **environment: str) -> tuple[int, dict[str, str], str]:
    """Run a script in nothing but this environment: exit status, environment that its command sees, complaints."""
    done = subprocess.run([script, *words], env=environment, capture_output=True, check=False)
    pairs = (line.partition(b"=") for line in done.stdout.split(b"\0") if line)
    return done.returncode, {key.decode(): value.decode() for key, _, value in pairs}, done.stderr.decode()


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.from_regex(r"K[A-Za-z0-9_]{0,8}", fullmatch=True), VALUES, min_size=1, max_size=5))
def test_a_shell_reads_back_every_value(values: dict[str, str]) -> None:
    text = "".join(secrets.Secret(*item).content for item in values.items())
    done = subprocess.run(["/bin/sh", "-c", f"{text}exec /usr/bin/env -0"], env={}, capture_output=True, check=True)
    found = dict(line.decode().split("=", 1) for line in done.stdout.split(b"\0") if line)
    assert {name: found[name] for name in values} == values
    assert [secrets.assigned(secrets.Secret(*item).content) for item in values.items()] == list(values.items())


@pytest.mark.parametrize("way", ["sealed", "credentials"])
def test_values_arrive_as_they_are_as_environment_and_as_files(host: Any, tmp_path: Path, way: str) -> None:
    host.hands_on = [way]
    name = host.release(1, secrets=SECRETS)
    home = host.paths.releases / name
    given = credentials(host, name, tmp_path / "c")
    status, found, _ = started(home / "run/with-secrets", "/usr/bin/env", "-0", **given)
    assert status == 0
    assert (found["ODD"], found["KEY"]) == (ODD, "hunter2-key")
    assert Path(found["CERT_FILE"]).read_bytes().decode() == SECRETS["CERT"]["value"]
    assert "CERT" not in found
    assert json.loads((home / "config.json").read_text())["secrets_kept"] == way


def test_without_credentials_values_are_read_as_environment(host: Any, tmp_path: Path) -> None:
    host.hands_on = []
    name = host.release(1, secrets={"ODD": ODD, "KEY": "hunter2-key"})
    home = host.paths.releases / name
    given = systemd_reads((home / "secrets/env").read_bytes().decode())
    assert given == {"ODD": ODD, "KEY": "hunter2-key"}
    assert started(home / "run/with-secrets", "/usr/bin/env", "-0", **given)[1]["ODD"] == ODD
    status, _, words = started(home / "run/with-secrets", "/usr/bin/env", KEY="x")
    assert (status, "the secret ODD did not arrive" in words) == (78, True)
    with pytest.raises(BluegreenError, match=r"app_secrets\.CERT cannot be given as a file on this host") as caught:
        host.release(2, secrets=SECRETS)
    assert "hunter2" not in str(caught.value)
    assert not [path for path in host.paths.releases.iterdir() if path.name != name]


@pytest.mark.parametrize("hands_on", [["sealed", "credentials"], ["credentials"], []])
def test_only_root_can_read_what_is_stored(host: Any, hands_on: list[str]) -> None:
    host.hands_on = hands_on
    name = host.release(1, secrets={"KEY": "hunter2-key", "OTHER": "hunter2-other"})
    stored = host.paths.releases / name / "secrets"
    assert mode(stored) == 0o700
    assert {mode(path) for path in stored.iterdir()} == {0o600}
    for directory, _, names in os.walk(host.root):
        for path in (Path(directory, item) for item in names):
            if not path.is_symlink() and path.is_file() and b"hunter2" in path.read_bytes():
                assert hands_on != ["sealed", "credentials"], f"{path} is not sealed"
                assert path.parent == stored


@pytest.mark.parametrize("script", ["web", "worker", "with-secrets"])
@pytest.mark.parametrize("gone", ["CERT", "KEY", "ODD"])
def test_a_secret_that_did_not_arrive_is_named_and_nothing_starts(
    host: Any, tmp_path: Path, script: str, gone: str
) -> None:
    name = host.release(1, secrets=SECRETS, processes={"worker": {"command": "touch ran"}})
    given = credentials(host, name, tmp_path / "c")
    next((tmp_path / "c").glob(f"secret_{gone}*")).unlink()
    status, _, words = started(host.paths.releases / name / "run" / script, "/usr/bin/touch", "ran", **given)
    assert status == 78
    assert f"the secret {gone} did not arrive" in words
    assert len(words.splitlines()) == 1
    assert "hunter2" not in words
    assert not list(host.root.rglob("ran"))


def test_without_a_credentials_directory_nothing_starts(host: Any) -> None:
    name = host.release(1, secrets={"KEY": "hunter2"})
    status, _, words = started(host.paths.releases / name / "run/web")
    assert (status, "the secret KEY did not arrive" in words) == (78, True)


def test_a_release_without_secrets_needs_nothing_of_systemd(host: Any) -> None:
    name = host.deploy(1, 1)
    assert not list(host.paths.units.rglob(secrets.DROPIN))
    assert (host.paths.releases / name / "run/web").read_text().splitlines()[2].startswith("cd ")
    assert not (host.paths.releases / name / "secrets.json").exists()
    assert not any("systemd-creds" in call for call in host.system.calls)


# systemd is told


def reloads(host: Any) -> int:
    return sum("daemon-reload" in call for call in host.system.calls)


def test_the_units_of_a_colour_are_handed_what_its_release_keeps(host: Any) -> None:
    host.deploy(1, 1, secrets=SECRETS)
    found = {str(path.relative_to(host.paths.units)): path.read_text() for path in host.paths.units.rglob("*.conf")}
    line = f"LoadCredentialEncrypted=secret:{host.paths.srv}/blue/secrets"
    assert set(found) == {"orders@blue.service.d/secrets.conf", "orders-blue@.service.d/secrets.conf"}
    assert all(text.splitlines() == ["# made by bluegreen", "[Service]", line] for text in found.values())
    assert reloads(host) == 1
    host.deploy(2, 2, secrets=SECRETS)
    host.deploy(3, 3, secrets={"KEY": "hunter2-new"})
    assert reloads(host) == 2, "once for each colour, and never again"
    host.deploy(4, 4)
    assert not (host.paths.units / "orders@green.service.d/secrets.conf").exists(), "a release without secrets"
    assert reloads(host) == 3


def test_another_way_of_keeping_them_changes_the_units(host: Any) -> None:
    host.deploy(1, 1, secrets={"KEY": "hunter2"})
    host.deploy(2, 2)
    host.hands_on = []
    (host.paths.run.parent / "secrets-way").unlink()  # a reboot
    host.deploy(3, 3, secrets={"KEY": "hunter2"})
    drop_in = host.paths.units / "orders@blue.service.d/secrets.conf"
    assert drop_in.read_text().splitlines()[-1] == f"EnvironmentFile={host.paths.srv}/blue/secrets/env"


def test_a_crash_before_systemd_was_told_is_made_good(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    name = host.release(1, secrets={"KEY": "hunter2"})
    files.replace_symlink(host.paths.colour("blue"), f"releases/{name}")
    assert processes.sync(host.paths, "blue", [])
    assert not processes.sync(host.paths, "blue", []), "systemd knows them"
    show = host.system.ctl_show

    def unread(words: list[str]) -> tuple[int, str, str]:
        status, out, err = show(words)
        return status, out.replace("NeedDaemonReload=no", "NeedDaemonReload=yes"), err

    monkeypatch.setattr(host.system, "ctl_show", unread)
    assert processes.sync(host.paths, "blue", []), "systemd does not"


def test_jobs_are_handed_them_too_and_never_as_arguments(host: Any) -> None:
    name = host.release(1, secrets=SECRETS)
    host.do("check", release=name)
    command = next(call for call in host.system.calls if call[0] == "systemd-run")
    home = host.paths.releases / name
    assert f"--property=LoadCredentialEncrypted=secret:{home}/secrets" in command
    assert command[command.index("--") + 1] == f"{home}/run/with-secrets"
    assert "hunter2" not in " ".join(command)
    assert not any("hunter2" in word for call in host.system.calls for word in call)


@pytest.mark.parametrize("hands_on", [["sealed", "credentials"], ["credentials"], []])
def test_the_best_way_that_works_is_taken_and_tried_once_for_each_boot(
    host: Any, monkeypatch: pytest.MonkeyPatch, hands_on: list[str]
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(secrets, "arrives", lambda place, user, how: tried.append(how) or how in hands_on)
    assert secrets.way(host.paths, "orders") == [*hands_on, "environment"][0]
    first = len(tried)
    secrets.way(host.paths, "orders")
    assert len(tried) == (first if hands_on else 2 * first), "where nothing works it may have been repaired since"


ANSWERS: dict[str, tuple[Callable[[str], str], bool]] = {
    "it arrives": (lambda value: value, True),
    "nothing arrives, without a word": (lambda value: "", False),
    "something else": (lambda value: f"{value}\n", False),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_whether_credentials_arrive_is_tried_with_a_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    answer, expected = ANSWERS[kind]

    def run(words: Any, timeout: float = 60, check: bool = True, stdin: str | None = None) -> Any:
        line = next(word for word in words if "LoadCredential=secret:" in word)
        value = Path(line.rpartition(":")[2], "PROBE").read_text()
        assert value not in " ".join(words)
        return subprocess.CompletedProcess(words, 0, answer(value), "")

    monkeypatch.setattr(units, "run", run)
    assert secrets.arrives(tmp_path, "orders", secrets.CREDENTIALS) is expected
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not shutil.which("systemd-creds"), reason="this machine has no systemd-creds")
def test_what_systemd_seals_it_opens_again_under_its_own_name_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(tmp_path / "credential.secret"))
    secrets.store(tmp_path, [secrets.Secret("ODD", ODD), secrets.Secret("CERT", ODD, as_file=True)], secrets.SEALED)
    assert secrets.assigned(secrets.unseal("ODD.sh", tmp_path / "ODD.sh")) == ("ODD", ODD)
    assert secrets.unseal("CERT", tmp_path / "CERT") == ODD
    with pytest.raises(BluegreenError, match="systemd-creds"):
        secrets.unseal("OTHER", tmp_path / "CERT")


# what is lost


def test_a_stored_secret_that_is_gone_is_named_before_anything_starts(host: Any, tools: Any) -> None:
    live = host.deploy(1, 1, secrets={"KEY": "hunter2"})
    name = host.release(2, "d2", 2, secrets=SECRETS)
    (host.paths.releases / name / "secrets/CERT").unlink()
    before = tools.snapshot(host.root)
    with pytest.raises(BluegreenError, match=f"the secret CERT of {name} cannot be had") as caught:
        host.do("start", "d2", 2, release=name)
    assert caught.value.code is Code.REFUSED
    assert "hunter2" not in str(caught.value)
    assert host.live() == live
    changed = {path for path, text in tools.snapshot(host.root).items() if before.get(path) != text}
    assert not {path for path in changed if "/var/lib/bluegreen/orders/active" in path or "/releases/" in path}
    assert host.release(2, "d2", 2, secrets=SECRETS) == name, "deploying it again restores it"
    host.do("start", "d2", 2, release=name, alive=0)


def test_status_tells_what_the_live_release_would_lack_when_it_starts_again(host: Any) -> None:
    name = host.deploy(1, 1, secrets=SECRETS)
    assert not [line for line in host.do("status")["drift"] if "secret" in line or "again" in line]
    (host.paths.releases / name / "secrets/KEY.sh").unlink()
    assert f"{name} cannot start again without KEY" in " ".join(host.do("status")["drift"])


def test_what_another_machine_has_sealed_is_sealed_anew(host: Any) -> None:
    name = host.release(1, secrets=SECRETS)
    host.paths.host_key.write_text("host 2")
    with pytest.raises(BluegreenError, match="the secrets CERT, KEY, ODD of"):
        host.do("start", release=name)
    host.release(1, secrets=SECRETS)
    host.do("start", release=name, alive=0)
    assert secrets.unseal("CERT", host.paths.releases / name / "secrets/CERT") == SECRETS["CERT"]["value"]


# what is changed and revoked


def value_of(host: Any, release_id: str, name: str = "KEY") -> str:
    path = host.paths.releases / release_id / "secrets" / f"{name}.sh"
    kept = secrets.kept(host.paths.releases / release_id)
    text = secrets.unseal(path.name, path) if kept and kept.way == "sealed" else path.read_bytes().decode()
    return secrets.assigned(text)[1]


def test_a_changed_value_is_a_new_release_and_the_old_one_keeps_that_of_its_time(host: Any) -> None:
    first = host.deploy(1, 1, secrets={"KEY": "hunter2-old"})
    second = host.deploy(1, 2, secrets={"KEY": "hunter2-new"})
    host.do("prune", "deploy-2", 2)
    assert first != second
    assert first[:12] == second[:12], "of the same commit"
    assert (value_of(host, first), value_of(host, second)) == ("hunter2-old", "hunter2-new")


@pytest.mark.parametrize("hands_on", [["sealed", "credentials"], ["credentials"], []])
def test_a_revoked_value_is_replaced_everywhere_and_what_is_warm_starts_again(host: Any, hands_on: list[str]) -> None:
    host.hands_on = hands_on
    old = {"KEY": "hunter2-old", "OTHER": "hunter2-other-1"}
    first, second = host.deploy(1, 1, secrets=old), host.deploy(2, 2, secrets=old)
    new = {"KEY": "hunter2-new\r\n", "OTHER": "hunter2-other-2"}
    third = host.deploy(2, 3, secrets=new, secrets_revoked=["KEY"])
    assert value_of(host, second) == "hunter2-old", "not before the new release is final"
    host.system.calls.clear()
    answer = host.do("prune", "deploy-3", 3)
    assert answer["revoked"] == {first: ["KEY"], second: ["KEY"]}
    assert [value_of(host, name) for name in (first, second, third)] == ["hunter2-new\r\n"] * 3
    assert value_of(host, second, "OTHER") == "hunter2-other-1", "that of its time"
    told = [words[2] for words in host.system.calls if words[0] == "systemctl" and words[2] in ("stop", "start")]
    assert told == ["stop", "start"], "the warm colour, so that a rollback is instant and has the new value"
    assert host.system.serving("green") == second
    assert host.system.serving("blue") == third
    text = json.dumps(host.do("history"))
    assert '"revoke"' in text
    assert "hunter2" not in text
    if not hands_on:
        assert "hunter2-old" not in (host.paths.releases / second / "secrets/env").read_text()


def test_a_revocation_is_done_once_and_never_by_an_older_release(host: Any) -> None:
    first = host.deploy(1, 1, secrets={"KEY": "hunter2-1"})
    second = host.deploy(2, 2, secrets={"KEY": "hunter2-2"}, secrets_revoked=["KEY"])
    host.do("prune", "deploy-2", 2)
    third = host.deploy(3, 3, secrets={"KEY": "hunter2-3"})
    host.do("prune", "deploy-3", 3)
    for action in ("route", "confirm"):
        host.do(action, "deploy-4", 4, release=second)
    assert host.live() == second
    assert host.do("prune", "deploy-4", 4)["revoked"] == {}
    assert [value_of(host, name) for name in (first, second, third)] == ["hunter2-2", "hunter2-2", "hunter2-3"]


def test_a_revocation_that_was_cut_off_is_finished_by_the_next_call(
    host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        host.deploy(number, number, secrets={"KEY": f"hunter2-{number}"})
    killer = tools.Killer(monkeypatch, host.system)
    serve = host.system.on_change

    def undisturbed(colour: str, running: bool) -> None:
        left, killer.left = killer.left, None  # systemd goes on when the program dies
        serve(colour, running)
        killer.left = left

    host.system.on_change = undisturbed
    steps, killed = 0, True
    while killed:
        fence, value = 3 + steps, f"hunter2-new-{steps}"
        host.deploy(3, fence, secrets={"KEY": value}, secrets_revoked=["KEY"])
        with killer.at(steps):
            host.do("prune", f"deploy-{fence}", fence, keep=2)
        killed = killer.count > steps
        host.do("prune", f"deploy-{fence}", fence, keep=2)
        kept = [path.parent for path in host.paths.releases.glob("*/secrets.json")]
        assert len(kept) > 1
        assert {value_of(host, home.name) for home in kept} == {value}
        assert [path.name for home in kept for path in home.rglob(".tmp-*")] == []
        steps += 2  # the calls between write another file in the same way
    assert steps > 10


def test_restoring_one_secret_brings_no_revoked_one_back(host: Any) -> None:
    old = {"KEY": "hunter2-old", "OTHER": "hunter2-other"}
    first = host.deploy(1, 1, secrets=old)
    host.deploy(2, 2, secrets={**old, "KEY": "hunter2-new"}, secrets_revoked=["KEY"])
    host.do("prune", "deploy-2", 2)
    (host.paths.releases / first / "secrets/OTHER.sh").unlink()
    assert host.release(1, "deploy-3", 3, secrets=old) == first
    assert (value_of(host, first), value_of(host, first, "OTHER")) == ("hunter2-new", "hunter2-other")
    assert secrets.lost(host.paths, first, bytes.fromhex("5a" * 32)) == []


# what is shown


def test_what_a_failing_release_prints_comes_without_its_secrets(host: Any) -> None:
    address = "postgres://orders:hunter2pass@192.0.2.31/orders"
    name = host.release(1, secrets={**SECRETS, "URL": address, "PIN": "12"})
    lines = ["Traceback", f"  {ODD!r}", f"ValueError: 12 {address!r}, hunter2pass, {json.dumps(ODD)} hunter2-key"]
    host.system.failing[name] = lines
    answer, status = host.batch({"verb": "start", "release": name})
    shown = json.dumps(answer)
    assert status == Code.CHECK_FAILED
    assert "ValueError: 12 '********'" in answer["error"]["why"], "what is shorter than four characters is no text"
    for secret in ("hunter2", "192.0.2.31", "line 2", "quoted"):
        assert secret not in shown, secret


def test_what_a_command_prints_comes_without_secrets_too(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.deploy(1, 1, secrets=SECRETS)
    host.system.jobs.append(lambda words: (0, f"SECRET_KEY = 'hunter2-key'\n{ODD}DEBUG = False\n", ""))
    answer, _ = host.batch({"verb": "manage", "command": "diffsettings"})
    assert "SECRET_KEY = '********'" in answer["results"]["manage"]["output"]
    assert "DEBUG = False" in answer["results"]["manage"]["output"]
    assert "hunter2" not in json.dumps(answer) + "".join(capsys.readouterr())


def test_no_secret_is_in_what_python_would_print() -> None:
    assert "hunter2" not in repr(secrets.parse(SECRETS))


def test_the_names_of_secrets_and_of_processes_never_meet() -> None:
    assert not PROCESS_NAME.fullmatch(secrets.LAUNCHER)
    assert not release.ENV_NAME.fullmatch(secrets.Secret("env", "x").file)
    assert Paths("orders").host_key == Path("/var/lib/systemd/credential.secret")
