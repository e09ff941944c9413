"""What a poll costs Home Assistant's event loop.

    .venv/bin/python -m benchmarks.poll_cost

Three roles with all their entities on one Ollama (a stand-in, in a process of its
own). Prints the processor time of the loop's thread for a poll in which nothing has
changed and for one in which a model has come or gone, as medians, and the time from
the request to the answer beside it.
"""

import asyncio
from statistics import median
import subprocess
import sys
import time
from typing import Any

from homeassistant import loader
from homeassistant.config_entries import ConfigSubentryData
from homeassistant.core import HomeAssistant
from homeassistant.helpers import frame
from homeassistant.setup import async_setup_component

import tests.ha_2026_11  # isort: skip - before the plugin
from pytest_homeassistant_custom_component.common import (
    MockConfigEntry,
    async_test_home_assistant,
)

import custom_components.home_agent
from custom_components.home_agent.const import DOMAIN
from custom_components.home_agent.servers.messages import LoadRequest

assert tests.ha_2026_11
assert custom_components.home_agent

PORT = 11991
POLLS = 300


def subentry(kind: str, data: dict[str, Any]) -> ConfigSubentryData:
    """Return a subentry whose model is not loaded ahead."""
    role = "llm" if kind == "conversation" else kind
    data = {f"{role}_{key}": value for key, value in data.items()}
    data[f"{role}_warm_up"] = False
    return ConfigSubentryData(subentry_type=kind, title=kind, unique_id=None, data=data)


async def measure(hass: HomeAssistant) -> None:
    """Print the table."""
    hass.data.pop(loader.DATA_CUSTOM_COMPONENTS, None)
    for component in ("homeassistant", "intent", "llm", "conversation"):
        assert await async_setup_component(hass, component, {})
    entry = MockConfigEntry(
        domain=DOMAIN,
        version=2,
        data={"llm_base_url": f"http://127.0.0.1:{PORT}"},
        subentries_data=[
            subentry("conversation", {"model": "llama3.2:3b", "keep_alive": "-1"}),
            subentry("external_llm", {"model": "llama3.2:70b"}),
            subentry("embedding", {"model": "nomic-embed-text"}),
        ],
    )
    entry.add_to_hass(hass)
    assert await hass.config_entries.async_setup(entry.entry_id)
    await hass.async_block_till_done(wait_background_tasks=True)
    (coordinator,) = entry.runtime_data.coordinators.values()
    entities = sum(s.domain != "conversation" for s in hass.states.async_all())
    residency = next(iter(entry.runtime_data.residencies.values()))
    print(f"{entities} entities, medians in milliseconds of {POLLS} polls")
    for name in ("nothing has changed", "a model has come or gone"):
        busy, waited = [], []
        for number in range(POLLS):
            if name.startswith("a model"):
                server = await residency.role.server()
                if number % 2:
                    await server.unload(residency.role.model)
                else:
                    await server.load(
                        LoadRequest(
                            model=residency.role.model, keep_alive=residency.keep_alive
                        )
                    )
            cpu, clock = time.thread_time(), time.perf_counter()
            await coordinator.async_refresh()
            busy.append(1000 * (time.thread_time() - cpu))
            waited.append(1000 * (time.perf_counter() - clock))
        print(f"{name}: {median(busy):.2f} of the loop, {median(waited):.2f} in all")
    await hass.config_entries.async_unload(entry.entry_id)


async def until_it_listens() -> None:
    """Wait until the server accepts connections."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", PORT)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


async def main() -> None:
    """Run beside a server of its own."""
    command = [sys.executable, "-m", "tests.servers", "--port", str(PORT)]
    server = subprocess.Popen(  # noqa: S603, ASYNC220 - our own module, at the start
        command, stdout=subprocess.DEVNULL
    )
    try:
        await until_it_listens()
        async with async_test_home_assistant() as hass:
            asyncio.get_running_loop().set_debug(False)
            frame.async_setup(hass)
            await measure(hass)
            await hass.async_stop(force=True)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    asyncio.run(main())
