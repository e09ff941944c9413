"""What a user sees every day: answers, the device of a model, the actions."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect
import pytest

from ..servers import Reply
from ..servers.stand_in import Fault
from .conftest import OpenPage
from .forms import Form
from .house import House

ACTIONS = "/config/tools/action"


def ask(page: Page, sentence: str) -> None:
    """Open the Assist dialog if it is not open, and ask."""
    chat = page.locator("ha-assist-chat")
    if not chat.count():
        expect(page.get_by_text("Ground Floor").first).to_be_visible()
        # Home Assistant's shortcut: a phone has no button for it on the page.
        page.keyboard.press("a")
    field = chat.locator("input")
    field.fill(sentence)
    field.press("Enter")


def device_id(house: House, name: str) -> str:
    """Return the id of a device of Home Agent."""
    return next(
        str(device["id"])
        for device in house.command("config/device_registry/list")
        if device["name"] == name
        and any(item[0] == "home_agent" for item in device["identifiers"])
    )


def test_talk_in_the_assist_dialog(house: House, open_page: OpenPage) -> None:
    """A command is done, and a question that follows is understood."""
    house.set_up()
    house.make_assistant()
    page = open_page()
    ask(page, "turn on the kitchen light")
    answers = page.locator("ha-assist-chat .message.hass")
    expect(answers).to_have_count(2)
    expect(answers.last).to_contain_text("kitchen light", ignore_case=True)
    house.wait_until(lambda: house.state("light.kitchen_light") == "on")
    ask(page, "what is the temperature in the bedroom?")
    expect(answers.last).to_contain_text("19.5")
    ask(page, "and in the office?")
    expect(answers.last).to_contain_text("22.1")


def test_an_answer_is_streamed(house: House, open_page: OpenPage) -> None:
    """The first words are shown while the model still writes."""
    house.set_up()
    house.make_assistant()
    page = open_page()
    ask(page, "hello")
    expect(page.get_by_text("What can I do for you?")).to_be_visible()
    house.ollama.brain.replies.append(Reply("The first words are shown at once."))
    house.ollama.faults.append(Fault(hold_after_lines=3))
    ask(page, "say something")
    answer = page.locator("ha-assist-chat .message.hass").last
    expect(answer).to_contain_text("The first words")
    expect(answer).not_to_contain_text("at once")
    house.soon(house.ollama.release)
    expect(answer).to_contain_text("The first words are shown at once.")


def test_the_device_of_a_model(house: House, open_page: OpenPage) -> None:
    """It shows what is in memory, and its buttons load and unload the model."""
    house.set_up()
    house.wait_until(lambda: house.ollama.loaded("llama3.2:3b") is not None)
    page = open_page(f"/config/devices/device/{device_id(house, 'Home Agent')}")
    expect(page.get_by_text("Model status").first).to_be_visible()
    for text in ("Loaded", "Never", "Memory used", "Time to first token"):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    page.get_by_role("button", name="Press").last.click()
    house.wait_until(lambda: house.ollama.loaded("llama3.2:3b") is None)
    row = page.locator("hui-sensor-entity-row").filter(has_text="Model status")
    expect(row).to_contain_text("Unloaded")


def open_action(page: Page, action: str) -> None:
    """Choose an action in the tools."""
    page.locator("ha-service-picker ha-picker-field").click()
    search = page.locator("ha-picker-combo-box input")
    search.fill(f"home_agent.{action}")
    page.wait_for_timeout(600)
    search.press("Enter")
    expect(page.get_by_text(f"home_agent.{action}").first).to_be_visible()


def test_search_by_the_form_of_the_action(house: House, open_page: OpenPage) -> None:
    """The answer lists what fits."""
    house.set_up()
    page = open_page(ACTIONS)
    open_action(page, "search_entities")
    row = page.locator("ha-settings-row").filter(has_text="What to search for")
    row.locator("input").fill("something to read by")
    page.get_by_role("button", name="Perform action").click()
    expect(page.get_by_text("light.reading_lamp").first).to_be_visible()
    page.get_by_text("light.reading_lamp").first.scroll_into_view_if_needed()


@pytest.mark.parametrize(
    ("action", "is_done"),
    [
        ("load_model", lambda house: house.ollama.loaded("llama3.2:70b")),
        ("unload_model", lambda house: not house.ollama.loaded("llama3.2:3b")),
        ("reindex", lambda house: house.ollama.sent("/api/embed")),
    ],
)
def test_the_forms_of_the_other_actions(
    house: House,
    open_page: OpenPage,
    action: str,
    is_done: Callable[[House], Any],
) -> None:
    """Without a choice, an action is for all models."""
    house.set_up()
    house.wait_until(lambda: house.ollama.loaded("llama3.2:3b") is not None)
    house.soon(house.ollama.requests.clear)
    page = open_page(ACTIONS)
    open_action(page, action)
    page.get_by_role("button", name="Perform action").click()
    house.wait_until(lambda: bool(is_done(house)))
    assert Form(page).dialog.count() == 0
