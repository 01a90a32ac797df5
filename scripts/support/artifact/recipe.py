"""The build recipe: everything besides the commit that decides what is in an artifact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from support.artifact.settings import Settings


def recipe(settings: Settings) -> dict[str, Any]:
    """The recipe as the manifest holds it. Where the source comes from is no part of it: the commit names it."""
    return {
        "app": settings.name,
        "commands": settings.build_commands,
        "env": settings.build_env,
        "extra_requirements": settings.extra_requirements,
        "python": settings.python,
        "pythonpath": settings.pythonpath,
        "requirements": settings.requirements,
        "settings_module": settings.settings_module,
        "source_dir": settings.source_dir,
        "system_packages": settings.system_packages,
    }


def digest(recipe: Mapping[str, Any]) -> str:
    """sha256 (64 hex) over the recipe's canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stem(app: str, sha: str, recipe_digest: str) -> str:
    """The artifact's name: ``<app>-<40 hex sha>-<recipe8>``."""
    return f"{app}-{sha}-{recipe_digest[:8]}"
