"""The pictures of the README: cp .browser/tour_*.png docs/images/."""

from pathlib import Path

from playwright.sync_api import ViewportSize, expect

from .conftest import OpenPage, take_picture
from .forms import Form
from .house import House
from .test_use import ask, device_id

SIZE: ViewportSize = {"width": 1100, "height": 760}
TALL: ViewportSize = {"width": 1100, "height": 1000}
PHONE: ViewportSize = {"width": 430, "height": 860}
# So that a page of GitHub loads quickly.
MAX_BYTES = 150_000


def is_small(picture: Path) -> bool:
    """Return whether a picture may be part of the README."""
    return picture.stat().st_size < MAX_BYTES


def test_answer(house: House, open_page: OpenPage) -> None:
    """Commands, questions and what follows from them."""
    house.set_up()
    house.make_assistant()
    page = open_page("/", viewport=PHONE)
    answers = page.locator("ha-assist-chat .message.hass")
    for number, (sentence, answer) in enumerate(
        (
            ("is any window open?", "Bedroom Window is open"),
            ("what is the temperature in the bedroom?", "19.5"),
            ("and in the office?", "22.1"),
            ("close all blinds on the ground floor", "Living Room Blinds"),
        )
    ):
        ask(page, sentence)
        expect(answers).to_have_count(number + 2)
        expect(answers.last).to_contain_text(answer)
    assert house.state("cover.living_room_blinds") == "closed"
    assert house.command("repairs/list_issues") == {"issues": []}
    assert is_small(take_picture(page, "tour_answer"))


def test_device(house: House, open_page: OpenPage) -> None:
    """What is known about a model in memory."""
    house.set_up()
    house.ask("turn on the reading lamp")
    house.wait_until(lambda: house.state("sensor.home_agent_model_status") == "loaded")
    path = f"/config/devices/device/{device_id(house, 'Home Agent')}"
    page = open_page(path, viewport=TALL)
    expect(page.get_by_text("Time to first token").first).to_be_visible()
    expect(page.get_by_text("Never").first).to_be_visible()
    assert is_small(take_picture(page, "tour_device"))


def test_repair(house: House, open_page: OpenPage) -> None:
    """A setting that cannot work, and its fix."""
    house.set_up()
    house.wait_until(lambda: house.ollama.loaded("llama3.2:3b") is not None)
    house.reconfigure(
        "external_llm",
        external_llm_model="llama3.2:3b",
        external_llm_keep_alive="2m",
    )
    house.wait_until(lambda: "keep_alive_differs" in house.issues())
    page = open_page("/config/repairs", viewport=SIZE)
    page.get_by_text("Different keep_alives for").first.click()
    Form(page).expect_text("is used with different keep_alives")
    assert is_small(take_picture(page, "tour_repair"))


def test_retrieval(house: House, open_page: OpenPage) -> None:
    """What a search by meaning finds for a question."""
    house.set_up()
    house.reconfigure("conversation", entity_mode="retrieval")
    house.wait_until(lambda: house.search("lamp")["mode"] == "hybrid")
    house.make_assistant()
    page = open_page("/", viewport=PHONE)
    ask(page, "find something to read by")
    answer = page.locator("ha-assist-chat .message.hass").last
    expect(answer).to_contain_text("I found Reading Lamp")
    page.get_by_text("Show details").click()
    expect(answer).to_contain_text("search_entities")
    assert is_small(take_picture(page, "tour_retrieval"))
