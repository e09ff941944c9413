"""Home Assistant, a model server and a browser, one of each for all tests.

    scripts/test_browser

Each test saves what it saw in .browser/, named after the test.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
import re
from shutil import which
from typing import Any

from playwright.sync_api import (
    Browser,
    BrowserContext,
    Page,
    ViewportSize,
    expect,
    sync_playwright,
)
import pytest

from scripts.home_assistant import ROOT

from .house import House

PICTURES = ROOT / ".browser"
# As home-assistant.io's documentation shows its pages.
DESKTOP: ViewportSize = {"width": 1280, "height": 900}
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

type OpenPage = Callable[..., Page]


@pytest.fixture(autouse=True)
def _integration() -> None:
    """Take the place of the fixture that starts a Home Assistant in this process."""


@pytest.fixture(scope="session")
def running_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Return Home Assistant with the example home."""
    with House(tmp_path_factory.mktemp("home")) as house:
        yield house


@pytest.fixture
def house(running_house: House) -> Iterator[House]:
    """Return the house with a model server, without an entry of Home Agent."""
    running_house.start_server()
    yield running_house
    running_house.clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return the Chromium or Chrome that is installed."""
    PICTURES.mkdir(exist_ok=True)
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=which("chromium") or which("google-chrome"),
            args=list(FLAGS),
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def signed_in(browser: Browser) -> Iterator[BrowserContext]:
    """Return a window whose pages share their cache, and what is in it."""
    context = browser.new_context(viewport=DESKTOP)
    yield context
    context.close()


@pytest.fixture
def open_page(
    house: House,
    browser: Browser,
    signed_in: BrowserContext,
    request: pytest.FixtureRequest,
) -> Iterator[OpenPage]:
    """Return a function that opens a page of Home Assistant.

    Options are those of a window of its own. A picture of each page is saved when
    the test ends.
    """
    pages: list[Page] = []

    def open_page(path: str = "/", **options: Any) -> Page:
        context = signed_in
        if options:
            context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(20_000)
        page = context.new_page()
        pages.append(page)
        page.goto(house.api.url + path)
        return page

    yield open_page
    for number, page in enumerate(pages):
        suffix = f"_{number}" if number else ""
        take_picture(page, f"{request.node.name}{suffix}")
        page.close()
        if page.context is not signed_in:
            page.context.close()


def take_picture(page: Page, name: str) -> Path:
    """Save what a page shows, and return the file."""
    # The animations of dialogs take a moment.
    page.wait_for_timeout(400)
    name = re.sub(r"[^a-z0-9]+", "_", name.removeprefix("test_").lower()).strip("_")
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    return path
