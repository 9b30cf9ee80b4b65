"""Stage and pipeline code of the `smartwatch` workload: which exercise does the wearer do?

A stage input is one window of 2.56 s: {"acc": float32 [128, 3], "gyro": float32 [128, 3]}, raw. A prediction is
the number of an exercise, 0 to 6, as in EXERCISES. Plain Python and numpy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from watch_data import MODALITIES, WINDOW, load

EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
"""As the data set has them: pendulum, abduction, forward elevation, internal rotation, external rotation,
trapezius extension, upright row."""

Window = Mapping[str, NDArray[np.float32]]
Tensors = dict[str, NDArray[Any]]


class Recognise:
    """The only stage: window -> exercise. The variant's modalities decide which signals its model is given."""

    def __init__(self, context: Any) -> None:
        self._root = context.root
        self._modalities = context.modalities or MODALITIES

    def examples(self) -> list[tuple[Window, int]]:
        return labelled(self._root)

    def preprocess(self, inputs: Sequence[Window]) -> Tensors:
        return {name: np.stack([window[name] for window in inputs]) for name in self._modalities}

    def postprocess(self, inputs: Sequence[Window], outputs: Tensors) -> list[int]:
        return [int(exercise) for exercise in outputs["logits"].argmax(axis=1)]


class Smartwatch:
    """The pipeline: its requests are the stage's inputs, its answers the stage's predictions."""

    def __init__(self, context: Any) -> None:
        self._root = context.root

    def examples(self) -> list[tuple[Window, int]]:
        return labelled(self._root)

    def decode(self, tensors: Tensors) -> list[Window]:
        """{"acc": float32 [n, 128, 3], "gyro": the same} -> n windows."""
        for name in MODALITIES:
            signal = tensors[name]
            if signal.dtype != np.float32 or signal.shape[1:] != (WINDOW, 3):
                raise ValueError(f"{name} must be float32 [n, {WINDOW}, 3], got {signal.dtype} {list(signal.shape)}")
        return [dict(zip(MODALITIES, pair, strict=True)) for pair in zip(*map(tensors.get, MODALITIES), strict=True)]

    def encode(self, answers: Sequence[int]) -> Tensors:
        """{"exercise": int64 [n, 1]}"""
        return {"exercise": np.asarray(answers, np.int64).reshape(-1, 1)}


def labelled(root: Any) -> list[tuple[Window, int]]:
    """The windows of the three test persons. No model of this workload was trained on them."""
    windows = load(root / "prepared" / "data" / "test.npz")
    signals = windows.by_modality()
    return [
        ({name: signals[name][index] for name in MODALITIES}, int(label)) for index, label in enumerate(windows.labels)
    ]
