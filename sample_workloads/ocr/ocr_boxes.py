"""Axis-aligned boxes of text lines: found in a probability map, matched with the truth, put in reading order.

A box is (left, top, right, bottom) in whole page pixels; right and bottom are exclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box = tuple[int, int, int, int]

PIXEL_THRESHOLD = 0.3
"""A map pixel above this belongs to a line."""
LINE_THRESHOLD = 0.5
"""A region counts as a line when its mean probability reaches this."""
UNCLIP = 1.6
"""The map shows the shrunken core of a line; the core grows by area * UNCLIP / perimeter on every side."""
SMALLEST_CORE = 3
"""Cores narrower or lower than this many map pixels are specks."""


def boxes_of_map(probability: NDArray[np.floating[Any]], page_width: int, page_height: int) -> list[Box]:
    """Boxes of the lines in a map [h, w] of "this pixel is the core of a line", in page pixels, from top
    to bottom. The decoding of differentiable binarization (Liao et al. 2020), for axis-aligned lines.
    """
    rows, columns = probability.shape
    labels, count = ndimage.label(probability > PIXEL_THRESHOLD)
    if count == 0:
        return []
    index = np.arange(1, count + 1)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    means = ndimage.mean(probability, labels, index)
    x_scale, y_scale = page_width / columns, page_height / rows
    boxes = []
    for (ys, xs), area, mean in zip(ndimage.find_objects(labels), areas, means, strict=True):
        width, height = xs.stop - xs.start, ys.stop - ys.start
        if min(width, height) < SMALLEST_CORE or mean < LINE_THRESHOLD:
            continue
        grow = area * UNCLIP / (2 * (width + height))
        left = max(0, round((xs.start - grow) * x_scale))
        top = max(0, round((ys.start - grow) * y_scale))
        right = min(page_width, round((xs.stop + grow) * x_scale))
        bottom = min(page_height, round((ys.stop + grow) * y_scale))
        boxes.append((left, top, right, bottom))
    return boxes


def iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / (_area(one) + _area(other) - intersection)


def match(found: Sequence[Box], true: Sequence[Box], at_least: float) -> list[tuple[int, int]]:
    """Pairs (index into found, index into true), each box at most once, the best overlap first.

    Greedy; at `at_least` >= 0.5 and boxes that do not overlap one another no other pairing has more pairs.
    """
    overlaps = [(iou(f, t), i, j) for i, f in enumerate(found) for j, t in enumerate(true)]
    overlaps = sorted((item for item in overlaps if item[0] >= at_least), key=lambda item: (-item[0], item[1:]))
    pairs: list[tuple[int, int]] = []
    used_found: set[int] = set()
    used_true: set[int] = set()
    for _, i, j in overlaps:
        if i not in used_found and j not in used_true:
            used_found.add(i)
            used_true.add(j)
            pairs.append((i, j))
    return pairs


def reading_order(boxes: Sequence[Box]) -> list[int]:
    """Indices of the boxes by rows from the top, and from the left within a row.

    A box belongs to the row above it when it overlaps that row's first box by half the lower one's height.
    """
    rows: list[list[int]] = []
    for index in sorted(range(len(boxes)), key=lambda i: (boxes[i][1], boxes[i][0])):
        box = boxes[index]
        if rows:
            first = boxes[rows[-1][0]]
            overlap = min(first[3], box[3]) - max(first[1], box[1])
            if overlap > 0 and 2 * overlap >= min(first[3] - first[1], box[3] - box[1]):
                rows[-1].append(index)
                continue
        rows.append([index])
    return [index for row in rows for index in sorted(row, key=lambda i: boxes[i][0])]


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
