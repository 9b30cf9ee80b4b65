"""Rated sentences: read, labelled, split so that no test sentence is near to a training one, tokenised."""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SENTENCES = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
LEAST_RATING = 0.5
"""Ratings are means over 15 people or more, -4 to 4; nearer to zero than this a sentence takes no side."""
TEST_SHARE = 0.3
SHINGLE_WORDS = 5
NEAR = 0.5
"""Share of the shorter sentence's runs of five words from which two sentences count as near to each other."""

Tokens = NDArray[np.int64]


class Sentence(NamedTuple):
    """A sentence of a film review; `label` is 1 where people found it positive, 0 where negative."""

    id: str
    text: str
    label: int


def read_ratings(archive: Path) -> list[Sentence]:
    """The sentences of the rated set (a .tar.gz) that take a side, in its order."""
    with tarfile.open(archive) as tar:
        stream = tar.extractfile(SENTENCES)
        if stream is None:
            raise ValueError(f"{archive} holds no file {SENTENCES}")
        lines = stream.read().decode("utf-8-sig").split("\n")
    rows = [line.rstrip("\r").split("\t") for line in lines if line.strip()]
    rated = [(name, float(rating), text.strip()) for name, rating, text in rows]
    return [Sentence(name, text, int(rating > 0)) for name, rating, text in rated if abs(rating) >= LEAST_RATING]


def split(sentences: Sequence[Sentence], seed: int) -> tuple[list[Sentence], list[Sentence]]:
    """(train, test): 30 % for test, groups of near sentences on one side as a whole."""
    groups = near_groups([sentence.text for sentence in sentences])
    # RandomState: its stream is frozen, so every numpy gives the same split.
    order = np.random.RandomState(seed).permutation(len(groups))
    wanted = round(TEST_SHARE * len(sentences))
    train: list[Sentence] = []
    test: list[Sentence] = []
    for index in order:
        side = test if len(test) < wanted else train
        side += [sentences[member] for member in groups[index]]
    return train, test


def near_groups(texts: Sequence[str]) -> list[list[int]]:
    """Positions of the texts in groups; texts that share half of their runs of five words are in one.

    The published set does not say which review a sentence is from. Quotations of one review, and set phrases,
    share runs of words.
    """
    runs = [shingles(text) for text in texts]
    holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, of_text in enumerate(runs):
        for run in of_text:
            holders[run].append(index)
    shared = Counter(pair for members in holders.values() for pair in combinations(members, 2))
    leader = list(range(len(texts)))
    for (one, other), count in shared.items():
        if count >= NEAR * min(len(runs[one]), len(runs[other])):
            _union(leader, one, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for index in range(len(texts)):
        groups[_find(leader, index)].append(index)
    return list(groups.values())


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of five words, in lower case and without punctuation; all words where there are fewer."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[start : start + SHINGLE_WORDS]) for start in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def _find(leader: list[int], index: int) -> int:
    while leader[index] != index:
        leader[index] = leader[leader[index]]
        index = leader[index]
    return index


def _union(leader: list[int], one: int, other: int) -> None:
    first, second = sorted((_find(leader, one), _find(leader, other)))
    leader[second] = first


def dump(sentences: Sequence[Sentence]) -> bytes:
    """The content of a file that `load` reads."""
    return (json.dumps([list(sentence) for sentence in sentences], ensure_ascii=False, indent=0) + "\n").encode()


def load(path: Path) -> list[Sentence]:
    """Sentences of a file that `dump` made."""
    return [Sentence(*row) for row in json.loads(path.read_text(encoding="utf-8"))]


class Encoder:
    """Sentences to token ids by the pretrained net's own word pieces; at most `length` ids each, 0 is padding."""

    def __init__(self, tokenizer: Path, length: int) -> None:
        # Its threads would be started in the measured process, beside those of the model.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        self.length = length
        self._tokenizer: Any = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(length)
        self._tokenizer.no_padding()

    def __call__(self, texts: Sequence[str], full: bool = True) -> Tokens:
        """int64 [n, t]: t is `length`, or where not `full` that of the longest sentence here."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        ids = np.zeros((len(rows), self.length if full else max(map(len, rows))), np.int64)
        for row, found in zip(ids, rows, strict=True):
            row[: len(found)] = found
        return ids
