"""Stamps as the stage code and the nets take them: pictures, captions, recordings, labels."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODALITIES = ("audio", "image", "text")
"""Sorted, as the names of their subsets are."""
SUBSETS = tuple(itertools.chain(*(itertools.combinations(MODALITIES, count) for count in (1, 2, 3))))
CLASSES = (
    "mammals",
    "birds",
    "small-animals",
    "food",
    "clothes",
    "plants",
    "buildings",
    "signs-flags",
    "household",
    "vehicles",
)
SIDE = 260
"""Pixels of a picture's side: what the largest net takes."""
SAMPLES = 40_000
"""Samples of a recording: 2.5 s at 16 kHz."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """n stamps: `pictures` uint8 [n, 260, 260, 3], `captions` n texts, `speech` int16 [n, 40000], `labels` int64
    [n] (places in CLASSES), `families` int64 [n]: those with one number show much the same, `names` n file names
    without their ends."""

    pictures: NDArray[np.uint8]
    captions: NDArray[np.str_]
    speech: NDArray[np.int16]
    labels: NDArray[np.int64]
    families: NDArray[np.int64]
    names: NDArray[np.str_]

    def part(self, chosen: Sequence[int]) -> Stamps:
        """The stamps at these positions."""
        at = np.asarray(chosen, np.int64)
        return Stamps(**{name: column[at] for name, column in self.columns().items()})

    def columns(self) -> dict[str, NDArray[Any]]:
        """Arrays by name, as a file has them."""
        return {name: getattr(self, name) for name in self.__slots__}


def load(path: Path) -> Stamps:
    """Stamps of an .npz file; no pickles."""
    with np.load(path, allow_pickle=False) as data:
        return Stamps(**{name: data[name] for name in Stamps.__slots__})


def resized(pictures: Sequence[NDArray[np.uint8]], side: int) -> NDArray[np.uint8]:
    """Square pictures, uint8 [n, side, side, 3], bicubic; as they are where they have that size."""
    from PIL import Image

    return np.stack(
        [
            picture
            if picture.shape[0] == side
            else np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
            for picture in pictures
        ]
    )


class Captions:
    """Captions to token ids by MiniLM's own word pieces: int64 [n, `length`], 0 is padding, the rest is cut off."""

    def __init__(self, tokenizer: Path, length: int) -> None:
        # Its threads would be started in the measured process, beside those of the model.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(length=length, pad_id=0)

    def __call__(self, captions: Sequence[str]) -> NDArray[np.int64]:
        encodings = self._tokenizer.encode_batch([str(caption) for caption in captions])
        return np.array([encoding.ids for encoding in encodings], np.int64)
