"""Stage and pipeline code of the `ocr` workload: detect the lines of a page, orient them, read them.

| stage  | stage input                                | prediction             | sends on                     |
|--------|--------------------------------------------|------------------------|------------------------------|
| detect | page: uint8 [h, w, 3], RGB                 | list of boxes          | one crop per box             |
| orient | crop: {"box": box, "image": uint8 [h,w,3]} | upside-down? (bool)    | the crop, upright            |
| read   | crop, upright                              | (box, text)            | nothing: it is the last one  |

The answer to a request is the page's lines, [(box, text), ...], in reading order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import ocr_tensors as tensors
from numpy.typing import NDArray
from ocr_boxes import Box, boxes_of_map, match, reading_order
from ocr_data import Line, cut, load_pages, turned
from ocr_text import charset_of_file, charset_of_metadata, decode_ctc, is_exact, right_characters

Tensors = dict[str, NDArray[Any]]
Weighed = tuple[NDArray[np.float64], NDArray[np.float64]]
ReadLine = tuple[Box, str]

DETECTED_IOU = 0.5
"""Overlap from which a found box counts as the true one, when detection is scored."""
READ_IOU = 0.3
"""Overlap from which a read line is compared with the true one, end to end: what was read decides."""


class Crop(TypedDict):
    """A line cut out of a page: the stage input of orient and read."""

    box: Box
    image: NDArray[np.uint8]


class Detect:
    """Find the lines of a page. Params: side = pixels of the page's shorter side as the net sees it."""

    def __init__(self, context: Any) -> None:
        self._root = context.root
        self._side = int(context.params.get("side", 480))

    def examples(self) -> list[tuple[NDArray[np.uint8], list[Box]]]:
        return [(page.picture, [line.box for line in page.lines]) for page in load_pages(self._root)]

    def preprocess(self, inputs: Sequence[NDArray[np.uint8]]) -> Tensors:
        return {"x": tensors.detector_tensor(inputs, self._side)}

    def postprocess(self, inputs: Sequence[NDArray[np.uint8]], outputs: Tensors) -> list[list[Box]]:
        maps = _only(outputs)[:, 0]
        found = []
        for page, probability in zip(inputs, maps, strict=True):
            page_height, page_width = page.shape[:2]
            width, height = tensors.detector_size(page_width, page_height, self._side)
            found.append(boxes_of_map(probability[:height, :width], page_width, page_height))
        return found

    def route(self, page: NDArray[np.uint8], boxes: list[Box]) -> list[Crop]:
        return [{"box": box, "image": cut(page, box)} for box in boxes]

    def score(self, predictions: Sequence[list[Box]], truths: Sequence[list[Box]]) -> dict[str, Weighed]:
        """f1: harmonic mean of precision and recall over all boxes, at IoU 0.5."""
        weights = np.array([len(p) + len(t) for p, t in zip(predictions, truths, strict=True)], float)
        hits = [len(match(p, t, DETECTED_IOU)) for p, t in zip(predictions, truths, strict=True)]
        return {"f1": (2 * np.array(hits) / np.maximum(weights, 1), weights)}


class Orient:
    """Tell whether a line stands upside-down. Params: net = v2 or lcnet (which differ in what they see)."""

    def __init__(self, context: Any) -> None:
        self._root = context.root
        self._net = context.params.get("net", "v2")
        if self._net not in ("v2", "lcnet"):
            raise ValueError(f"params.net: expected v2 or lcnet, got {self._net!r}")

    def examples(self) -> list[tuple[Crop, bool]]:
        return [
            ({"box": line.box, "image": cut(page.picture, line.box)}, line.flipped)
            for page in load_pages(self._root)
            for line in page.lines
        ]

    def preprocess(self, inputs: Sequence[Crop]) -> Tensors:
        images = [crop["image"] for crop in inputs]
        if self._net == "v2":
            return {"x": tensors.padded_tensor(images, 192, 48, tensors.HALF_BGR)}
        return {"x": tensors.stretched_tensor(images, 160, 80, tensors.IMAGENET_RGB)}

    def postprocess(self, inputs: Sequence[Crop], outputs: Tensors) -> list[bool]:
        return [bool(flipped) for flipped in _only(outputs).argmax(axis=1) == 1]

    def passthrough(self, inputs: Sequence[Crop]) -> list[bool]:
        """Without a net every line is taken to be upright."""
        return [False] * len(inputs)

    def route(self, crop: Crop, flipped: bool) -> list[Crop]:
        return [{"box": crop["box"], "image": turned(crop["image"]) if flipped else crop["image"]}]

    def score(self, predictions: Sequence[bool], truths: Sequence[bool]) -> dict[str, NDArray[np.float64]]:
        return {"accuracy": np.array([p == t for p, t in zip(predictions, truths, strict=True)], float)}


