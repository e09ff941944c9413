"""A real Chroma server on loopback, out of its wheel.

    python -m scripts.chroma_server --port 8000 --path /tmp/chroma

The server is in the wheel's library; Chroma's Python packages are not needed.
"""

import argparse
from pathlib import Path


def main() -> None:
    """Serve until killed."""
    # Chroma's own command does the same.
    import chromadb_rust_bindings  # noqa: PLC0415

    parser = argparse.ArgumentParser(description="A real Chroma server on loopback")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--path", type=Path, required=True)
    options = parser.parse_args()
    where = ["--host", "127.0.0.1", "--port", str(options.port)]
    chromadb_rust_bindings.cli(["chroma", "run", "--path", str(options.path), *where])


if __name__ == "__main__":
    main()
