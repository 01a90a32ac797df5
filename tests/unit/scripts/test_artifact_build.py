"""A tiny Django project built for real: twice the same image, nothing stale in it, nothing left behind.

Needs a package index (or uv's cache), and this machine's Python or podman.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.artifact import place
from support.artifact.settings import DEBIAN_OF_PYTHON
from support.common import REPO

pytestmark = [pytest.mark.slow]

HERE = next((version for version in DEBIAN_OF_PYTHON if place.here_is(version)), None)
if not shutil.which("mksquashfs") or not (HERE or shutil.which("podman")):
    pytest.skip("needs squashfs-tools, and Debian 12 or 13 or podman", allow_module_level=True)

SETTINGS = """
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent
SECRET_KEY = os.environ["SECRET_KEY"]
INSTALLED_APPS = [f"django.contrib.{name}" for name in ("contenttypes", "auth", "admin", "staticfiles")]
STATIC_URL = "/assets/"
STATIC_ROOT = BASE_DIR / "public"
STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}}
DATABASES = {}
"""
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
DATE = "2026-01-02T03:04:05Z"
LEAKED = "BLUEGREEN_TEST_LEAK"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "backend/web").mkdir(parents=True)
    (source / "backend/web/__init__.py").touch()
    (source / "backend/web/conf.py").write_text(SETTINGS.replace("parent\n", "parent.parent\n"))
    (source / "backend/requirements.txt").write_text("django>=5.2,<5.3\n")
    env = os.environ | {"GIT_AUTHOR_DATE": DATE, "GIT_COMMITTER_DATE": DATE}
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], [*IDENTITY, "commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", source, *words], check=True, env=env)
    settings = {
        "app_name": "tiny",
        "app_source": str(source),
        "app_source_dir": "backend",
        "app_settings_module": "web.conf",
        "app_python": HERE or "3.13",
        "app_build_env": {"SECRET_KEY": "only-for-the-build"},
        "app_build_commands": ["env > environment.txt", "python -m django collectstatic --noinput"],
    }
    (tmp_path / "app.yml").write_text(json.dumps(settings))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def start(project: Path, store: str, *words: str) -> subprocess.Popen[str]:
    command = [
        str(REPO / "scripts/build-artifact"),
        "--settings",
        str(project / "app.yml"),
        "--store",
        str(project / store),
    ]
    env = os.environ | {LEAKED: "1", "TMPDIR": str(project / "tmp")}
    return subprocess.Popen([*command, *words], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def build(project: Path, store: str, *words: str) -> tuple[int, str, str]:
    process = start(project, store, *words)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def built(project: Path, store: str, *words: str) -> dict[str, Any]:
    code, out, err = build(project, store, "--format", "json", *words)
    assert code == 0, err
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def test_the_same_commit_gives_the_same_image_and_nothing_in_it_is_stale(project: Path) -> None:
    one, two = built(project, "one"), built(project, "two")
    assert one["built"]
    assert (one["artifact"], one["image"]) == (two["artifact"], two["image"])
    assert not built(project, "one")["built"]
    code, out, _ = build(project, "one")
    assert (code, out) == (0, one["artifact"] + "\n")

    stem = one["artifact"]
    manifest = json.loads((project / f"one/{stem}.json").read_text())
    assert manifest["static"]["url"] == "/assets/"
    assert any(name.startswith("admin/css/base.") for name in manifest["static"]["hashed"])
    names = [
        entry["name"].lower() for entry in json.loads((project / f"one/{stem}.cdx.json").read_text())["components"]
    ]
    assert {"django", "gunicorn"} <= set(names)

    root = project / "opened"
    subprocess.run(["unsquashfs", "-q", "-n", "-d", root, project / f"one/{stem}.squashfs"], check=True)
    assert str((root / "static").readlink()) == "app/backend/public"
    environment = (root / "app/backend/environment.txt").read_text()
    assert LEAKED not in environment
    assert f"PATH=/srv/tiny/images/{stem.removeprefix('tiny-')}/venv/bin:" in environment
    present = {
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and not path.is_symlink()
    }
    assert present == set(manifest["files"])
    assert_nothing_stale(root)
    assert not list((project / "tmp").iterdir())


@pytest.mark.full  # that every setting counts for a recipe, and the recipe for the name, is tested without a build
def test_another_recipe_makes_another_artifact_beside_the_first(project: Path) -> None:
    one = built(project, "one")
    other = built(project, "one", "--set", "app_build_env={SECRET_KEY: other}")
    assert other["built"]
    assert other["artifact"] != one["artifact"]


def assert_nothing_stale(root: Path) -> None:
    """Every module has a .pyc that is never compared with its source (flags 1: by hash, unchecked)."""
    sources = list(root.rglob("*.py"))
    assert len(sources) > 500
    tag = f"cpython-{(HERE or '3.13').replace('.', '')}"
    flags = {}
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
        if compiled.exists():
            flags[source] = int.from_bytes(compiled.read_bytes()[4:8], "little")
    templates = [source for source in sources if source not in flags]
    assert all("conf/app_template" in str(path) or "conf/project_template" in str(path) for path in templates)
    assert set(flags.values()) == {1}
    if HERE is None:
        return
    # And Python agrees: with sources of another time, none of them is compiled again.
    for source in sources:
        os.utime(source, (1, 1))
    packages = next((root / "venv/lib").glob("python3*")) / "site-packages"
    words = [f"/usr/bin/python{HERE}", "-v", "-c", "import django.db.models"]
    done = subprocess.run(words, env={"PYTHONPATH": str(packages)}, capture_output=True, text=True, check=True)
    loaded = [line for line in done.stderr.splitlines() if line.startswith("# code object from") and str(root) in line]
    assert len(loaded) > 50
    assert [line for line in loaded if line.rstrip("'").endswith(".py")] == []


def test_a_failed_command_shows_its_end_and_leaves_nothing(project: Path) -> None:
    code, out, err = build(project, "store", "--set", "app_build_commands=['seq 30; exit 3']")
    shown = [line for line in err.splitlines() if line.startswith("    |")]
    assert (code, out) == (1, "")
    assert shown == [f"    | {number}" for number in range(11, 31)]
    assert "failed: exit status 3" in err.splitlines()[-1]
    assert_clean(project)


def test_a_static_root_elsewhere_is_refused(project: Path) -> None:
    command = "echo 'STATIC_ROOT = \"/var/www/x\"' >> web/conf.py"
    code, _, err = build(project, "store", "--set", f"app_build_commands={json.dumps([command])}")
    assert code == 2
    assert "STATIC_ROOT is /var/www/x, outside the source" in err.splitlines()[-1]
    assert_clean(project)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.full), signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(project: Path, number: signal.Signals) -> None:
    process = start(project, "store", "--set", "app_build_commands=['touch started; sleep 4711']")
    deadline = time.monotonic() + 300
    while not list((project / "tmp").glob("*/tiny/images/*/app/backend/started")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert_clean(project)
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [line for line in running if line == b"sleep\x004711\x00"]


def assert_clean(project: Path) -> None:
    assert not list((project / "tmp").iterdir())
    assert not list((project / "store").iterdir())
