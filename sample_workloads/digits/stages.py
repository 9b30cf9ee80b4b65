"""What inferplan cannot know of this workload: where its labelled digits are, what an answer is, what is right.

A stage input is one digit, a uint8 array [28, 28] (ink is bright); a prediction is its label, an int in 0..9.
Plain Python and numpy: the profiler, the runner and a server can all run this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPE = (28, 28)

Image = NDArray[np.uint8]
Examples = list[tuple[Image, int]]


def labelled(root: Path) -> Examples:
    """The 1,000 test digits with their labels. No model of this workload was trained on them."""
    with np.load(root / "data" / "test.npz", allow_pickle=False) as data:
        images, labels = data["images"], data["labels"]
    return [(image, int(label)) for image, label in zip(images, labels, strict=True)]


def top1(predictions: Sequence[int], truths: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    """1.0 for each digit read rightly, 0.0 for each misread."""
    return {"top1": (np.asarray(predictions) == np.asarray(truths)).astype(np.float64)}


class Read:
    """The only stage: image -> label. Every model takes the pixels as they are, so little is left to do."""

    def __init__(self, context: Any) -> None:
        self.root: Path = context.root

    def examples(self) -> Examples:
        return labelled(self.root)

    def preprocess(self, inputs: Sequence[Image]) -> dict[str, Image]:
        return {"image": np.stack(inputs)}

    def postprocess(self, inputs: Sequence[Image], outputs: Mapping[str, NDArray[np.float32]]) -> list[int]:
        return [int(label) for label in outputs["logits"].argmax(axis=1)]

    def score(self, predictions: Sequence[int], truths: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        return top1(predictions, truths)


class Digits:
    """The pipeline: its requests are the stage's inputs, its answers the stage's predictions."""

    def __init__(self, context: Any) -> None:
        self.root: Path = context.root

    def examples(self) -> Examples:
        return labelled(self.root)

    def score(self, answers: Sequence[int], truths: Sequence[int]) -> dict[str, NDArray[np.float64]]:
        return top1(answers, truths)

    def decode(self, tensors: Mapping[str, NDArray[Any]]) -> list[Image]:
        """Served tensor `image` uint8 [n, 28, 28] -> n requests."""
        image = tensors["image"]
        if image.dtype != np.uint8 or image.shape[1:] != SHAPE:
            raise ValueError(f"image must be uint8 [n, 28, 28], got {image.dtype} {list(image.shape)}")
        return list(image)

    def encode(self, answers: Sequence[int]) -> dict[str, NDArray[np.int64]]:
        """n answers -> served tensor `label` int64 [n, 1]."""
        return {"label": np.asarray(answers, np.int64).reshape(-1, 1)}
