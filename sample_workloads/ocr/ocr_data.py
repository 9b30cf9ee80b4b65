"""The labelled pages that `prepare.py` lays out: read from `prepared/pages/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ocr_boxes import Box
from PIL import Image


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text on a page. `flipped`: it stands upside-down."""

    box: Box
    text: str
    flipped: bool


@dataclass(frozen=True, slots=True)
class Page:
    """A page: uint8 [height, width, 3] RGB, and the exact truth about it."""

    picture: NDArray[np.uint8]
    lines: tuple[Line, ...]


@lru_cache(maxsize=2)
def load_pages(root: Path) -> tuple[Page, ...]:
    """The test pages below the workload's folder. Raises FileNotFoundError saying what to run."""
    folder = root / "prepared" / "pages"
    truth = folder / "truth.json"
    if not truth.is_file():
        raise FileNotFoundError(
            f"the pages are not there ({truth}): run `python {root / 'prepare.py'}` once to make them"
        )
    return tuple(
        Page(_picture(folder / page["file"]), tuple(_line(line) for line in page["lines"]))
        for page in json.loads(truth.read_text(encoding="utf-8"))["pages"]
    )


def _picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _line(raw: dict[str, Any]) -> Line:
    left, top, right, bottom = raw["box"]
    return Line((left, top, right, bottom), raw["text"], raw["flipped"])


def cut(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """The part of a page inside a box, as an array of its own (so that the page can be let go)."""
    left, top, right, bottom = box
    return np.ascontiguousarray(picture[top:bottom, left:right])


def turned(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture turned by 180 degrees."""
    return np.ascontiguousarray(picture[::-1, ::-1])
