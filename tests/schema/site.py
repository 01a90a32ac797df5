"""A database, the releases that use it, and visitors who read it meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluegreen.schema import shadow
from bluegreen.schema.service import call
from tests.schema import project

REPO = Path(__file__).resolve().parents[2]
SETTINGS = """
SECRET_KEY = "x"
INSTALLED_APPS = ["django.contrib.contenttypes", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "a"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
ORDER = """
from django.db import models
class Order(models.Model):
    number = models.CharField(max_length=20)
"""


class Site:
    """A database and the releases that use it."""

    def __init__(self, server: shadow.Server, python: str, place: Path, name: str, template: str = "template0"):
        self.server, self.python, self.place, self.name = server, python, place, name
        self.files = {
            "conf.py": SETTINGS,
            "shop/models.py": ORDER,
            "shop/migrations/0001_initial.py": project.migration(project.CREATE_ORDER, "initial = True"),
        }
        shadow.psql(server, "postgres", f"CREATE DATABASE {name} TEMPLATE {template}")
        project.write(place, self.files)

    @property
    def order(self) -> dict[str, Any]:
        where = {"HOST": self.server.host, "PORT": str(self.server.port), "USER": self.server.user, "NAME": self.name}
        return {"app": "orders", "databases": {"default": where}}

    def migration(self, name: str, operations: str, head: str = "", prelude: str = "") -> None:
        """One more migration, after the last."""
        last = max((self.place / "shop/migrations").glob("0*.py")).stem
        text = project.migration(operations, f'dependencies = [("shop", "{last}")]\n    {head}', prelude)
        project.write(self.place, {f"shop/migrations/{name}.py": text})

    def call(self, verb: str, **more: Any) -> dict[str, Any]:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "conf"}
        return call(verb, {**self.order, **more}, self.python, 60, cwd=self.place, env=environment)

    def steps(self, **more: Any) -> list[dict[str, Any]]:
        return [{**one, "tables": ["public.shop_order"], **more} for one in self.call("pending")["pending"]]

    def run(self, steps: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
        return self.call("run", steps=self.steps() if steps is None else steps, **more)

    def start(self, steps: list[dict[str, Any]], **more: Any) -> subprocess.Popen[str]:
        """A run beside this one."""
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "conf", "PYTHONPATH": str(REPO)}
        child = subprocess.Popen(
            [self.python, "-m", "bluegreen.schema", "run"], cwd=self.place, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdin is not None
        child.stdin.write(json.dumps({**self.order, "steps": steps, **more}))
        child.stdin.close()
        child.stdin = None
        return child

    def sql(self, text: str) -> str:
        return shadow.psql(self.server, self.name, text).strip()

    def hold(self, statement: str) -> subprocess.Popen[str]:
        """A transaction that has done something and stays open until its stdin is closed."""
        child = subprocess.Popen(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.name], env=self.server.environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(f"BEGIN;\n{statement};\nSELECT 'held';\n")
        child.stdin.flush()
        while (said := child.stdout.readline().strip()) != "held":
            assert said, "psql ended"
        return child

    @contextlib.contextmanager
    def reading(self, readers: int = 1) -> Iterator[list[float]]:
        """Visitors who read the table again and again while the block runs: the seconds that each read took."""
        took: list[float] = []
        stop = threading.Event()

        def read() -> None:
            with subprocess.Popen(
                ["psql", "-XAtq", "-d", self.name], env=self.server.environment(), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            ) as reader:  # fmt: skip
                assert reader.stdin is not None
                assert reader.stdout is not None
                while not stop.is_set():
                    began = time.monotonic()
                    reader.stdin.write("SELECT count(*) FROM shop_order;\n")
                    reader.stdin.flush()
                    reader.stdout.readline()
                    took.append(time.monotonic() - began)
                    stop.wait(0.01)
                reader.stdin.close()

        threads = [threading.Thread(target=read) for _ in range(readers)]
        for thread in threads:
            thread.start()
        try:
            yield took
        finally:
            stop.set()
            for thread in threads:
                thread.join()
