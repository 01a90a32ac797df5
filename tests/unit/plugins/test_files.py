"""Files and directories of a role, in one execution: what differs is changed and told, the rest left alone."""

from __future__ import annotations

import getpass
import grp
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.testing import patch_module_args

from plugins.modules import bluegreen_files

ME = {"owner": getpass.getuser(), "group": grp.getgrgid(os.getgid()).gr_name}


class Ended(BaseException):
    """The module has said what it has to say."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def told(_: Any, **answer: Any) -> None:
        raise Ended(answer)

    def refused(_: Any, msg: str, **answer: Any) -> None:
        raise Ended({"failed": msg, **answer})

    monkeypatch.setattr(basic.AnsibleModule, "exit_json", told)
    monkeypatch.setattr(basic.AnsibleModule, "fail_json", refused)

    def run(*files: dict[str, Any], check: bool = False) -> dict[str, Any]:
        arguments = {"files": [ME | one for one in files], "_ansible_check_mode": check, "_ansible_diff": True}
        with patch_module_args(arguments), pytest.raises(Ended) as caught:
            bluegreen_files.main()
        answer: dict[str, Any] = caught.value.args[0]
        return answer

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_makes_what_is_missing_and_a_second_run_changes_nothing(run: Any, tmp_path: Path) -> None:
    deep, text, log, gone = tmp_path / "a/b", tmp_path / "a/b/text", tmp_path / "log", tmp_path / "gone"
    gone.touch()
    files = [
        {"path": str(deep), "state": "directory", "mode": "0750"},
        {"path": str(text), "content": "täxt\n", "mode": "0600"},
        {"path": str(log)},
        {"path": str(gone), "state": "absent"},
    ]
    predicted = run(*files, check=True)
    assert gone.exists()
    assert not deep.parent.exists()
    done = run(*files)
    assert done == predicted, "check mode says what happens"
    assert done["paths"] == [str(path) for path in (deep, text, log, gone)]
    assert [one["after_header"] for one in done["diff"]] == done["paths"]
    assert text.read_text() == "täxt\n"
    assert [mode(path) for path in (deep.parent, deep, text, log)] == [0o750, 0o750, 0o600, 0o644]
    assert not gone.exists()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "log", "text"]
    log.write_text("a line\n")
    assert run(*files) == {"changed": False, "paths": [], "diff": []}
    assert log.read_text() == "a line\n"


def test_only_what_differs_is_told(run: Any, tmp_path: Path) -> None:
    same, other, open_ = (tmp_path / name for name in ("same", "other", "open"))
    files = [{"path": str(path), "content": f"{path.name}\n", "mode": "0640"} for path in (same, other, open_)]
    run(*files)
    other.write_text("by hand\n")
    open_.chmod(0o666)
    predicted, done = run(*files, check=True), run(*files)
    assert predicted["paths"] == done["paths"] == [str(other), str(open_)]
    assert (done["diff"][0]["before"], done["diff"][0]["after"]) == ("by hand\n", "other\n")
    assert (done["diff"][1]["before"]["mode"], done["diff"][1]["after"]["mode"]) == ("0666", "0640")
    assert [mode(path) for path in (same, other, open_)] == [0o640] * 3
    assert other.read_text() == "other\n"


def test_a_file_that_is_refused_stays_as_it_is(run: Any, tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("good\n")
    said = run({"path": str(path), "content": "bad\n", "validate": "grep -q good %s"})
    assert said["failed"].startswith(f"{path} stays as it is, grep -q good ")
    assert path.read_text() == "good\n"
    assert list(tmp_path.iterdir()) == [path]
    assert run({"path": str(path), "content": "as good\n", "validate": "grep -q good %s"})["changed"]


def test_a_link_to_a_directory_is_followed_and_one_to_a_file_is_replaced(run: Any, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(0o700)
    (tmp_path / "srv").symlink_to("disk")
    (tmp_path / "theirs").write_text("theirs\n")
    (tmp_path / "conf").symlink_to("theirs")
    assert run({"path": str(tmp_path / "srv"), "state": "directory"})["changed"]
    assert mode(tmp_path / "disk") == 0o755
    assert run({"path": str(tmp_path / "conf"), "content": "theirs\n"})["changed"]
    assert not (tmp_path / "conf").is_symlink()
    assert (tmp_path / "srv").is_symlink()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"state": "directory"}, "is there, and is no directory: move it away"),
        ({"path": "there/below", "content": ""}, "Not a directory"),
    ],
)
def test_what_is_in_the_way_is_named(run: Any, tmp_path: Path, entry: dict[str, Any], why: str) -> None:
    (tmp_path / "there").touch()
    said = run({**entry, "path": str(tmp_path / entry.get("path", "there"))})
    assert said["failed"].endswith(why)
    assert str(tmp_path) in said["failed"]
