"""Where the outside comes in: streams and websockets under ASGI, the environment, the account of smoke tests."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from io import StringIO
from typing import cast

import pytest
from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client
from pytest_django import Settings

from shop import environment
from shop.asgi import application


def test_a_stream_comes_line_by_line_and_says_its_end(client: Client) -> None:
    answer = cast(Iterable[bytes], client.get("/stream?seconds=0.4"))
    assert [line[:1] for line in answer] == [b"0", b"1", b"e"]


def test_it_does_so_under_asgi() -> None:
    async def lines() -> list[bytes]:
        answer = cast(AsyncIterator[bytes], await AsyncClient().get("/stream?seconds=0.4"))
        return [line[:1] async for line in answer]

    assert asyncio.run(lines()) == [b"0", b"1", b"e"]


def talk(kind: str, path: str, *words: str) -> list[str]:
    """What the application sends, when it is told these words."""
    told = [{"type": f"{kind}.{word}", "text": "flat white"} for word in words]
    said: list[str] = []

    async def receive() -> dict[str, str]:
        return told.pop(0)

    async def send(message: Mapping[str, str]) -> None:
        said.append(message.get("text") or message["type"])

    asyncio.run(application({"type": kind, "path": path}, receive, send))
    return said


def test_a_websocket_gives_back_what_it_gets() -> None:
    assert talk("websocket", "/ws/echo", "connect", "receive", "disconnect") == ["websocket.accept", "flat white"]


def test_no_other_address_has_one(settings: Settings) -> None:
    assert talk("websocket", "/", "connect") == ["websocket.close"]
    settings.DIAGNOSTICS = False
    assert talk("websocket", "/ws/echo", "connect") == ["websocket.close"]


def test_a_server_is_told_that_it_may_start_and_stop() -> None:
    assert talk("lifespan", "", "startup", "shutdown") == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.django_db
def test_ensure_account_may_run_again_and_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    out = StringIO()
    for password in ["first", "first", "second"]:
        monkeypatch.setenv("SMOKE_PASSWORD", password)
        call_command("ensure_account", stdout=out)
    assert out.getvalue().split("\n") == ["smoke: created", "smoke: unchanged", "smoke: updated", ""]
    assert client.login(username="smoke", password="second")
    assert not get_user_model().objects.get().is_staff
    assert "smoke" in client.get("/account/").content.decode()


def test_ensure_account_needs_a_password() -> None:
    with pytest.raises(CommandError, match="SMOKE_PASSWORD is empty"):
        call_command("ensure_account")


@pytest.mark.django_db
def test_migrate_makes_the_account(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOKE_PASSWORD", "first")
    call_command("migrate", verbosity=0)
    assert client.login(username="smoke", password="first")


@pytest.mark.django_db
def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_database_addresses() -> None:
    postgres = environment.database("postgres://ada:p%40ss@db.example.org:5433/shop?sslmode=require")
    wanted = ["ada", "p@ss", "db.example.org", "5433", "shop"]
    assert [postgres[key] for key in ("USER", "PASSWORD", "HOST", "PORT", "NAME")] == wanted
    assert environment.database("sqlite:////srv/x.sqlite3")["NAME"] == "/srv/x.sqlite3"
    with pytest.raises(ImproperlyConfigured):
        environment.database("mysql://somewhere")


def test_a_value_may_stand_in_a_file(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path_factory.mktemp("secrets") / "key"
    path.write_text("from a file\n")
    monkeypatch.setenv("API_KEY_FILE", str(path))
    assert environment.text("API_KEY") == "from a file"
    with pytest.raises(ImproperlyConfigured, match="OTHER_KEY is not set"):
        environment.text("OTHER_KEY")
