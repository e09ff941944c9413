"""Home Assistant, a model server and a browser, one of each for all tests.

    scripts/test_browser

Each test saves what it saw in .browser/, named after the test.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright
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
    """Return Home Assistant with the example home, and a stand-in Ollama."""
    with House(tmp_path_factory.mktemp("home")) as house:
        yield house


@pytest.fixture
def house(running_house: House) -> Iterator[House]:
    """Return the house without an entry of Home Agent."""
    yield running_house
    running_house.clear()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Return Debian's Chromium."""
    PICTURES.mkdir(exist_ok=True)
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=list(FLAGS)
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(
    house: House, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[OpenPage]:
    """Return a function that opens a page of Home Assistant, signed in.

    A picture of each page is saved when the test ends.
    """
    contexts = []

    def open_page(path: str = "/", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.goto(house.api.url + path)
        return page

    yield open_page
    for number, context in enumerate(contexts):
        for page in context.pages:
            suffix = f"_{number}" if number else ""
            take_picture(page, f"{request.node.name}{suffix}")
        context.close()


def take_picture(page: Page, name: str) -> Path:
    """Save what a page shows, and return the file."""
    # The animations of dialogs take a moment.
    page.wait_for_timeout(400)
    path = PICTURES / f"{name.removeprefix('test_')}.png"
    page.screenshot(path=path, animations="disabled")
    return path
