"""The built-in accuracy metrics: what `Metric.compute` means.

| metric | prediction | truth | per example |
|---|---|---|---|
| top1 | a class (int, text, bool) or an array of class scores (its argmax) | a class | 1 if equal, else 0 |
| f1 | as top1 | a class | none: the mean over classes of 2 tp / (2 tp + fp + fn) |
| f1 | a set or list of things | a set or list | 2 common / (both sizes); weight: both sizes |
| exact_match | anything | anything | 1 if equal, else 0 (arrays, lists and tuples by their items) |
| cer, wer | a text, or a list of symbols | the same | edit distance over the truth's length; weight: that length |
| auc | the positive class's score, or two class scores | 0 or 1 | none: P(positive above negative), ties half |
| mae | a number or an array | the same shape | mean absolute error of its numbers |
| recall_at_k | a ranked list, or a float array of class scores | an item, a set or list | share found in the first k |

Classes of macro F1 are those that occur among truths or predictions. Class scores that are not numbers (NaN)
predict no class: wrong, but no reason to give up. An empty truth counts as one symbol long, so that what was
read where nothing stands is counted. Examples without anything to find (recall_at_k, f1 of sets) weigh nothing.
A prediction that is a dict of one array, as a model without stage code gives, is that array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.stage import Metric
from inferplan.spec.stagecode import Scores

Floats = NDArray[np.float64]
Values = Sequence[Any]


class Statistic(Protocol):
    """A metric that is no mean of per-example values. It is made anew for every resample of the examples."""

    @property
    def n(self) -> int:
        """Examples."""

    @property
    def least(self) -> int:
        """Examples that a perfect value rests on: all of them, or those of the rarer kind."""

    def values(self, counts: Floats) -> Floats:
        """The metric with example i counted `counts[r, i]` times, for every r; NaN where it has no value."""


@dataclass(frozen=True, slots=True)
class Auc:
    """Area under the ROC curve: P[score of a positive > that of a negative] + half of P[equal]."""

    scores: Floats
    positive: NDArray[np.bool_]

    @property
    def n(self) -> int:
        return len(self.scores)

    @property
    def least(self) -> int:
        return int(min(self.positive.sum(), (~self.positive).sum()))

    def values(self, counts: Floats) -> Floats:
        order = np.argsort(self.scores, kind="stable")
        ordered = self.scores[order]
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        counted = counts[:, order]
        positive = self.positive[order]
        ups = np.add.reduceat(counted * positive, starts, axis=1)
        downs = np.add.reduceat(counted * ~positive, starts, axis=1)
        below = np.cumsum(downs, axis=1) - downs / 2
        pairs = ups.sum(axis=1) * downs.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((ups * below).sum(axis=1) / pairs, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class MacroF1:
    """Mean over classes of F1. Classes are numbered from 0; a prediction of -1 is no class."""

    truths: NDArray[np.int64]
    predictions: NDArray[np.int64]

    @property
    def n(self) -> int:
        return len(self.truths)

    @property
    def least(self) -> int:
        return self.n

    def values(self, counts: Floats) -> Floats:
        right = np.where(self.truths == self.predictions, self.truths, -1)
        hits, wanted, given = (self._per_class(codes, counts) for codes in (right, self.truths, self.predictions))
        sizes = wanted + given
        shares = np.divide(2 * hits, sizes, out=np.zeros_like(hits), where=sizes > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(shares.sum(axis=1) / (sizes > 0).sum(axis=1), dtype=np.float64)

    def _per_class(self, codes: NDArray[np.int64], counts: Floats) -> Floats:
        """Counts by class, [resamples, classes]."""
        classes = int(max(self.truths.max(), self.predictions.max())) + 2
        cells = np.arange(len(counts))[:, None] * classes + codes + 1
        summed = np.bincount(cells.ravel(), counts.ravel(), minlength=len(counts) * classes)
        return np.asarray(summed.reshape(len(counts), classes)[:, 1:], dtype=np.float64)


def built_in(metric: Metric, predictions: Values, truths: Values) -> Scores | Statistic:
    """A built-in metric of predictions and truths. Raises InputError saying which example has what instead."""
    if len(predictions) != len(truths):
        raise InputError(f"{metric.compute}: {len(predictions)} predictions but {len(truths)} truths")
    if not len(truths):
        raise InputError(f"{metric.compute}: there are no labelled examples")
    if metric.compute == "recall_at_k":
        return _recall(predictions, truths, metric.k or 1)
    return _COMPUTE[str(metric.compute)](predictions, truths)


def value_of(statistic: Statistic) -> float:
    """The metric itself: every example counted once."""
    return float(statistic.values(np.ones((1, statistic.n)))[0])


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Least number of insertions, deletions and substitutions that make one of the other.

    Bit-parallel in the bits of whole numbers as long as `first` (Myers 1999, in Hyyrö's form).
    """
    if not first:
        return len(second)
    mask, top = (1 << len(first)) - 1, 1 << (len(first) - 1)
    places: dict[Hashable, int] = {}
    for index, symbol in enumerate(first):
        places[symbol] = places.get(symbol, 0) | 1 << index
    up, down, distance = mask, 0, len(first)
    for symbol in second:
        equal = places.get(symbol, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        rise, fall = down | (~(horizontal | up) & mask), up & horizontal
        distance += bool(rise & top) - bool(fall & top)
        rise, fall = (rise << 1) | 1, fall << 1
        up, down = (fall | ~(vertical | rise)) & mask, rise & vertical & mask
    return distance


def _top1(predictions: Values, truths: Values) -> Scores:
    given, wanted = _classes("top1", predictions, truths)
    return _plain([float(a == b) for a, b in zip(given, wanted, strict=True)])


def _f1(predictions: Values, truths: Values) -> Scores | Statistic:
    if all(_is_collection(truth) for truth in truths):
        return _f1_of_sets(predictions, truths)
    given, wanted = _classes("f1", predictions, truths)
    codes = {label: code for code, label in enumerate(dict.fromkeys([*wanted, *given])) if label is not None}
    # What is no class has no code: where it was, numbers are left out, which does no harm.
    return MacroF1(
        np.array([codes[label] for label in wanted], np.int64),
        np.array([codes.get(label, -1) for label in given], np.int64),
    )


def _f1_of_sets(predictions: Values, truths: Values) -> Scores:
    given, wanted = _sets("f1", "prediction", predictions), _sets("f1", "truth", truths)
    sizes = [len(a) + len(b) for a, b in zip(given, wanted, strict=True)]
    hits = [2 * len(a & b) for a, b in zip(given, wanted, strict=True)]
    return _weighted([hit / max(size, 1) for hit, size in zip(hits, sizes, strict=True)], sizes)


def _exact_match(predictions: Values, truths: Values) -> Scores:
    pairs = zip(predictions, truths, strict=True)
    return _plain(
        [float(_same(a if isinstance(b, Mapping) or _is_collection(b) else _scalar(_sole(a)), b)) for a, b in pairs]
    )


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray | np.generic) or isinstance(second, np.ndarray | np.generic):
        return _same(*(x.tolist() if isinstance(x, np.ndarray | np.generic) else x for x in (first, second)))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    return bool(first == second)


