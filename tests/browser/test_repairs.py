"""Repairs, raised by their cause and fixed on the page of repairs."""

import re
import time
from typing import Any

from playwright.sync_api import Page, expect
import pytest

from ..servers import StandInModel
from ..servers.others import LlamaCppStandIn
from ..servers.stand_in import Fault
from .conftest import OpenPage, take_picture
from .forms import Form
from .house import FLOW, House

PRIMARY = "llama3.2:3b"


def open_repair(
    house: House, open_page: OpenPage, key: str, title: str
) -> tuple[Page, Form]:
    """Open the dialog of a repair that has come."""
    house.wait_until(lambda: key in house.issues())
    page = open_page("/config/repairs")
    page.locator("ha-list-item, ha-md-list-item, ha-list-item-button").filter(
        has_text=title
    ).first.click()
    return page, Form(page)


def fix(house: House, page: Page, form: Form, key: str) -> None:
    """Save a picture of the dialog, submit it, and wait until the repair is gone."""
    # The text comes a moment after the fields.
    form.expect_text(re.compile("Select Submit|larger context|one size for all"))
    take_picture(page, f"repair_{key}")
    form.submit()
    form.expect_text("The issue is repaired")
    house.wait_until(lambda: key not in house.issues())


def test_different_keep_alives(house: House, open_page: OpenPage) -> None:
    """The fix sets the longer one for both roles."""
    external = {"external_llm_model": PRIMARY, "external_llm_keep_alive": "2m"}
    house.set_up(
        {"llm_model": PRIMARY, "llm_keep_alive": "-1", "external_llm": external}
    )
    key = "keep_alive_differs"
    page, form = open_repair(house, open_page, key, "Different keep_alives for")
    fix(house, page, form, key)


def test_a_refused_keep_alive_of_a_request(house: House, open_page: OpenPage) -> None:
    """The fix removes the setting."""
    house.set_up({"llm_model": PRIMARY, "llm_keep_alive": "1h"})
    house.ask("hello")
    error = 'time: invalid duration "1h"'
    house.ollama.faults.append(Fault(status=400, body={"error": error}))
    house.ask("hello")
    key = "keep_alive_refused"
    page, form = open_repair(house, open_page, key, f"The keep_alive of {PRIMARY}")
    form.expect_text(error)
    fix(house, page, form, key)


def test_a_missing_model(house: House, open_page: OpenPage) -> None:
    """The fix downloads the model."""
    house.set_up({"llm_model": PRIMARY, "llm_keep_alive": "5m"})
    # A model that is loaded and has answered is deleted.
    house.ask("hello")
    del house.ollama.models[PRIMARY]
    house.ollama.library[PRIMARY] = StandInModel(PRIMARY)
    house.ask("hello")
    key = "model_missing"
    title = f"The model {PRIMARY} is missing"
    page, form = open_repair(house, open_page, key, title)
    fix(house, page, form, key)
    assert PRIMARY in house.ollama.models


def test_different_context_sizes(house: House, open_page: OpenPage) -> None:
    """The fix sets one size for both roles."""
    house.set_up(
        {"llm_model": PRIMARY, "external_llm": {"external_llm_model": PRIMARY}}
    )
    house.reconfigure("external_llm", external_llm_num_ctx=16384)
    key = "num_ctx"
    page, form = open_repair(house, open_page, key, "Different context sizes for")
    fix(house, page, form, key)


def test_a_prompt_that_is_too_long(house: House, open_page: OpenPage) -> None:
    """The fix makes the context larger."""
    house.set_up({"llm_model": PRIMARY})
    house.reconfigure("conversation", llm_num_ctx=1024)
    house.ask("hello")
    key = "prompt_too_long"
    page, form = open_repair(house, open_page, key, "is too long")
    fix(house, page, form, key)


def test_a_keep_alive_without_effect(house: House, open_page: OpenPage) -> None:
    """It is left over from another server; the fix removes it."""
    house.set_up({"llm_model": PRIMARY, "llm_keep_alive": "1h"})
    server = LlamaCppStandIn()
    house.run(server.start())
    (entry,) = house.entries()
    start = {"handler": "home_agent", "entry_id": entry["entry_id"]}
    form = house.post(FLOW, start)
    house.post(f"{FLOW}/{form['flow_id']}", {"llm_base_url": server.url})
    key = "no_effect"
    page, dialog = open_repair(house, open_page, key, "keep_alive has no effect")
    fix(house, page, dialog, key)
    house.run(server.stop())


def test_a_server_that_is_too_small(house: House, open_page: OpenPage) -> None:
    """The user decides what to do: there is nothing to submit."""
    house.run(house.ollama.stop())
    house.start_server(max_models=1)
    house.set_up()
    key = "models_do_not_fit_by_hand"
    page, _ = open_repair(house, open_page, key, "cannot keep all models in memory")
    expect(page.get_by_text("OLLAMA_MAX_LOADED_MODELS").first).to_be_visible()


def test_another_program_sets_another_keep_alive(
    house: House, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three turns in a row."""
    house.set_up({"llm_model": PRIMARY, "llm_keep_alive": "1h"})
    memory = house.ollama.memory
    honored = memory._start_timer

    def start_timer(resident: Any) -> None:
        resident.seconds = 300
        honored(resident)

    monkeypatch.setattr(memory, "_start_timer", start_timer)
    key = "not_held_by_hand"
    for _ in range(6):
        house.ask("hello")
        # The server is polled a moment after an answer.
        time.sleep(1)
    page, _ = open_repair(house, open_page, key, "is not kept for its keep_alive")
    expect(page.get_by_text("something else uses the same model").first).to_be_visible()
