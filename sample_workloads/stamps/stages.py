"""Stage and pipeline code of the `stamps` workload: what kind of thing is this?

A stage input is one stamp: {"image": uint8 [260, 260, 3], "text": its English caption, "audio": int16 [40000], its
caption spoken in French, 16 kHz}. A prediction is the number of a class, 0 to 9, as in CLASSES. Needs numpy,
Pillow and tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stamps_data import MODALITIES, SAMPLES, SIDE, Captions, Stamps, load, resized

Stamp = Mapping[str, Any]
Tensors = dict[str, NDArray[Any]]


class Classify:
    """The only stage: stamp -> class. The variant's modalities decide what its model is given.

    Params: side = pixels of the picture's side; tokenizer, tokens = its file, and how many tokens of a caption;
    samples = how many samples of a recording. What is longer is cut off.
    """

    def __init__(self, context: Any) -> None:
        self._root: Path = context.root
        self._params: Mapping[str, Any] = context.params
        self._modalities: tuple[str, ...] = tuple(context.modalities) or MODALITIES
        self._captions: Captions | None = None

    def examples(self) -> list[tuple[Stamp, int]]:
        return labelled(self._root, "test")

    def calibration(self) -> list[Stamp]:
        """Stamps that the heads were trained on."""
        return [stamp for stamp, _ in labelled(self._root, "train")]

    def preprocess(self, inputs: Sequence[Stamp]) -> Tensors:
        makers = {"image": self._image, "text": self._text, "audio": self._audio}
        return {name: makers[name]([stamp[name] for stamp in inputs]) for name in self._modalities}

    def postprocess(self, inputs: Sequence[Stamp], outputs: Tensors) -> list[int]:
        return [int(kind) for kind in outputs["logits"].argmax(axis=1)]

    def _image(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return resized(pictures, int(self._params["side"]))

    def _text(self, captions: Sequence[str]) -> NDArray[np.int64]:
        if self._captions is None:
            self._captions = Captions(self._root / str(self._params["tokenizer"]), int(self._params["tokens"]))
        return self._captions(captions)

    def _audio(self, recordings: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
        return np.stack([recording[: int(self._params["samples"])] for recording in recordings])


class StampsPipeline:
    """The pipeline: its requests are the stage's inputs, its answers the stage's predictions."""

    def __init__(self, context: Any) -> None:
        self._root: Path = context.root

    def examples(self) -> list[tuple[Stamp, int]]:
        return labelled(self._root, "test")

    def decode(self, tensors: Tensors) -> list[Stamp]:
        """{"image": uint8 [n, 260, 260, 3], "text": strings [n, 1], "audio": int16 [n, 40000]} -> n stamps."""
        for name, kind, shape in (("image", np.uint8, (SIDE, SIDE, 3)), ("audio", np.int16, (SAMPLES,))):
            found = tensors[name]
            if found.dtype != kind or found.shape[1:] != shape:
                wanted = f"{np.dtype(kind).name} [n, {', '.join(map(str, shape))}]"
                raise ValueError(f"{name} must be {wanted}, got {found.dtype} {list(found.shape)}")
        texts = tensors["text"]
        if texts.ndim != 2 or texts.shape[1] != 1:
            raise ValueError(f"text must be strings [n, 1], got {list(texts.shape)}")
        captions = [text.decode() if isinstance(text, bytes) else str(text) for text in texts[:, 0]]
        rows = zip(tensors["image"], captions, tensors["audio"], strict=True)
        return [{"image": image, "text": text, "audio": audio} for image, text, audio in rows]

    def encode(self, answers: Sequence[int]) -> Tensors:
        """{"kind": int64 [n, 1]}"""
        return {"kind": np.asarray(answers, np.int64).reshape(-1, 1)}


def labelled(root: Path, part: str) -> list[tuple[Stamp, int]]:
    """The stamps of a part. Those of `test` are of families that no head of this workload was trained on."""
    stamps: Stamps = load(root / "prepared" / "data" / f"{part}.npz")
    rows = zip(stamps.pictures, stamps.captions.tolist(), stamps.speech, stamps.labels.tolist(), strict=True)
    return [({"image": image, "text": text, "audio": audio}, label) for image, text, audio, label in rows]