def _error_rate(name: str, symbols: Callable[[str], Sequence[Hashable]]) -> Callable[[Values, Values], Scores]:
    """A ratio of sums: edits over symbols of the truths."""

    def rate(predictions: Values, truths: Values) -> Scores:
        values, weights = [], []
        for index, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
            given = _symbols(name, index, "prediction", prediction, symbols)
            wanted = _symbols(name, index, "truth", truth, symbols)
            weights.append(max(1, len(wanted)))
            values.append(edit_distance(given, wanted) / weights[-1])
        return _weighted(values, weights)

    return rate


def _symbols(
    name: str, index: int, what: str, value: Any, split: Callable[[str], Sequence[Hashable]]
) -> Sequence[Hashable]:
    item = _scalar(_sole(value))
    if isinstance(item, str):
        return split(item)
    if isinstance(item, np.ndarray) and item.ndim == 1:
        item = item.tolist()
    if isinstance(item, list | tuple) and all(isinstance(part, Hashable) for part in item):
        return item
    raise _wrong(name, index, what, value, "a text or a list of symbols")


def _auc(predictions: Values, truths: Values) -> Statistic:
    scores = np.array([_score(index, prediction) for index, prediction in enumerate(predictions)])
    labels = [_scalar(truth) for truth in truths]
    for index, label in enumerate(labels):
        if isinstance(label, str | np.ndarray) or _number(label) not in (0.0, 1.0):
            raise _wrong("auc", index, "truth", truths[index], "0 or 1")
    positive = np.array([bool(label) for label in labels])
    if positive.all() or not positive.any():
        raise InputError(f"auc: all truths are {int(positive[0])}; it needs positive and negative examples")
    return Auc(scores, positive)


def _score(index: int, prediction: Any) -> float:
    """The score of the positive class; of two class scores, how much higher the second one is."""
    item = _scalar(_sole(prediction))
    numbers = _numbers(item)
    if numbers is not None and numbers.size == 2:
        found: float | None = float(numbers[1] - numbers[0])
    else:
        found = _number(item)
    if found is None or math.isnan(found):
        raise _wrong("auc", index, "prediction", prediction, "a score, or the scores of two classes")
    return found


def _mae(predictions: Values, truths: Values) -> Scores:
    errors: list[float] = []
    for index, (prediction, truth) in enumerate(zip(predictions, truths, strict=True)):
        given, wanted = _numeric(_sole(prediction)), _numeric(_sole(truth))
        if given is None or not np.all(np.isfinite(given)):
            raise _wrong("mae", index, "prediction", prediction, "a finite number or an array of them")
        if wanted is None or not np.all(np.isfinite(wanted)) or not wanted.size:
            raise _wrong("mae", index, "truth", truth, "a finite number or an array of them")
        if given.size == wanted.size == 1:
            given, wanted = given.ravel(), wanted.ravel()
        if given.shape != wanted.shape:
            raise InputError(f"mae: example {index}: prediction of shape {given.shape}, truth of {wanted.shape}")
        errors.append(float(np.abs(given - wanted).mean()))
    return _plain(errors)


