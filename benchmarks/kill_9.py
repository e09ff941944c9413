"""Kill a process that writes the index at random moments, and check the file.

    .venv/bin/python -m benchmarks.kill_9 [--times 200]

A child process adds, changes and removes entries, and reports each step that the
store has acknowledged. After a SIGKILL the file must open, with everything that was
acknowledged in it, and nothing that was removed.
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
    """Write until killed; report each acknowledged step to the pipe."""
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
    """Return the expected texts of the store after some steps."""
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
    """Kill the writer, check the file, repeat, and print the result."""
    parser = argparse.ArgumentParser(description="Kill a writer at random moments")
    parser.add_argument("--times", type=int, default=200)
    times: int = parser.parse_args().times
    chance = random.Random(4)  # noqa: S311 - random times, no secrets
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
            reported = b""
            while chunk := os.read(reader, 65536):
                reported += chunk
            os.close(reader)
            steps = len(reported) // 4
            acknowledged += steps
            store = SqliteVectorStore(path, "model")
            found = store.texts()
            # The step that was running is complete or absent.
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
