"""Serve a stand-in Ollama: python -m tests.servers --port 11434."""

import argparse
import asyncio

from .ollama import OllamaStandIn


async def serve(port: int, load_seconds: float) -> None:
    """Serve until interrupted."""
    server = await OllamaStandIn(load_seconds=load_seconds).start(port)
    print(f"stand-in Ollama at {server.url}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="A stand-in Ollama on loopback")
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--load-seconds", type=float, default=0)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.load_seconds))


if __name__ == "__main__":
    main()
