"""Kill a process that writes the index, at random moments, and look at what is left.

    .venv/bin/python -m benchmarks.kill_9 [--times 200]

A child writes batches, changes and removals, and tells each one that the store has
acknowledged. It is killed with SIGKILL; then the store must open, and everything that
was acknowledged must be there, and nothing that was removed.
"""

import argparse
import os
from pathlib import Path
import random
import signal
import tempfile
import time

import numpy as np

from custom_components.home_agent.vector_store.sqlite import SqliteVectorStore

BATCH = 8
LONGEST_LIFE = 0.08


def write(path: Path, pipe: int, start: int) -> None:
    """Write until killed; tell each step that is done."""
    store = SqliteVectorStore(path, "model")
    rng = np.random.default_rng(start)
    for step in range(start, start + 10_000):
        keys = [f"key {(step * BATCH + n) % 400}" for n in range(BATCH)]
        if step % 5 == 4:
            store.remove(keys)
        else:
            store.put(
                dict.fromkeys(keys, f"step {step}"),
                rng.normal(size=(BATCH, 64)).tolist(),
            )
        os.write(pipe, step.to_bytes(4))


def expected(known: dict[str, str], start: int, steps: int) -> dict[str, str]:
    """Return what is in the store after some steps."""
    result = dict(known)
    for step in range(start, start + steps):
        for n in range(BATCH):
            key = f"key {(step * BATCH + n) % 400}"
            if step % 5 == 4:
                result.pop(key, None)
            else:
                result[key] = f"step {step}"
    return result


def main() -> int:
    """Kill, look, and print what was found."""
    parser = argparse.ArgumentParser(description="Kill a writer at random moments")
    parser.add_argument("--times", type=int, default=200)
    times: int = parser.parse_args().times
    chance = random.Random(4)  # noqa: S311 - moments, not secrets
    lost = acknowledged = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index.db")
        known: dict[str, str] = {}
        start = 0
        for _ in range(times):
            reader, writer = os.pipe()
            if (child := os.fork()) == 0:
                write(path, writer, start)
                os._exit(0)
            os.close(writer)
            time.sleep(chance.uniform(0, LONGEST_LIFE))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            told = b""
            while chunk := os.read(reader, 65536):
                told += chunk
            os.close(reader)
            steps = len(told) // 4
            acknowledged += steps
            store = SqliteVectorStore(path, "model")
            found = store.texts()
            # The step that was under way is whole or not there at all.
            may_be = [expected(known, start, steps + more) for more in (0, 1)]
            if found not in may_be:
                lost += 1
            if found:
                assert store.search([1.0] * 64, 5, found)
            store.close()
            known, start = found, start + steps + (found != may_be[0])
        leftovers = [item.name for item in Path(folder).glob("*.corrupt")]
    print(
        f"{times} kills, {acknowledged} acknowledged steps, {lost} times something"
        f" was lost, {len(leftovers)} times the file could not be opened"
    )
    return int(bool(lost or leftovers))


if __name__ == "__main__":
    raise SystemExit(main())
