"""Stage and pipeline code of the `sentiment` workload: does a sentence of a film review praise or blame?

A stage input is a text; a prediction is 1 where it is positive, 0 where it is negative. Needs numpy and
tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentiment_data import Encoder, load

Tensors = dict[str, NDArray[Any]]


class Judge:
    """The only stage: text -> 0 or 1.

    Params: tokenizer = its file; tokens = how many tokens of a text the model is given (32), the rest is cut off;
    pad = "full" to fill shorter texts up to that number, "longest" to that of the longest text of the batch.
    """

    def __init__(self, context: Any) -> None:
        self._root: Path = context.root
        self._params: Mapping[str, Any] = context.params
        self._full = {"full": True, "longest": False}.get(self._params.get("pad", "full"))
        if self._full is None:
            raise ValueError(f"params.pad: expected full or longest, got {self._params['pad']!r}")
        self._encoder: Encoder | None = None

    def examples(self) -> list[tuple[str, int]]:
        return labelled(self._root)

    def preprocess(self, inputs: Sequence[str]) -> Tensors:
        if self._encoder is None:
            file = self._root / str(self._params["tokenizer"])
            self._encoder = Encoder(file, int(self._params.get("tokens", 32)))
        return {"ids": self._encoder(inputs, self._full)}

    def postprocess(self, inputs: Sequence[str], outputs: Tensors) -> list[int]:
        (logits,) = outputs.values()  # its name differs between runtimes
        return [int(label) for label in logits.argmax(axis=1)]


class Sentiment:
    """The pipeline: its requests are the stage's inputs, its answers the stage's predictions."""

    def __init__(self, context: Any) -> None:
        self._root: Path = context.root

    def examples(self) -> list[tuple[str, int]]:
        return labelled(self._root)

    def decode(self, tensors: Tensors) -> list[str]:
        """{"text": strings [n, 1]} -> n texts."""
        texts = tensors["text"]
        if texts.ndim != 2 or texts.shape[1] != 1:
            raise ValueError(f"text must be strings [n, 1], got {list(texts.shape)}")
        return [text.decode() if isinstance(text, bytes) else str(text) for text in texts[:, 0]]

    def encode(self, answers: Sequence[int]) -> Tensors:
        """{"positive": int64 [n, 1]}"""
        return {"positive": np.asarray(answers, np.int64).reshape(-1, 1)}


def labelled(root: Path) -> list[tuple[str, int]]:
    """The test sentences. No net of this workload was trained on them, nor on one near to them."""
    sentences = load(root / "prepared" / "data" / "test.json")
    return [(sentence.text, sentence.label) for sentence in sentences]