def _recall(predictions: Values, truths: Values, k: int) -> Scores:
    wanted = _sets("recall_at_k", "truth", [t if _is_collection(t) else [_scalar(t)] for t in truths])
    values = []
    for index, (prediction, sought) in enumerate(zip(predictions, wanted, strict=True)):
        item = _sole(prediction)
        if isinstance(item, np.ndarray) and item.ndim == 1 and item.dtype.kind == "f":
            item = np.argsort(-item, kind="stable")[:k]
        ranked = list(item) if isinstance(item, list | tuple) or np.ndim(item) == 1 else [[]]
        parts = [_scalar(part) for part in ranked[:k]]
        if not all(isinstance(part, Hashable) for part in parts):
            raise _wrong("recall_at_k", index, "prediction", prediction, "a ranked list, or an array of class scores")
        values.append(len(sought & set(parts)) / max(1, len(sought)))
    return _weighted(values, [float(bool(sought)) for sought in wanted])


def _classes(name: str, predictions: Values, truths: Values) -> tuple[list[Any], list[Any]]:
    given = [_label(name, index, "prediction", value) for index, value in enumerate(predictions)]
    wanted = [_label(name, index, "truth", value) for index, value in enumerate(truths)]
    if None in wanted:
        raise _wrong(name, wanted.index(None), "truth", truths[wanted.index(None)], "a class")
    kinds = [{type(label) for label in labels if label is not None} for labels in (given, wanted)]
    if kinds[0] and not kinds[0] & kinds[1]:
        named = ["texts" if str in kind else "numbers" for kind in kinds]
        raise InputError(f"{name}: predictions are {named[0]} but truths are {named[1]}: they are never equal")
    return given, wanted


def _label(name: str, index: int, what: str, value: Any) -> int | str | None:
    item = _scalar(_sole(value))
    if isinstance(item, str):
        return item
    number = _number(item)
    if number is not None and number.is_integer():
        return int(number)
    numbers = _numbers(item)
    if numbers is not None and numbers.size > 1:
        return None if np.any(np.isnan(numbers)) else int(np.argmax(numbers))
    raise _wrong(name, index, what, value, "a class (a whole number or a text) or an array of class scores")


def _sets(name: str, what: str, values: Values) -> list[frozenset[Any]]:
    found = []
    for index, value in enumerate(values):
        item = _sole(value)
        try:
            parts = item.tolist() if isinstance(item, np.ndarray) else [_scalar(part) for part in item]
            if isinstance(item, str | Mapping) or any(isinstance(p, float) and not p.is_integer() for p in parts):
                raise TypeError
            found.append(frozenset(tuple(part) if isinstance(part, list) else part for part in parts))
        except TypeError:
            raise _wrong(name, index, what, value, "a set or a list of names or whole numbers") from None
    return found


def _is_collection(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def _sole(value: Any) -> Any:
    """The array of a dict of one array; anything else as it is."""
    if isinstance(value, Mapping) and len(value) == 1:
        (only,) = value.values()
        return only if isinstance(only, np.ndarray) else value
    return value


def _scalar(value: Any) -> Any:
    """Arrays of one element and numpy scalars as plain Python values; anything else as it is."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.ravel()[0]
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None


def _numbers(value: Any) -> Floats | None:
    """A list or array of numbers in one dimension, or None."""
    found = _numeric(value) if isinstance(value, list | tuple | np.ndarray) else None
    return found if found is not None and found.ndim == 1 else None


def _numeric(value: Any) -> Floats | None:
    """Numbers as an array, or None."""
    try:
        found = np.asarray(value)
    except ValueError:
        return None
    return found.astype(np.float64) if found.dtype.kind in "biuf" else None


def _plain(values: Sequence[float]) -> Scores:
    return Scores(np.array(values, np.float64), np.ones(len(values)))


def _weighted(values: Sequence[float], weights: Sequence[float]) -> Scores:
    return Scores(np.array(values, np.float64), np.array(weights, np.float64))


def _wrong(name: str, index: int, what: str, value: Any, wanted: str) -> InputError:
    if isinstance(value, np.ndarray):
        got = f"an array of {value.dtype} and shape {value.shape}"
    elif isinstance(value, Mapping | Set | list | tuple) and len(repr(value)) > 60:
        got = f"a {type(value).__name__} of {len(value)}"
    else:
        text = repr(value)
        got = f"{type(value).__name__} {text if len(text) <= 60 else text[:60] + '...'}"
    return InputError(f"{name}: {what} of example {index}: expected {wanted}, got {got}")


_COMPUTE: dict[str, Callable[[Values, Values], Scores | Statistic]] = {
    "top1": _top1,
    "f1": _f1,
    "exact_match": _exact_match,
    "cer": _error_rate("cer", tuple),
    "wer": _error_rate("wer", str.split),
    "auc": _auc,
    "mae": _mae,
}
