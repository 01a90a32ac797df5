"""scripts/check-migrations as a pull request runs it: two commits, a throwaway server, exit status, annotations."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from support import check_migrations as gate
from tests.schema import project
from tests.schema.site import ORDER, SETTINGS


def commit(repo: Path, files: dict[str, str]) -> str:
    project.write(repo, files)
    for words in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one"]):
        subprocess.run(["git", "-C", str(repo), *words], check=True)
    return gate.git(repo, "rev-parse", "HEAD")


def test_a_branch_is_judged_before_it_is_merged(
    django: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", str(repo)], check=True)
    base = commit(
        repo,
        {
            "site/conf.py": SETTINGS,
            "site/manage.py": 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "conf")',
            "site/shop/models.py": ORDER,
            "site/shop/migrations/0001_initial.py": project.migration(project.CREATE_ORDER, "initial = True"),
        },
    )
    drop = project.migration('migrations.RemoveField("Order", "number"),', 'dependencies = [("shop", "0001_initial")]')
    head = commit(
        repo,
        {"site/shop/models.py": ORDER.rsplit("\n", 2)[0] + "\n    pass\n", "site/shop/migrations/0002_drop.py": drop},
    )
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.chdir(tmp_path)
    words = [
        "--repo",
        "repo",
        "--base",
        base,
        "--head",
        head,
        "--python",
        os.path.relpath(django),
        "--format",
        "github",
    ]
    assert gate.main(words) == gate.REFUSED
    said = capsys.readouterr().out
    assert (
        "::error file=site/shop/migrations/0002_drop.py,line=6,title=shop.0002_drop::public.shop_order.number: " in said
    )
    assert "shop.0002_drop: refused" in said
    assert gate.git(repo, "worktree", "list").count("\n") == 0, "no tree is left"
    assert gate.git(repo, "status", "--porcelain") == ""
