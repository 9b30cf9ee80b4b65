"""Predictions and truths as JSON texts: what a profile keeps of an evaluation, so that a metric to come needs
no new inference.

Numbers, texts, booleans, null, lists and objects are themselves. What JSON lacks is an object of one or more
names that begin with `$`:

| value | text |
|---|---|
| numpy array, scalar | `{"$array": [[1, 2]], "dtype": "int64"}`; empty ones have `shape` besides |
| tuple, set, frozenset | `{"$tuple": [...]}`, `{"$set": [...]}`, `{"$frozenset": [...]}` |
| bytes | `{"$bytes": "base64"}` |
| float that is no number | `{"$float": "nan"}`; in arrays the text "nan", "inf", "-inf" in its place |
| dict whose keys are not all texts, or begin with `$` | `{"$dict": [[key, value], ...]}` |

The inverse gives equal values of the same types and dtypes (named tuples and subclasses become plain ones).
Nothing is ever pickled.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 64 * 2**10
"""Longest text of one prediction or truth."""
MOST_TOTAL_BYTES = 64 * 2**20
"""Longest text of all predictions and truths of one evaluation."""


class NotKept(Exception):
    """Something has no text, or too long a one; the message says what."""


def to_text(value: Any) -> str:
    """A prediction or truth as JSON. Raises NotKept."""
    try:
        text = json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise NotKept(f"a {type(value).__name__} cannot be written as JSON: {error}") from error
    if size > MOST_BYTES:
        raise NotKept(f"a {type(value).__name__} takes {size} bytes as JSON, more than {MOST_BYTES}")
    return text


def from_text(text: str) -> Any:
    """The inverse of `to_text`. Raises ValueError."""
    return json.loads(text, object_hook=_restored)


def texts_of(values: list[Any], what: str, room_bytes: int) -> tuple[str, ...]:
    """All of them as JSON, in `room_bytes` altogether. Raises NotKept."""
    texts: list[str] = []
    for index, value in enumerate(values):
        try:
            texts.append(to_text(value))
        except NotKept as reason:
            raise NotKept(f"{what} of example {index}: {reason}") from reason
        room_bytes -= len(texts[-1].encode())
        if room_bytes < 0:
            raise NotKept(f"they take more than {MOST_TOTAL_BYTES // 2**20} MiB as JSON")
    return tuple(texts)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return _plain_array(np.asarray(value))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return {"$dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for name, kind in (("$tuple", tuple), ("$set", set), ("$frozenset", frozenset)):
        if isinstance(value, kind):
            items = [_plain(item) for item in value]
            # Sets have no order of their own: the same set gives the same text.
            return {name: items if kind is tuple else sorted(items, key=lambda item: json.dumps(item))}
    if isinstance(value, bytes | bytearray):
        return {"$bytes": base64.b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _plain_array(array: NDArray[Any]) -> dict[str, Any]:
    kind = array.dtype.kind
    if kind not in "biufUO":
        raise TypeError(f"an array of {array.dtype} has no JSON form")
    if kind == "O":
        items: Any = _nested(array.tolist(), array.ndim, _plain)
    elif kind == "f" and not np.all(np.isfinite(array)):
        items = _nested(array.tolist(), array.ndim, lambda item: item if math.isfinite(item) else str(item))
    else:
        items = array.tolist()
    found = {"$array": items, "dtype": {"O": "object", "U": "str"}.get(kind, array.dtype.name)}
    return {**found, "shape": list(array.shape)} if not array.size or kind == "O" else found


def _nested(items: Any, depth: int, change: Callable[[Any], Any]) -> Any:
    return change(items) if depth == 0 else [_nested(item, depth - 1, change) for item in items]


def _restored(found: dict[str, Any]) -> Any:
    if "$array" in found:
        return _restored_array(found)
    if "$dict" in found:
        return dict(found["$dict"])
    if "$bytes" in found:
        return base64.b64decode(found["$bytes"])
    for name, kind in (("$tuple", tuple), ("$set", set), ("$frozenset", frozenset), ("$float", float)):
        if name in found:
            return kind(found[name])
    return found


def _restored_array(found: dict[str, Any]) -> Any:
    if found["dtype"] == "object":
        shape = tuple(found["shape"])
        array = np.empty(shape, object)
        for place in np.ndindex(shape):
            item = found["$array"]
            for index in place:
                item = item[index]
            array[place] = item
        return array
    array = np.array(found["$array"], np.dtype(found["dtype"]))
    if "shape" in found:
        array = array.reshape(found["shape"])
    return array if array.ndim else array[()]
