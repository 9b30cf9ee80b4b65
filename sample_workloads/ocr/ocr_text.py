"""Text of lines: decoded from what a recogniser gives, and compared with the truth.

Spaces are ignored in every comparison: the PP-OCR recognisers were trained mostly on Chinese, and the
smaller ones lose spaces between Latin words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLANK = "blank"


def charset_of_metadata(metadata: Mapping[str, str]) -> list[str]:
    """Characters by class index of a model that carries its dictionary (one character a line).

    Class 0 is the CTC blank and the last class is the space. Only "\\n" ends a line: the dictionaries hold
    other characters that `str.splitlines` splits at.
    """
    if "character" not in metadata:
        raise ValueError(
            "this model carries no dictionary in its metadata; name its dictionary file in the variant's"
            " params (dictionary: path)"
        )
    return [BLANK, *metadata["character"].split("\n"), " "]


def charset_of_file(path: Path) -> list[str]:
    """Characters by class index from a dictionary file that already begins with the blank and ends with
    the space (as PP-OCRv5's does)."""
    return path.read_text(encoding="utf-8").rstrip("\n").split("\n")


def decode_ctc(probabilities: NDArray[np.floating[Any]], charset: Sequence[str]) -> list[str]:
    """Best-path CTC decoding of [n, time, classes]: the likeliest class per time step, repeats merged,
    blanks dropped. A class beyond the charset (some nets are padded to a round number) reads as nothing."""
    if probabilities.shape[0] == 0:
        return []
    best = probabilities.argmax(axis=-1)
    keep = (best != 0) & (best < len(charset))
    keep[:, 1:] &= best[:, 1:] != best[:, :-1]
    return ["".join(charset[index] for index in row[kept]) for row, kept in zip(best, keep, strict=True)]


def without_spaces(text: str) -> str:
    return "".join(text.split())


def edit_distance(one: str, other: str) -> int:
    """Levenshtein distance: the least number of inserted, deleted and replaced characters."""
    previous = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        current = [i]
        for j, b in enumerate(other, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (a != b)))
        previous = current
    return previous[-1]


def is_exact(read: str, true: str) -> bool:
    return without_spaces(read) == without_spaces(true)


def right_characters(read: str, true: str) -> tuple[int, int]:
    """(characters of the truth that count as right, characters of the truth).

    Right is the truth's length less the edit distance, never below 0.
    """
    goal = without_spaces(true)
    return max(0, len(goal) - edit_distance(without_spaces(read), goal)), len(goal)
