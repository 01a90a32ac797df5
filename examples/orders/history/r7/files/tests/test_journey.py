"""One journey through the shop in a real browser: what a customer does on a good day."""

import os
import shutil
from collections.abc import Iterator

import pytest
from django.db import connections
from playwright.sync_api import Page, expect, sync_playwright
from pytest_django.live_server_helper import LiveServer

from orders.models import Order

from .factories import ProductFactory

BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]

pytestmark = pytest.mark.journey


@pytest.fixture
def page(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """A page of a headless Chromium; without one the test skips, or fails where REQUIRE_BROWSER is set."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)("no Chromium (Debian: chromium)")
    # Playwright's loop runs in this thread; Django would take what the test asks the database for async code.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("response", lambda answer: problems.append(answer.url) if answer.status >= 400 else None)
        yield page
        browser.close()
        connections.close_all()  # those that were opened under Playwright's loop
    assert problems == []


def test_a_customer_finds_a_coffee_orders_it_and_sees_it_on_the_board(page: Page, live_server: LiveServer) -> None:
    ProductFactory.create(slug="nyeri")
    page.goto(live_server.url)
    page.get_by_role("link", name="Nyeri").click()
    page.get_by_role("link", name="Order this").click()
    page.get_by_label("Quantity").fill("2")
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Note for us").fill("ground for a filter")
    page.get_by_role("button", name="Place the order").click()
    expect(page.get_by_text("Thank you, Ada.")).to_be_visible()
    expect(page.get_by_text("23.80 €")).to_be_visible()
    expect(page.get_by_text("ground for a filter")).to_be_visible()
    page.get_by_role("link", name="Board").click()
    expect(page.get_by_role("row", name="Nyeri")).to_contain_text("confirmed")
    assert Order.objects.get().customer == "Ada"
