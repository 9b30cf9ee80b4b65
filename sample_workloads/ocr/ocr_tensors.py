"""Pictures (uint8 [h, w, 3], RGB) to the float32 tensors [n, 3, h, w] that the PP-OCR nets expect."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Tensor = NDArray[np.float32]

STRIDE = 32
"""The detectors need sides that are multiples of this; line widths are rounded up to it, which keeps the
number of different shapes (and so of the runtime's memory plans) small."""
LINE_HEIGHT = 48
FULL_WIDTH = 320
"""The recognisers were trained on lines of 48 x 320."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """x -> x * scale + offset per channel, on 0..255; `bgr` nets were trained on pictures as OpenCV loads
    them. (The mean and deviation are in the order that the net sees, also where that is BGR.)"""

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    bgr: bool

    @staticmethod
    def of(mean: Sequence[float], deviation: Sequence[float], *, bgr: bool) -> Normalization:
        m, d = np.array(mean)[:, None, None], np.array(deviation)[:, None, None]
        return Normalization((1 / (255 * d)).astype(np.float32), (-m / d).astype(np.float32), bgr)


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGENET_BGR = Normalization.of(*_IMAGENET, bgr=True)
IMAGENET_RGB = Normalization.of(*_IMAGENET, bgr=False)
HALF_BGR = Normalization.of((0.5,) * 3, (0.5,) * 3, bgr=True)


def detector_size(page_width: int, page_height: int, side: int) -> tuple[int, int]:
    """(width, height) at which a detector sees a page whose shorter side becomes about `side` pixels."""
    ratio = side / min(page_width, page_height)
    width, height = (max(STRIDE, round(v * ratio / STRIDE) * STRIDE) for v in (page_width, page_height))
    return width, height


def detector_tensor(pages: Sequence[Picture], side: int) -> Tensor:
    """[n, 3, h, w]; pages of different sizes are padded at the right and the bottom to the largest."""
    sizes = [detector_size(page.shape[1], page.shape[0], side) for page in pages]
    out = np.zeros((len(pages), 3, max(h for _, h in sizes), max(w for w, _ in sizes)), np.float32)
    for page, (width, height), target in zip(pages, sizes, out, strict=True):
        _fill(target[:, :height, :width], page, IMAGENET_BGR)
    return out


def stretched_tensor(crops: Sequence[Picture], width: int, height: int, how: Normalization) -> Tensor:
    """[n, 3, height, width]; every crop is stretched to that size."""
    out = np.empty((len(crops), 3, height, width), np.float32)
    for crop, target in zip(crops, out, strict=True):
        _fill(target, crop, how)
    return out


def padded_tensor(crops: Sequence[Picture], width: int, height: int, how: Normalization) -> Tensor:
    """[n, 3, height, width]; crops keep their ratio and are padded at the right, or squeezed if too long."""
    out = np.zeros((len(crops), 3, height, width), np.float32)
    for crop, target in zip(crops, out, strict=True):
        _fill(target[:, :, : min(width, math.ceil(height * crop.shape[1] / crop.shape[0]))], crop, how)
    return out


def line_width(crop: Picture, width: int) -> int:
    """Width in pixels of a line scaled to 48 pixels of height, squeezed by width / 320 where that is less."""
    squeeze = min(1.0, width / FULL_WIDTH)
    return max(8, math.ceil(LINE_HEIGHT * squeeze * int(crop.shape[1]) / int(crop.shape[0])))


def line_tensor(crops: Sequence[Picture], width: int) -> Tensor:
    """[n, 3, 48, w] with w the widest line of the batch, at least `width`; shorter lines are padded.

    `width` 320 shows lines as they are; less squeezes them, so that the net takes fewer time steps.
    """
    widths = [line_width(crop, width) for crop in crops]
    out = np.zeros((len(crops), 3, LINE_HEIGHT, max([width, *map(_round_up, widths)])), np.float32)
    for crop, used, target in zip(crops, widths, out, strict=True):
        _fill(target[:, :, :used], crop, HALF_BGR)
    return out


def _round_up(width: int) -> int:
    return math.ceil(width / STRIDE) * STRIDE


def _fill(target: NDArray[Any], picture: Picture, how: Normalization) -> None:
    """Resize `picture` to the size of `target` [3, h, w] and write it there, normalized."""
    height, width = target.shape[1:]
    resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    channels = resized.transpose(2, 0, 1)
    np.multiply(channels[::-1] if how.bgr else channels, how.scale, out=target)
    target += how.offset
