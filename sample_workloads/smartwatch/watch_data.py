"""Recordings of a smartwatch: read without running code, cut into windows, split by person."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 128
"""Samples of a window: 2.56 s at 50 Hz."""
STEP = 64
"""Samples from one window to the next: half of each is in the next one."""
TEST_EVERY = 4
"""Of the persons in order of their numbers, the first and then every fourth are for testing."""
MODALITIES = ("acc", "gyro")
"""The accelerometer's and the gyroscope's three axes each: columns 0 to 2 and 3 to 5 of a recording."""
AXES = ["ax", "ay", "az", "wx", "wy", "wz"]
"""What the columns of a recording are called in the file."""

Signals = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Windows:
    """`signals` float32 [n, 128, 6], raw; `labels` int64 [n]: which exercise; `persons` int64 [n]."""

    signals: Signals
    labels: NDArray[np.int64]
    persons: NDArray[np.int64]

    def part(self, chosen: NDArray[np.bool_]) -> Windows:
        """The windows where `chosen` [n] is true."""
        return Windows(self.signals[chosen], self.labels[chosen], self.persons[chosen])

    def by_modality(self) -> dict[str, Signals]:
        """float32 [n, 128, 3] per modality."""
        return {name: self.signals[:, :, 3 * i : 3 * i + 3] for i, name in enumerate(MODALITIES)}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickled numpy arrays in plain containers, and refuses everything else.

    A pickle is a program. This one may name four things, and none of them can be made to do harm: an empty
    array, the array type, an element type, and a text's bytes.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in this file")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> NDArray[Any]:
    """What numpy's own `_reconstruct` gives: an array that is filled afterwards."""
    if kind is not np.ndarray:
        raise pickle.UnpicklingError(f"{kind} is not an array type")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not allowed in this file")
    return text.encode("latin1")


def read_objects(path: Path) -> Any:
    """What numpy saved as one object in a .npy file. Raises pickle.UnpicklingError where it is more than data."""
    with path.open("rb") as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        if shape != () or dtype != np.dtype(object):
            raise ValueError(f"{path} holds an array of shape {shape} and type {dtype}, not one object")
        return ArrayUnpickler(io.BytesIO(stream.read())).load().item()


def cut(recordings: Mapping[str, Any]) -> Windows:
    """Every window of every recording. `recordings` has X (list of arrays [t, 6]), y and subject per recording.

    Raises ValueError where the columns are others than expected.
    """
    if list(recordings["X_labels"]) != AXES:
        raise ValueError(f"columns are {recordings['X_labels']}, not {AXES}")
    signals: list[NDArray[Any]] = []
    labels: list[int] = []
    persons: list[int] = []
    for x, label, person in zip(recordings["X"], recordings["y"], recordings["subject"], strict=True):
        starts = range(0, len(x) - WINDOW + 1, STEP)
        signals += [x[start : start + WINDOW] for start in starts]
        labels += [int(label)] * len(starts)
        persons += [int(person)] * len(starts)
    return Windows(np.asarray(signals, np.float32), np.asarray(labels, np.int64), np.asarray(persons, np.int64))


def split(windows: Windows) -> tuple[Windows, Windows]:
    """(train, test): no person is in both."""
    tested = np.isin(windows.persons, np.unique(windows.persons)[::TEST_EVERY])
    return windows.part(~tested), windows.part(tested)


def load(path: Path) -> Windows:
    """Windows of an .npz file; no pickles."""
    with np.load(path, allow_pickle=False) as data:
        return Windows(data["signals"], data["labels"], data["persons"])
