"""The time of a search over all vectors, compared with reading their bytes once.

    .venv/bin/python -m benchmarks.vector_search

Medians of searches and of passes over the vectors (numpy's maximum or sum, whichever
is faster), alternately; and the memory of each table as a multiple of the vectors'
bytes. Both tables are measured for all sizes; a store uses the compact one above
64 MiB. The last column is the share of an exact search's results that the compact
table finds.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
import time
import tracemalloc

import numpy as np

from custom_components.home_agent.vector_store.base import Vector
from custom_components.home_agent.vector_store.table import CompactTable, VectorTable

SIZES = (1_000, 10_000, 100_000)
DIMENSIONS = (384, 768)
ROUNDS = 40


def milliseconds[**P](
    function: Callable[P, object], *args: P.args, **kwargs: P.kwargs
) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    function(*args, **kwargs)
    return 1000 * (time.perf_counter() - started)


def filled_size(table: VectorTable, keys: list[str], vectors: Vector) -> int:
    """Fill a table, and return the bytes that it allocated for that."""
    tracemalloc.start()
    table.put(keys, vectors)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(3)
    print(
        "vectors | dimensions | one pass ms | exact ms | ratio | memory |"
        " compact ms | ratio | memory | recall@10"
    )
    for size in SIZES:
        for dimension in DIMENSIONS:
            # In clusters, as the embeddings of similar names are.
            centers = rng.normal(size=(size // 50, dimension))
            vectors = centers[rng.integers(0, size // 50, size)].astype(np.float32)
            vectors += rng.normal(scale=0.7, size=(size, dimension)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            keys = [f"light.entity_{number}" for number in range(size)]
            allowed = set(keys)
            exact = VectorTable()
            compact = CompactTable(partial(exact_vectors, vectors))
            sizes = [filled_size(table, keys, vectors) for table in (exact, compact)]
            times: dict[str, list[float]] = {"exact": [], "compact": [], "pass": []}
            same = []
            for _ in range(ROUNDS):
                noise = rng.normal(scale=0.03, size=dimension).astype(np.float32)
                query = vectors[rng.integers(size)] + noise
                query /= np.linalg.norm(query)
                for name, table in (("exact", exact), ("compact", compact)):
                    times[name].append(milliseconds(table.search, query, 10, allowed))
                times["pass"].append(
                    min(milliseconds(vectors.max), milliseconds(vectors.sum))
                )
                found = [
                    {key for key, _ in table.search(query, 10, allowed)}
                    for table in (exact, compact)
                ]
                same.append(len(found[0] & found[1]) / 10)
            read = median(times["pass"])
            cells = [f"{size} | {dimension} | {read:.3f}"]
            for name, own in zip(("exact", "compact"), sizes, strict=True):
                spent = median(times[name])
                cells.append(
                    f"{spent:.3f} | {spent / read:.2f} | {own / vectors.nbytes:.2f}"
                )
            print(" | ".join([*cells, f"{sum(same) / len(same):.3f}"]))


def exact_vectors(vectors: Vector, keys: list[str]) -> Vector:
    """Return the vectors of keys, as a store does from its file."""
    return vectors[[int(key.rpartition("_")[2]) for key in keys]]


if __name__ == "__main__":
    main()
