"""The pages that a new user sees first."""

from playwright.sync_api import expect

from .conftest import OpenPage
from .house import House


def test_the_home_at_the_start(house: House, open_page: OpenPage) -> None:
    """Three floors, and nothing to repair."""
    page = open_page()
    for floor in ("Ground Floor", "Upper Floor", "Basement"):
        expect(page.get_by_text(floor).first).to_be_visible()
    assert house.issues() == []
