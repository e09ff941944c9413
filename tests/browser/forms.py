"""The dialogs of Home Assistant's pages, filled in as a user does it."""

import re

from playwright.sync_api import Locator, Page, expect


class Form:
    """The dialog of a set-up, of a subentry or of a repair."""

    def __init__(self, page: Page) -> None:
        """Work with the dialog that is open, or opens next."""
        self._page = page
        self.dialog = page.locator("dialog-data-entry-flow")

    def section(self, name: str) -> Locator:
        """Return a section, unfolded."""
        title = self._page.get_by_text(name, exact=True)
        section = self.dialog.locator("ha-expansion-panel").filter(has=title)
        summary = section.locator("#summary")
        if summary.get_attribute("aria-expanded") != "true":
            summary.click()
        return section

    def field(self, label: str, section: str | None = None) -> Locator:
        """Return the field with this label, in a section if one is given."""
        scope = self.section(section) if section else self.dialog
        # A required field has a star.
        text = re.compile(rf"^\s*{re.escape(label)}\s*\*?\s*$")
        title = self._page.get_by_text(text)
        return scope.locator("ha-selector").filter(has=title).first

    def write(self, name: str, text: str) -> None:
        """Write into the field of text with this key."""
        self.dialog.locator(f"input[name={name}]").fill(text)

    def choose(self, label: str, value: str, section: str | None = None) -> None:
        """Choose a value in a list, also one that the list does not have."""
        self.field(label, section).locator("ha-picker-field").click()
        search = self._page.locator("ha-picker-combo-box input")
        search.fill(value)
        # The list shows what fits a moment later.
        self._page.wait_for_timeout(400)
        search.press("Enter")
        expect(search).to_have_count(0)

    def submit(self) -> None:
        """Press the button that goes on."""
        self.dialog.get_by_role("button", name="Submit").click()

    def expect_step(self, title: str) -> None:
        """Wait until the dialog shows the step with this title."""
        expect(self.dialog.get_by_text(title, exact=True).first).to_be_visible()

    def expect_text(self, text: str | re.Pattern[str]) -> None:
        """Wait until the dialog shows a text."""
        expect(self.dialog.get_by_text(text).first).to_be_visible()
