"""How long a search takes, against reading the same bytes once.

    .venv/bin/python -m benchmarks.vector_search

Medians of searches and of passes over the vectors (the fastest of numpy's maximum
and its sum), in turns; and the memory beside the vectors' own.
"""

from statistics import median
import time
import tracemalloc

import numpy as np

from custom_components.home_agent.vector_store.table import VectorTable

SIZES = (1_000, 10_000, 100_000)
DIMENSIONS = (384, 768)
ROUNDS = 40


def milliseconds(function: object, *args: object) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    function(*args)  # type: ignore[operator]
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(3)
    print("vectors | dimensions | search ms | one pass ms | ratio | memory ratio")
    for size in SIZES:
        for dimension in DIMENSIONS:
            vectors = rng.normal(size=(size, dimension)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            keys = [f"light.entity_{number}" for number in range(size)]
            allowed = set(keys)
            tracemalloc.start()
            table = VectorTable()
            table.put(keys, vectors)
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            searches, passes = [], []
            matrix = table._matrix[:size]
            for _ in range(ROUNDS):
                query = rng.normal(size=dimension).astype(np.float32)
                query /= np.linalg.norm(query)
                searches.append(milliseconds(table.search, query, 10, allowed))
                passes.append(min(milliseconds(matrix.max), milliseconds(matrix.sum)))
            search, read = median(searches), median(passes)
            print(
                f"{size} | {dimension} | {search:.3f} | {read:.3f} |"
                f" {search / read:.2f} | {held / vectors.nbytes:.2f}"
            )


if __name__ == "__main__":
    main()
