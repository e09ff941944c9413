"""Set-up, reconfiguration and subentries, clicked through as a user does it."""

from typing import Any

from playwright.sync_api import Page, expect
import pytest

from .conftest import OpenPage, take_picture
from .forms import Form
from .house import House

INTEGRATION = "/config/integrations/integration/home_agent"
KEEP_ALIVE = "Keep in memory (keep_alive)"
SECTIONS = {
    "External LLM": "llama3.2:70b",
    "Embedding model": "nomic-embed-text:latest",
}


def open_models_step(house: House, open_page: OpenPage) -> tuple[Page, Form]:
    """Begin to add the integration, up to the step that asks for the models."""
    page = open_page("/config/integrations/dashboard/add?domain=home_agent")
    page.get_by_role("button", name="OK").click()
    form = Form(page)
    form.expect_step("Model server")
    form.write("llm_base_url", f"{house.ollama.url}/v1")
    form.submit()
    form.expect_step("Models")
    return page, form


def stored(house: House) -> dict[str, dict[str, Any]]:
    """Return the settings of all subentries, by type."""
    (entry,) = house.entries()
    path = f"/api/diagnostics/config_entry/{entry['entry_id']}"
    subentries = house.get(path)["data"]["subentries"]
    return {item["type"]: item["data"] for item in subentries}


def test_add_the_integration(house: House, open_page: OpenPage) -> None:
    """All three keep_alives of the dialog are stored, and reach the server."""
    page, form = open_models_step(house, open_page)
    form.choose("Model", "llama3.2:3b")
    form.choose(KEEP_ALIVE, "-1")
    form.choose("Model", "llama3.2:70b", "External LLM")
    form.choose(KEEP_ALIVE, "2m", "External LLM")
    form.choose("Model", "nomic-embed-text:latest", "Embedding model")
    form.choose(KEEP_ALIVE, "10m", "Embedding model")
    form.submit()
    form.expect_step("Name and assign")
    found = stored(house)
    assert found["conversation"]["llm_keep_alive"] == "-1"
    assert found["external_llm"]["external_llm_keep_alive"] == "2m"
    assert found["embedding"]["embedding_keep_alive"] == "10m"
    names = "llama3.2:3b", "llama3.2:70b", "nomic-embed-text:latest"
    house.wait_until(lambda: all(house.ollama.loaded(name) for name in names))
    take_picture(page, "name_and_assign")
    page.get_by_role("button", name="Skip and finish").click()
    expect(page.get_by_text("4 services")).to_be_visible()


@pytest.mark.parametrize("section", [None, *SECTIONS])
def test_a_refused_keep_alive(
    house: House, open_page: OpenPage, section: str | None
) -> None:
    """The error is at the field, or at the section that the field is in."""
    _, form = open_models_step(house, open_page)
    form.choose("Model", "llama3.2:3b")
    if section:
        model = (
            "llama3.2:70b" if section == "External LLM" else "nomic-embed-text:latest"
        )
        form.choose("Model", model, section)
    form.choose(KEEP_ALIVE, "two fortnights", section)
    form.submit()
    prefix = f"{section}: " if section else ""
    message = f"{prefix}This is not a valid keep_alive."
    form.expect_text(message)
    form.dialog.get_by_text(message).first.scroll_into_view_if_needed()
    field = form.field(KEEP_ALIVE, section).locator("ha-picker-field")
    expect(field).to_contain_text("two fortnights")
    assert house.entries() == []


def test_reconfiguring_without_changes(house: House, open_page: OpenPage) -> None:
    """Nothing changes that was not changed."""
    house.set_up()
    before = house.entries(), house.subentries(), stored(house)
    page = open_page(INTEGRATION)
    form = Form(page)
    for title in ("conversation agent", "external LLM", "embedding model"):
        page.get_by_role("button", name=f"Reconfigure {title}").click()
        if title != "conversation agent":
            form.expect_step("Server")
            form.submit()
        form.expect_step(f"{title[0].upper()}{title[1:]}")
        form.submit()
        done = form.dialog.get_by_text("Reconfiguration was successful")
        expect(done).to_be_visible()
        form.dialog.get_by_role("button", name="Close").last.click()
        expect(done).to_be_hidden()
    assert [entry["state"] for entry in house.entries()] == ["loaded"]
    assert house.subentries() == before[1]
    # The defaults that the dialogs show are stored too.
    for kind, settings in stored(house).items():
        assert before[2][kind].items() <= settings.items()
    assert house.entries()[0]["title"] == before[0][0]["title"]


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("conversation agent", "qwen3:8b"),
        ("external LLM", "llama3.2:70b"),
        ("embedding model", "nomic-embed-text:latest"),
    ],
)
def test_add_and_remove_a_subentry(
    house: House, open_page: OpenPage, title: str, model: str
) -> None:
    """Each kind can be added, is shown, and can be removed."""
    house.set_up({"llm_model": "llama3.2:3b"})
    page = open_page(INTEGRATION)
    form = Form(page)
    page.get_by_role("button", name=f"Add {title}").click()
    if title != "conversation agent":
        form.expect_step("Server")
        form.submit()
    form.expect_step(f"{title[0].upper()}{title[1:]}")
    form.choose("Model", model)
    form.choose(KEEP_ALIVE, "20m")
    form.submit()
    form.expect_text("Success")
    page.get_by_role("button", name="Finish").click()
    assert len(house.subentries()) == 2
    row = page.locator("ha-config-sub-entry-row").filter(has_text=model).last
    row.get_by_role("button", name="Menu").first.click()
    page.get_by_text("Delete", exact=True).locator("visible=true").first.click()
    page.get_by_role("button", name="Delete").last.click()
    house.wait_until(lambda: len(house.subentries()) == 1)
