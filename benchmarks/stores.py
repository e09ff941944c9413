"""The time of a search in the embedded store and on a Chroma server.

    .venv/bin/python -m benchmarks.stores

Both stores hold the same 20,000 vectors of 384 numbers and are searched alternately;
Chroma runs on loopback. The medians of the time from the question's vector to the
keys, and the share of the ten nearest keys that each finds.
"""

import asyncio
from pathlib import Path
import socket
from statistics import median
import subprocess
import sys
import tempfile
import time

import aiohttp
import numpy as np

from custom_components.home_agent.servers.errors import CannotConnect
from custom_components.home_agent.vector_store.base import VectorStore
from custom_components.home_agent.vector_store.chroma import ChromaStore
from custom_components.home_agent.vector_store.embedded import EmbeddedStore

COUNT, DIMENSION, ROUNDS, BATCH = 20_000, 384, 40, 2_000


async def open_chroma(session: aiohttp.ClientSession, url: str) -> ChromaStore:
    """Return the store, as soon as the server answers."""
    while True:
        try:
            return await ChromaStore.open(session, url, None, "bench", "model")
        except CannotConnect:
            await asyncio.sleep(0.1)


async def run(folder: Path) -> None:
    """Print the table."""
    rng = np.random.default_rng(7)
    centers = rng.normal(size=(COUNT // 50, DIMENSION))
    vectors = centers[rng.integers(0, len(centers), COUNT)]
    vectors = vectors + rng.normal(scale=0.7, size=vectors.shape)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["-m", "scripts.chroma_server", "--port", port, "--path", str(folder)]
    server = subprocess.Popen(  # noqa: S603, ASYNC220 - our own module, at the start
        [sys.executable, *command], stdout=subprocess.DEVNULL
    )
    async with aiohttp.ClientSession() as session:
        stores: dict[str, VectorStore] = {
            "file": await EmbeddedStore.open(folder / "index.db", "model"),
            "Chroma": await open_chroma(session, f"http://127.0.0.1:{port}"),
        }
        for name, store in stores.items():
            started = time.perf_counter()
            for start in range(0, COUNT, BATCH):
                keys = [str(number) for number in range(start, start + BATCH)]
                rows = vectors[start : start + BATCH].tolist()
                await store.put(dict.fromkeys(keys, "text"), rows)
            print(f"{name}: {COUNT} written in {time.perf_counter() - started:.1f} s")
        allowed = {str(number) for number in range(COUNT)}
        times: dict[str, list[float]] = {name: [] for name in stores}
        found: dict[str, list[set[str]]] = {name: [] for name in stores}
        for _ in range(ROUNDS):
            noise = rng.normal(scale=0.03, size=DIMENSION)
            question = (vectors[rng.integers(COUNT)] + noise).tolist()
            for name, store in stores.items():
                started = time.perf_counter()
                best = await store.search(question, 10, allowed)
                times[name].append(1000 * (time.perf_counter() - started))
                found[name].append({key for key, _ in best})
        for name, exact in (("file", "file"), ("Chroma", "file")):
            same = zip(found[name], found[exact], strict=True)
            recall = sum(len(one & two) for one, two in same) / 10 / ROUNDS
            print(f"{name}: {median(times[name]):.2f} ms, recall@10 {recall:.3f}")
        await stores["file"].close()
    server.kill()
    server.wait()


def main() -> None:
    """Run in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


if __name__ == "__main__":
    main()
