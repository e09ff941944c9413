"""Other screens and another language: nothing is cut off or left empty."""

from collections.abc import Iterator

from playwright.sync_api import Page, expect
import pytest

from .conftest import OpenPage
from .forms import Form
from .house import House
from .test_use import ask, device_id

PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}


def is_too_wide(page: Page) -> bool:
    """Return whether the page can be scrolled to the side."""
    return bool(
        page.evaluate("document.documentElement.scrollWidth > window.innerWidth")
    )


@pytest.mark.parametrize("look", ["phone", "dark"])
def test_the_dialog_of_the_models(house: House, open_page: OpenPage, look: str) -> None:
    """All of it can be read."""
    options = PHONE if look == "phone" else {"color_scheme": "dark"}
    page = open_page("/config/integrations/dashboard/add?domain=home_agent", **options)
    page.get_by_role("button", name="OK").click()
    form = Form(page)
    form.expect_step("Model server")
    form.write("llm_base_url", house.ollama.url)
    form.submit()
    form.expect_step("Models")
    form.section("External LLM")
    assert not is_too_wide(page)


@pytest.mark.parametrize("look", ["phone", "dark"])
def test_the_device(house: House, open_page: OpenPage, look: str) -> None:
    """A model's device."""
    house.set_up()
    options = PHONE if look == "phone" else {"color_scheme": "dark"}
    path = f"/config/devices/device/{device_id(house, 'Home Agent')}"
    page = open_page(path, **options)
    expect(page.get_by_text("Model status").first).to_be_visible()
    page.get_by_text("Model status").first.scroll_into_view_if_needed()
    assert not is_too_wide(page)


@pytest.mark.parametrize("look", ["phone", "dark"])
def test_an_answer(house: House, open_page: OpenPage, look: str) -> None:
    """The Assist dialog."""
    house.set_up()
    house.make_assistant()
    options = PHONE if look == "phone" else {"color_scheme": "dark"}
    page = open_page("/", **options)
    ask(page, "is any window open?")
    answer = page.locator("ha-assist-chat .message.hass").last
    expect(answer).to_contain_text("Bedroom Window")
    assert not is_too_wide(page)


@pytest.fixture
def german(house: House) -> Iterator[None]:
    """Let the user read German."""
    command = "frontend/set_user_data"
    house.command(command, key="language", value={"language": "de"})
    yield
    house.command(command, key="language", value={"language": "en"})


@pytest.mark.usefixtures("german")
def test_a_user_who_reads_german(house: House, open_page: OpenPage) -> None:
    """A text that has no translation is shown in English, and none is empty."""
    house.set_up()
    path = f"/config/devices/device/{device_id(house, 'Home Agent')}"
    page = open_page(path, locale="de-DE")
    expect(page.get_by_text("Einstellungen").first).to_be_visible()
    rows = page.locator("hui-sensor-entity-row")
    expect(rows.first).to_be_visible()
    names = rows.locator(".info").all_inner_texts()
    assert len(names) >= 4
    assert all(name.strip() for name in names)
