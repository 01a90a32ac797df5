"""The pure parts of building an artifact: settings, recipe, lock, static names, commits, store."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.artifact import commits, image, lock, place, recipe, settings, sources, statics, store, tree
from support.artifact.errors import BuildError, InputError

MINIMAL: dict[str, Any] = {"app_name": "orders", "app_source": "/repo", "app_settings_module": "orders.settings"}
H1, H2, H3 = (f"sha256:{digit * 64}" for digit in "123")


# --- settings


def test_few_settings_are_enough() -> None:
    checked = settings.from_mapping(MINIMAL)
    assert checked.python == "3.13"
    assert checked.build_commands == ["python -m django collectstatic --noinput"]
    assert checked.requirements == "requirements.txt"


def test_what_is_no_build_setting_is_ignored() -> None:
    others = {"app_secrets": {"KEY": "{{ vault_key }}"}, "app_domain": "{{ x }}", "ansible_host": 3}
    assert settings.from_mapping(MINIMAL | others) == settings.from_mapping(MINIMAL)


@pytest.mark.parametrize("name", settings.REQUIRED)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_setting_is_named_with_its_file(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^{name} is not set: set it in group_vars/all/app.yml$"):
        settings.from_mapping(MINIMAL | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("app_name", "Orders"),
        ("app_name", "orders-blue"),
        ("app_name", "orders\n"),
        ("app_name", 7),
        ("app_python", 3.13),
        ("app_python", "3.12"),
        ("app_settings_module", "orders/settings.py"),
        ("app_source_dir", "../elsewhere"),
        ("app_source_dir", "/srv"),
        ("app_requirements", "a/../../b"),
        ("app_pythonpath", "src"),
        ("app_pythonpath", [".."]),
        ("app_extra_requirements", "gunicorn"),
        ("app_extra_requirements", [1]),
        ("app_build_commands", "make"),
        ("app_build_commands", [""]),
        ("app_build_env", ["A=1"]),
        ("app_build_env", {"A B": "1"}),
        ("app_build_env", {"A": True}),
        ("app_build_env", {"A": "{{ vault_a }}"}),
        ("app_build_commands", ["echo {{ app_name }}"]),
        ("app_source", "{% if x %}a{% endif %}"),
        ("app_system_packages", ["libpq5; reboot"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(name: str, value: object) -> None:
    with pytest.raises(InputError, match=name) as caught:
        settings.from_mapping(MINIMAL | {name: value})
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


def test_numbers_in_the_build_environment_become_text() -> None:
    assert settings.from_mapping(MINIMAL | {"app_build_env": {"WORKERS": 2}}).build_env == {"WORKERS": "2"}


def test_later_files_win_and_vaulted_values_are_not_read(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yml", tmp_path / "two.yml"
    one.write_text("---\napp_name: one\napp_python: '3.11'\nsecret: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  00\n")
    two.write_text("app_name: two\n")
    merged = sources.from_files([one, two])
    assert merged["app_name"] == "two"
    assert merged["app_python"] == "3.11"
    two.write_text("a: [")
    with pytest.raises(InputError, match="not YAML"):
        sources.from_files([two])


def test_assignments_are_text_or_yaml_by_setting() -> None:
    given_values = sources.from_assignments(["app_python=3.10", "app_build_env={A: b}", "app_build_commands=[]"])
    assert given_values == {"app_python": "3.10", "app_build_env": {"A": "b"}, "app_build_commands": []}
    for wrong in ("app_nme=x", "app_name", "=x"):
        with pytest.raises(InputError, match="key=value"):
            sources.from_assignments([wrong])


def test_the_first_app_server_is_found_through_child_groups() -> None:
    listing = {
        "app_servers": {"children": ["east", "app_servers"]},
        "east": {"hosts": ["web1", "web2"]},
        "_meta": {"hostvars": {"web1": {"app_name": "orders"}, "web2": {"app_name": "other"}}},
    }
    assert sources.first_app_server(listing, "inv") == {"app_name": "orders"}
    with pytest.raises(InputError, match="no host in the group app_servers"):
        sources.first_app_server({"app_servers": {}}, "inv")


def test_the_store_is_a_directory(tmp_path: Path) -> None:
    assert sources.store_directory({}, tmp_path) == tmp_path / "artifacts"
    assert sources.store_directory({"artifact_store": "{{ playbook_dir }}/../x"}, tmp_path) == tmp_path / "x"
    for other in ("https://store.example.org/", "{{ somewhere }}", 3):
        with pytest.raises(InputError, match="artifact_store"):
            sources.store_directory({"artifact_store": other}, tmp_path)


# --- recipe


def test_the_source_is_no_part_of_the_recipe_and_the_rest_is() -> None:
    base = settings.from_mapping(MINIMAL)
    digest = recipe.digest(recipe.recipe(base))
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    elsewhere = settings.from_mapping(MINIMAL | {"app_source": "/other"})
    assert recipe.digest(recipe.recipe(elsewhere)) == digest
    changes: list[dict[str, Any]] = [
        {"app_name": "shop"},
        {"app_python": "3.11"},
        {"app_requirements": "uv.lock"},
        {"app_extra_requirements": []},
        {"app_build_commands": []},
        {"app_build_env": {"A": "1"}},
        {"app_source_dir": "backend"},
        {"app_settings_module": "x"},
        {"app_pythonpath": ["src"]},
        {"app_system_packages": ["libpq5"]},
    ]
    digests = {recipe.digest(recipe.recipe(settings.from_mapping(MINIMAL | change))) for change in changes}
    assert len(digests | {digest}) == len(changes) + 1


def test_the_order_of_the_environment_does_not_matter() -> None:
    one = settings.from_mapping(MINIMAL | {"app_build_env": {"A": "1", "B": "2"}})
    two = settings.from_mapping(MINIMAL | {"app_build_env": {"B": "2", "A": "1"}})
    assert recipe.digest(recipe.recipe(one)) == recipe.digest(recipe.recipe(two))


def test_the_stem_is_what_the_contract_says() -> None:
    assert recipe.stem("orders", "a" * 40, "0123456789abcdef") == f"orders-{'a' * 40}-01234567"


# --- lock


def lines(text: str) -> list[lock.Line]:
    return list(lock.logical_lines(text, "requirements.txt"))


def test_logical_lines_join_continuations_and_drop_comments() -> None:
    text = f"# top\nDjango==5.2 \\\n    --hash={H1} \\\n    --hash={H2}\n    # via x\nredis>=5  # cache\n"
    assert [(line.number, line.text.split()) for line in lines(text)] == [
        (2, ["Django==5.2", f"--hash={H1}", f"--hash={H2}"]),
        (6, ["redis>=5"]),
    ]


def test_a_url_fragment_is_no_comment() -> None:
    url = "x @ https://example.org/x.zip#sha256=00"
    assert [line.text for line in lines(url)] == [url]


def test_includes_are_followed_inside_the_repository(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/base.txt").write_text("django==5.2\n-r production.txt\n")
    (tmp_path / "requirements/production.txt").write_text("-r base.txt\n-c limits.txt\ngunicorn\n")
    (tmp_path / "requirements/limits.txt").write_text("redis<6\n")
    read = lock.read_requirements(tmp_path / "requirements/production.txt", tmp_path)
    assert [(line.file, line.text) for line in read] == [
        ("requirements/base.txt", "django==5.2"),
        ("requirements/limits.txt", "redis<6"),
        ("requirements/production.txt", "gunicorn"),
    ]
    (tmp_path / "requirements/base.txt").write_text("-r ../../../etc/passwd\n")
    with pytest.raises(InputError, match="outside the repository"):
        lock.read_requirements(tmp_path / "requirements/base.txt", tmp_path)
    (tmp_path / "requirements/base.txt").write_text("--requirement=missing.txt\n")
    with pytest.raises(InputError, match=r"base.txt line 1 cannot be read"):
        lock.read_requirements(tmp_path / "requirements/base.txt", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "-e .",
        "--editable ./lib",
        "git+https://example.org/x.git",
        "x @ git+ssh://git@example.org/x",
        "./lib",
        ".",
        "../lib",
        "/opt/x.whl",
        "file:///x.whl",
        "x @ file:///x.whl",
        "libs/x",
    ],
)
def test_what_no_hash_can_lock_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InputError, match=r"requirements.txt line 2 "):
        lock.refuse_unlockable(lines(f"django\n{text}\n"))


@pytest.mark.parametrize(
    "text",
    [
        "django>=5.2,<6",
        "psycopg[binary]==3.2.1 ; python_version < '4'",
        "x @ https://example.org/x.zip",
        "--index-url https://index.example.org/simple",
        "--find-links ./wheels",
        "zope.interface",
        "a/b==1 ; extra"[2:],
    ],
)
def test_what_can_be_locked_passes(text: str) -> None:
    lock.refuse_unlockable(lines(text))


def test_the_projects_own_hashes_replace_the_indexes() -> None:
    pins = lock.pinned_hashes(lines(f"Foo_Bar==1.0 --hash={H3}\n"))
    resolved = f"baz==2 \\\n    --hash={H2}\nfoo-bar==1.0 \\\n --hash={H1} \\\n --hash={H2}\n"
    text = lock.merge(resolved, pins)
    assert text == f"baz==2 \\\n    --hash={H2}\nfoo-bar==1.0 \\\n    --hash={H3}\n"
    assert lock.names(text) == {"baz", "foo-bar"}


def test_options_on_where_packages_come_from_are_kept() -> None:
    text = "-i https://u:p@index.example.org/simple\n--find-links=./wheels\n-f https://x/\n--no-binary a\n--pre\na\n"
    read = [lock.Line("reqs/base.txt", 1, line.text) for line in lines(text)]
    assert lock.index_options(read, PurePosixPath("/app")) == [
        "-i https://u:p@index.example.org/simple",
        "--find-links /app/reqs/wheels",
        "-f https://x/",
        "--no-binary a",
    ]


def test_hashes_of_one_version_in_several_lines_are_joined() -> None:
    pins = lock.pinned_hashes(lines(f"a==1 ; x == 'y' --hash={H1}\na==1 --hash={H2} --hash={H1}\na==2 --hash={H3}\n"))
    assert pins == {lock.Pin("a", "1"): [H1, H2], lock.Pin("a", "2"): [H3]}


def test_another_version_than_the_hashes_are_for_is_refused() -> None:
    with pytest.raises(BuildError, match="another version"):
        lock.merge(f"a==2 --hash={H1}\n", {lock.Pin("a", "1"): [H1]})


def test_a_package_without_hash_is_refused() -> None:
    with pytest.raises(BuildError, match="cannot be locked"):
        lock.merge("a==2\n", {})
    with pytest.raises(InputError, match="no exact version"):
        lock.pinned_hashes(lines(f"a>=2 --hash={H1}\n"))


@given(st.dictionaries(st.from_regex(r"\A[a-z][a-z0-9]{0,8}\Z"), st.sets(st.sampled_from([H1, H2, H3]), min_size=1)))
def test_a_merged_lock_is_stable(packages: dict[str, set[str]]) -> None:
    resolved = "".join(f"{name}==1 {' '.join(f'--hash={h}' for h in hashes)}\n" for name, hashes in packages.items())
    text = lock.merge(resolved, {})
    assert lock.merge(text, lock.pinned_hashes(lines(text))) == text
    assert lock.names(text) == set(packages)


# --- static files


@pytest.mark.parametrize(
    "name",
    [
        "app.55e7cbb9ba48.css",
        "main-3f2a1b4c.js",
        "main.3f2a1b4c.min.js.map",
        "chunk_0123456789abcdef.js.gz",
        "0a1b2c3d4e5f.woff2",
        "x.12345678.js",
    ],
)
def test_names_with_a_hash(name: str) -> None:
    assert statics.looks_hashed(name)


@pytest.mark.parametrize(
    "name",
    [
        "app.css",
        "jquery-3.7.1.min.js",
        "report-20240131.pdf",
        "x.20240131120000.js",
        "feed.js",
        "deadbeef",
        "a.1234567.js",
        "x55e7cbb9ba48.css",
        "app.55e7cbb9ba48.",
    ],
)
def test_names_without(name: str) -> None:
    assert not statics.looks_hashed(name)


def test_hashed_names_come_from_the_manifest_and_the_pattern(tmp_path: Path) -> None:
    for name in ("css/a.css", "css/a.v-one.css", "css/a.v-one.css.gz", "js/b.3f2a1b4c.js", "plain.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    paths = {"css/a.css": "css/a.v-one.css", "plain.txt": "plain.txt", "gone.css": "gone.123.css"}
    (tmp_path / "staticfiles.json").write_text(json.dumps({"paths": paths}))
    assert statics.hashed_names(tmp_path) == ["css/a.v-one.css", "css/a.v-one.css.gz", "js/b.3f2a1b4c.js"]
    for broken in ("[]", "{", '{"paths": 3}'):
        (tmp_path / "staticfiles.json").write_text(broken)
        assert statics.hashed_names(tmp_path) == ["js/b.3f2a1b4c.js"]


IMAGE = PurePosixPath("/srv/orders/images/x")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("", None),
        ("/srv/orders/images/x/app/backend/static", "app/backend/static"),
        ("static", "app/backend/static"),
        ("../public", "app/public"),
        ("/srv/orders/images/x/app/./a/../public", "app/public"),
    ],
)
def test_static_root_is_taken_relative_to_the_image(root: str, expected: str | None) -> None:
    found = statics.relative_root(root, IMAGE, IMAGE / "app/backend")
    assert found == (PurePosixPath(expected) if expected else None)


@pytest.mark.parametrize(
    "root", ["/var/www/static", "../../static", "/srv/orders/static", "..", "/srv/orders/images/x/app2/s"]
)
def test_static_root_outside_the_source_is_refused(root: str) -> None:
    with pytest.raises(InputError, match=r"STATIC_ROOT is /.* outside the source"):
        statics.relative_root(root, IMAGE, IMAGE / "app/backend")


# --- commits


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "init", "-q", "-b", "main")
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    commit(path, "one")
    git(path, "tag", "-m", "release", "v1.0")
    git(path, "branch", "feature/x")
    (path / "two.txt").write_text("two")
    commit(path, "two")
    return path


def git(path: Path, *words: str) -> str:
    env = os.environ | {
        f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()
    }
    env["GIT_CONFIG_GLOBAL"] = "/dev/null"
    return subprocess.run(
        ["git", "-C", path, *words], env=env, check=True, capture_output=True, text=True
    ).stdout.strip()


IDENTITY = {"NAME": "Test", "EMAIL": "test@example.org", "DATE": "2026-01-02T03:04:05Z"}


def commit(path: Path, message: str) -> None:
    git(path, "add", "-A")
    git(path, "commit", "-q", "-m", message)


def test_a_commit_is_found_by_every_name(repository: Path) -> None:
    first, head = git(repository, "rev-parse", "v1.0^{commit}"), git(repository, "rev-parse", "HEAD")
    for name in ("v1.0", "feature/x", first, first[:6], first[:10].upper()):
        assert commits.resolve(repository, name).sha == first
    for name in ("HEAD", "main", head[:12]):
        assert commits.resolve(repository, name).sha == head
    found = commits.resolve(repository, "HEAD")
    assert found.committed_at == "2026-01-02T03:04:05Z"
    assert found.ref == "HEAD"


@pytest.mark.parametrize(
    "rev",
    ["", "nothing", "fffff", "ffffff", "HEAD~1", "main..v1.0", "a b", "main\n", "-x", "main;id", "@{-1}", "f" * 41],
)
def test_other_revisions_are_refused(repository: Path, rev: str) -> None:
    with pytest.raises(InputError, match=r"^rev "):
        commits.resolve(repository, rev)


def test_a_name_of_two_commits_is_ambiguous(repository: Path) -> None:
    git(repository, "branch", "v1.0", "HEAD")
    with pytest.raises(InputError, match=r"ambiguous: refs/heads/v1.0 .* and refs/tags/v1.0"):
        commits.resolve(repository, "v1.0")
    first = git(repository, "rev-parse", "refs/tags/v1.0^{commit}")
    git(repository, "branch", first[:8], "HEAD")
    with pytest.raises(InputError, match="ambiguous"):
        commits.resolve(repository, first[:8])


def test_a_url_is_mirrored(repository: Path, tmp_path: Path) -> None:
    url = f"file://{repository}"
    mirror = commits.open_repository(url, tmp_path, tmp_path / "cache")
    assert commits.resolve(mirror, "HEAD").sha == git(repository, "rev-parse", "HEAD")
    (repository / "three.txt").write_text("three")
    commit(repository, "three")
    mirror = commits.open_repository(url, tmp_path, tmp_path / "cache")
    assert commits.resolve(mirror, "main").sha == git(repository, "rev-parse", "HEAD")


def test_what_is_no_repository_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for source in ("plain", "missing", f"file://{tmp_path}/missing"):
        with pytest.raises(InputError, match="app_source"):
            commits.open_repository(source, tmp_path, tmp_path / "cache")


def test_a_password_in_a_url_does_not_show(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        commits.open_repository("https://user:hunter2@localhost:1/x.git", tmp_path, tmp_path / "cache")
    assert "hunter2" not in str(caught.value)


def test_export_writes_the_commit_and_not_the_working_tree(repository: Path, tmp_path: Path) -> None:
    (repository / "run.sh").write_text("changed")
    (repository / "untracked").write_text("")
    assert commits.export(commits.resolve(repository, "HEAD"), tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["run.sh", "two.txt"]
    assert (tmp_path / "out/run.sh").read_text() == "#!/bin/sh\n"
    assert (tmp_path / "out/run.sh").stat().st_mode & 0o111
    assert commits.uncommitted(repository) == 1


def test_submodules_and_lfs_pointers_are_refused(repository: Path, tmp_path: Path) -> None:
    (repository / ".gitattributes").write_text("*.bin -text\n")
    (repository / "big.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    commit(repository, "lfs")
    with pytest.raises(InputError, match=r"big.bin is a git-lfs pointer"):
        commits.export(commits.resolve(repository, "HEAD"), tmp_path / "one")
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendor/lib")
    git(repository, "commit", "-q", "-m", "submodule")
    with pytest.raises(InputError, match=r"submodule \(vendor/lib\)"):
        commits.export(commits.resolve(repository, "HEAD"), tmp_path / "two")


@pytest.mark.parametrize(
    ("source", "remote"),
    [
        ("../orders", False),
        ("/srv/git/x", False),
        ("~/x", False),
        ("https://h/x", True),
        ("git@h:x/y", True),
        ("h:x", True),
    ],
)
def test_urls_and_directories_are_told_apart(source: str, remote: bool) -> None:
    assert commits.is_remote(source) is remote


# --- tree, store, place


def test_a_settled_tree_does_not_show_who_built_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub/run").write_text("x")
    (root / "sub/run").chmod(0o4700)
    (root / "secret").write_text("")
    (root / "secret").chmod(0o600)
    (root / "link").symlink_to("missing")
    assert list(tree.settle(root, "/srv/orders/images/x")) == ["secret", "sub/run"]
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in root.rglob("*") if not path.is_symlink()}
    assert modes == {"sub": 0o755, "run": 0o755, "secret": 0o644}
    os.mkfifo(root / "pipe")
    with pytest.raises(BuildError, match="pipe, which is no file"):
        tree.settle(root, "/srv/orders/images/x")


@pytest.mark.parametrize("folder", [True, False])
def test_a_link_that_no_host_would_open_is_found_by_the_build(tmp_path: Path, folder: bool) -> None:
    (tmp_path / "root/app").mkdir(parents=True)
    (tmp_path / "root/app/docs").symlink_to("/etc" if folder else "../../elsewhere")
    with pytest.raises(InputError, match=r"app/docs is a link that leads outside: .*; remove it"):
        tree.settle(tmp_path / "root", "/srv/orders/images/x")


def test_a_read_only_tree_can_be_removed(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/sub/file").write_text("")
    (tmp_path / "root/sub").chmod(0o500)
    tree.remove(tmp_path / "root")
    assert not (tmp_path / "root").exists()


def put(folder: Path, stem: str, content: bytes) -> dict[str, Any]:
    (folder / "made").write_bytes(content)
    manifest = {"artifact": stem, "image": {"bytes": len(content)}}
    store.publish(folder / "store", stem, folder / "made", folder / "made", manifest)
    return manifest


def test_an_artifact_is_found_only_when_whole(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    assert store.find(tmp_path / "store", "x") is None
    assert store.find(tmp_path / "store", "x") != put(tmp_path, "x", b"image")
    assert store.find(tmp_path / "store", "x") == {"artifact": "x", "image": {"bytes": 5}}
    names = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert names == ["index.json", "x.cdx.json", "x.json", "x.squashfs"]
    (tmp_path / "store/x.squashfs").write_bytes(b"ima")
    assert store.find(tmp_path / "store", "x") is None


def test_a_failed_move_leaves_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "store").mkdir()
    put(tmp_path, "x", b"old")
    original = Path.replace

    def replace(path: Path, target: Path) -> Path:
        if target.name == "x.cdx.json":
            raise OSError("disk full")
        return original(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="disk full"):
        put(tmp_path, "x", b"newer")
    assert store.find(tmp_path / "store", "x") is None
    assert not [path for path in (tmp_path / "store").iterdir() if path.name.startswith(".")]


def test_the_lock_of_a_build_leaves_nothing(tmp_path: Path) -> None:
    with store.building(tmp_path / "store", "x", "waiting"):
        assert [path.name for path in (tmp_path / "store").iterdir()] == [".x.lock"]
    assert not list((tmp_path / "store").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"), store.building(tmp_path / "file/store", "x", ""):
        pass


@pytest.mark.parametrize(
    ("here", "missing", "podman", "expected"),
    [
        (True, [], True, "direct"),
        (True, ["libpq5"], True, "container"),
        (True, ["libpq5"], False, "direct"),
        (False, [], True, "container"),
        (False, [], False, "container"),
    ],
)
def test_where_a_build_runs(
    monkeypatch: pytest.MonkeyPatch, here: bool, missing: list[str], podman: bool, expected: str
) -> None:
    monkeypatch.setattr(place, "here_is", lambda python: here)
    monkeypatch.setattr(place, "missing_packages", lambda packages: missing)
    assert place.choose("3.13", missing, podman=podman) == expected


def test_podmans_configuration_names_limits_and_runc() -> None:
    text = image.configuration({"nproc": 10, "nofile": 20}, runc=True)
    assert 'default_ulimits = ["nofile=20:20", "nproc=10:10"]' in text
    assert 'runtime = "runc"' in text
    assert "runtime" not in image.configuration({}, runc=False)