class Read:
    """Read an upright line. Params: width = pixels of a line's width that the net was made for (320), less to
    squeeze lines; dictionary = file of characters, for a model that does not carry its own."""

    def __init__(self, context: Any) -> None:
        self._root = context.root
        self._width = int(context.params.get("width", tensors.FULL_WIDTH))
        self._dictionary = context.params.get("dictionary")
        self._metadata = context.model.metadata if context.model is not None else {}
        self._charset: list[str] | None = None

    def examples(self) -> list[tuple[Crop, str]]:
        return [
            ({"box": line.box, "image": _upright(cut(page.picture, line.box), line)}, line.text)
            for page in load_pages(self._root)
            for line in page.lines
        ]

    def preprocess(self, inputs: Sequence[Crop]) -> Tensors:
        return {"x": tensors.line_tensor([crop["image"] for crop in inputs], self._width)}

    def postprocess(self, inputs: Sequence[Crop], outputs: Tensors) -> list[ReadLine]:
        texts = decode_ctc(_only(outputs), self._characters())
        return [(crop["box"], text) for crop, text in zip(inputs, texts, strict=True)]

    def score(self, predictions: Sequence[ReadLine], truths: Sequence[str]) -> dict[str, object]:
        """line_exact: share of lines without a fault; char_accuracy: share of characters that are right."""
        pairs = [(read, true) for (_, read), true in zip(predictions, truths, strict=True)]
        right = np.array([right_characters(read, true) for read, true in pairs], float).reshape(-1, 2)
        return {
            "line_exact": np.array([is_exact(read, true) for read, true in pairs], float),
            "char_accuracy": _ratio(right),
        }

    def _characters(self) -> list[str]:
        if self._charset is None:
            if self._dictionary:
                self._charset = charset_of_file(self._root / self._dictionary)
            else:
                self._charset = charset_of_metadata(self._metadata)
        return self._charset


class Ocr:
    """The whole pipeline: a page in, its lines out."""

    def __init__(self, context: Any) -> None:
        self._root = context.root

    def examples(self) -> list[tuple[NDArray[np.uint8], list[ReadLine]]]:
        pages = load_pages(self._root)
        return [(page.picture, [(line.box, line.text) for line in page.lines]) for page in pages]

    def join(self, request: Any, results: Mapping[str, Sequence[ReadLine]]) -> list[ReadLine]:
        lines = [line for of_stage in results.values() for line in of_stage]
        return [lines[index] for index in reading_order([box for box, _ in lines])]

    def score(self, answers: Sequence[list[ReadLine]], truths: Sequence[list[ReadLine]]) -> dict[str, Weighed]:
        """Over all true lines: line_exact = share read without a fault; char_accuracy = share of characters
        that are right. A line that was not found counts as not read at all; lines read where there is none
        do not count here (detect's f1 sees them)."""
        scored = np.array([_page_score(a, t) for a, t in zip(answers, truths, strict=True)], float).reshape(-1, 4)
        return {"line_exact": _ratio(scored[:, :2]), "char_accuracy": _ratio(scored[:, 2:])}

    def decode(self, request: Tensors) -> list[NDArray[np.uint8]]:
        """{"page": uint8 [n, h, w, 3]} -> pages."""
        pages = np.asarray(request["page"])
        if pages.ndim != 4 or pages.shape[3] != 3 or pages.dtype != np.uint8:
            raise ValueError(f"page: expected uint8 [n, h, w, 3], got {pages.dtype} {list(pages.shape)}")
        return list(pages)

    def encode(self, answers: Sequence[list[ReadLine]]) -> Tensors:
        """{"text": strings [n, 1]}: the lines of a page in reading order, one a line."""
        text = np.empty((len(answers), 1), object)
        for row, lines in enumerate(answers):
            text[row, 0] = "\n".join(line for _, line in lines)
        return {"text": text}


def _page_score(answer: list[ReadLine], truth: list[ReadLine]) -> tuple[int, int, int, int]:
    """(lines read exactly, lines, characters right, characters) of one page."""
    pairs = match([box for box, _ in answer], [box for box, _ in truth], READ_IOU)
    texts = {true: answer[found][1] for found, true in pairs}
    read = [(texts.get(index, ""), text) for index, (_, text) in enumerate(truth)]
    characters = [right_characters(*pair) for pair in read]
    exact = sum(is_exact(*pair) for pair in read)
    return exact, len(read), sum(right for right, _ in characters), sum(all_ for _, all_ in characters)


def _ratio(parts: NDArray[np.float64]) -> Weighed:
    """Rows of (part, whole) -> values and weights whose weighted mean is the ratio of the sums."""
    return parts[:, 0] / np.maximum(parts[:, 1], 1), parts[:, 1]


def _only(outputs: Tensors) -> NDArray[Any]:
    """The one output of these nets, whose name differs from net to net."""
    (array,) = outputs.values()
    return array


def _upright(image: NDArray[np.uint8], line: Line) -> NDArray[np.uint8]:
    return turned(image) if line.flipped else image
