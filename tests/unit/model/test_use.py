"""Tests of how the uses of models are stored."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

from homeassistant.core import HomeAssistant
from homeassistant.setup import async_setup_component
import pytest

from custom_components.home_agent.keep_alive import KeepAlive
from custom_components.home_agent.model.shared_model import ModelUser
from custom_components.home_agent.model.use import (
    STORAGE_KEY,
    ModelUse,
    model_uses,
)
from custom_components.home_agent.servers.errors import (
    CannotConnect,
    ConnectionLost,
    ConnectionRefused,
    ModelServerError,
    RequestRefused,
    ServerTimedOut,
)
from tests.conftest import MakeEntry, call_action, say
from tests.servers import OllamaStandIn

GOOD = {"uses": [[1e9, 1e9 + 1, 1]], "loads": [2.0], "characters_per_token": 3.5}


@pytest.mark.parametrize(
    "odd",
    [
        None,
        {},
        [],
        GOOD | {"uses": None},
        GOOD | {"uses": [["x", "y", "z"]]},
        GOOD | {"uses": [[1]]},
        GOOD | {"loads": ["x"]},
    ],
)
async def test_an_unreadable_history_stops_nothing(
    hass: HomeAssistant, hass_storage: dict[str, Any], odd: Any
) -> None:
    """The other models keep theirs, and the integration is set up."""
    data = {"http://a:1 odd": odd, "http://a:1 good": GOOD}
    hass_storage[STORAGE_KEY] = {"version": 1, "minor_version": 1, "data": data}
    uses = model_uses(hass)
    await uses.async_load()
    assert uses.async_get("http://a:1", "odd").history.is_empty
    assert not uses.async_get("http://a:1", "good").history.is_empty


async def test_a_stored_address_that_is_no_address_stops_nothing(
    hass: HomeAssistant, hass_storage: dict[str, Any]
) -> None:
    """The other models keep their histories."""
    odd = ("http://[::1 odd", "http://h:99999 odd", "", " ")
    data = {**dict.fromkeys(odd, GOOD), "http://a:1 good": GOOD}
    hass_storage[STORAGE_KEY] = {"version": 1, "minor_version": 1, "data": data}
    uses = model_uses(hass)
    await uses.async_load()
    assert not uses.async_get("http://a:1", "good").history.is_empty


@pytest.mark.parametrize("version", [1, 99])
async def test_a_store_that_cannot_be_read_stops_nothing(
    hass: HomeAssistant, hass_storage: dict[str, Any], version: int
) -> None:
    """A list, or the store of a later version."""
    hass_storage[STORAGE_KEY] = {"version": version, "minor_version": 1, "data": []}
    await model_uses(hass).async_load()


def test_an_unload_is_forgotten_when_the_model_is_wanted_again(
    hass: HomeAssistant,
) -> None:
    """Else a later eviction would count as the unload that the user asked for."""
    use = model_uses(hass).async_get("http://a:1", "model")
    use.unload_requested = True
    with use.count_request():
        assert not use.unload_requested


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "[1]",
        '"x"',
        "5",
        "null",
        "{}",
        '{"version": 1}',
        '{"version": "1", "data": {}}',
        '{"version": 1, "data": 5}',
        '{"version": 1, "data": {"http://[ x": {}}}',
        '{"version": 1, "data": {"http://a:1 x": {"uses": [[1e400, 1, 1]]}}}',
        '{"version": 0, "minor_version": 1, "data": {}}',
        "{",
    ],
)
async def test_a_file_of_another_shape_stops_nothing(
    home: HomeAssistant, tmp_path: Path, text: str
) -> None:
    """Whatever has written the file, the integration is set up."""
    folder = tmp_path / ".storage"
    folder.mkdir(exist_ok=True)
    (folder / STORAGE_KEY).write_text(text)
    assert await async_setup_component(home, "home_agent", {})
    assert model_uses(home).async_get("http://a:1", "x").history.is_empty


async def test_the_history_goes_with_its_entry(
    home: HomeAssistant,
    ollama: OllamaStandIn,
    make_entry: MakeEntry,
    hass_storage: dict[str, Any],
) -> None:
    """That of a model that another entry uses stays."""
    first = await make_entry(ollama.url, conversation={}, embedding={})
    second = await make_entry(f"{ollama.url}/v1", conversation={})
    await say(home, "Hello")
    await call_action(home, "search_entities", query="lamp")
    await home.config_entries.async_remove(first.entry_id)
    data = hass_storage[STORAGE_KEY]["data"]
    assert [key.rpartition("/")[2] for key in data] == ["llama3.2:3b"]
    await home.config_entries.async_remove(second.entry_id)
    assert hass_storage[STORAGE_KEY]["data"] == {}


def user(subentry_id: str, keep_alive: str) -> ModelUser:
    """Return a role that uses a model."""
    return ModelUser(subentry_id, subentry_id, KeepAlive.parse(keep_alive), None)


@pytest.mark.parametrize(
    "name",
    [
        "llama3.2:latest",
        "LLAMA3.2",
        "library/llama3.2",
        "registry.ollama.ai/library/llama3.2",
    ],
)
def test_names_of_one_model(hass: HomeAssistant, name: str) -> None:
    """Ollama finds one model by all of them."""
    uses = model_uses(hass)
    assert uses.async_get("http://a:1", name) is uses.async_get(
        "http://a:1", "llama3.2"
    )


def test_other_models_and_servers(hass: HomeAssistant) -> None:
    """Another tag, another namespace and another server are other models."""
    uses = model_uses(hass)
    own = uses.async_get("http://a:1", "llama3.2")
    for url, name in (
        ("http://a:1", "llama3.2:3b"),
        ("http://a:1", "somebody/llama3.2"),
        ("http://a:2", "llama3.2"),
    ):
        assert uses.async_get(url, name) is not own


@pytest.mark.parametrize(
    ("own", "others", "sent"),
    [
        ("5m", [], "5m"),
        ("5m", ["-1"], "-1"),
        ("-1", ["5m", "0"], "-1"),
        ("0", ["0"], "0"),
        ("0", ["1s"], "1s"),
        ("1800s", ["30m"], "1800s"),
        ("5m", ["0.5h", "20m"], "0.5h"),
    ],
)
def test_the_longest_keep_alive_is_sent(own: str, others: list[str], sent: str) -> None:
    """The value of the role itself may be replaced for one request."""
    use = ModelUse()
    use.add_user(user("own", "10h"))
    for number, text in enumerate(others):
        use.add_user(user(str(number), text))
    assert use.shared.to_send(KeepAlive.parse(own), "own").text == sent


@pytest.mark.parametrize(
    "err",
    [
        CannotConnect("host"),
        ConnectionRefused("host"),
        RequestRefused("host", status=400),
        ModelServerError("host", status=500),
    ],
)
def test_a_request_that_is_refused_sets_no_keep_alive(err: ModelServerError) -> None:
    """It has not reached the server, or the server has answered with an error."""
    use = ModelUse()
    with (
        pytest.raises(ModelServerError),
        use.count_request(KeepAlive.parse("5m")),
    ):
        raise err
    assert use.shared.sent is None
    assert use.last_answered is None
    with use.count_request(KeepAlive.parse("5m")):
        pass
    assert use.shared.sent == KeepAlive.parse("5m")
    assert use.last_answered == use.last_ended


@pytest.mark.parametrize(
    "err", [asyncio.CancelledError(), ConnectionLost("host"), ServerTimedOut("host")]
)
def test_a_request_without_an_answer_has_set_its_keep_alive(
    err: BaseException,
) -> None:
    """A server counts from when its client hangs up."""
    use = ModelUse()
    with (
        pytest.raises(type(err)),
        use.count_request(KeepAlive.parse("5m"), is_configured=True),
    ):
        raise err
    assert use.shared.sent == KeepAlive.parse("5m")
    assert use.last_answered is None


def test_a_change_while_a_request_runs_is_no_change_that_was_sent() -> None:
    """The request has begun with what was configured before."""
    use = ModelUse()
    remove = use.add_user(user("own", "5m"))
    with use.count_request(KeepAlive.parse("5m")):
        remove()
        use.add_user(user("own", "-1"))
    assert use.shared.has_changed()


def test_an_unanswered_request_with_an_old_value() -> None:
    """The report of the server decides whether it has applied that."""
    use = ModelUse()
    use.add_user(user("own", "1m"))
    with use.count_request(KeepAlive.parse("1m"), is_configured=True):
        pass
    with (
        pytest.raises(ConnectionLost),
        use.count_request(KeepAlive.parse("-1"), is_configured=True),
    ):
        raise ConnectionLost("host")
    assert not use.shared.has_changed()
    use.shared.note_reported(timedelta.max)
    assert use.shared.has_changed()


@pytest.mark.parametrize(
    ("left", "is_changed"),
    [
        (None, False),
        (timedelta(seconds=10), False),
        (timedelta(minutes=5), False),
        (timedelta(minutes=6), True),
        (timedelta.max, True),
    ],
)
def test_what_a_server_reports_before_the_first_request(
    left: timedelta | None, is_changed: bool
) -> None:
    """Only a longer time is certainly not what is wanted now."""
    use = ModelUse()
    use.add_user(user("own", "5m"))
    use.shared.note_reported(left)
    assert use.shared.has_changed() is is_changed
    assert use.shared.sent is None
