"""What the files of other tools say, in one form: points and accuracies, and what could not be taken, with reasons."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.errors import InputError
from inferplan.spec.rows import Quantiles

MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Reading:
    """What the user says of a file that the file does not say itself."""

    batch: int | None = None
    """Stage calls per inference."""
    instances: int = 1
    """Replicas that shared the load."""
    client_latency: bool = False
    """Take the client's latency for the service time: only right where client and network cost next to nothing."""
    unbatched: bool = False
    """The server put no requests together, so that a batch is a request at any load."""
    model: str | None = None
    """Which model, or model configuration, of a file with several."""


@dataclass(frozen=True, slots=True)
class ForeignPoint:
    """One measured point. Names are None where the file has none. `service` is what one batch takes a replica."""

    batch: int
    service: Quantiles
    n: int = 0
    throughput_per_s: float | None = None
    censored: bool = False
    threads: int | None = None
    stage: str | None = None
    variant: str | None = None
    modalities: str | None = None
    device: str | None = None
    provider: str | None = None
    memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    load_s: float | None = None
    power_w: float | None = None
    energy_j: float | None = None
    samples_s: NDArray[np.float64] | None = None
    remark: str = ""
    """What is to be known of how its numbers came about."""


@dataclass(frozen=True, slots=True)
class ForeignAccuracy:
    """A metric of a variant on its stage's data."""

    metric: str
    value: float
    lower: float | None
    upper: float | None
    n: int
    stage: str | None = None
    variant: str | None = None
    modalities: str | None = None
    remark: str = ""
    combination: Mapping[str, str] | None = None
    """Stage to choice, where it is of a whole combination, end to end."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Everything taken from one file, and what was not, with the reason."""

    tool: str
    points: tuple[ForeignPoint, ...]
    accuracies: tuple[ForeignAccuracy, ...] = ()
    left_out: tuple[str, ...] = ()


def read_text(file: Path) -> str:
    """A file's text. Raises InputError where it cannot be read, is too large, or is no text."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{file} is larger than 1 GiB: is it a measurement?")
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text file") from error
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def read_csv(file: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file by column. Raises InputError where a needed column is missing, or a row is too long."""
    reader = csv.DictReader(io.StringIO(read_text(file)), restkey="", strict=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        missing = [name for name in needed if name not in names]
        if missing:
            raise InputError(f"{file}: no column {', '.join(missing)}; it has {', '.join(names) or 'none'}")
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num}: {error}") from error
    for number, row in enumerate(rows, 2):
        if row.get(""):
            raise InputError(f"{file}:{number}: more cells than columns")
    return [{(name or "").strip(): (cell or "").strip() for name, cell in row.items() if name} for row in rows]


def number(row: Mapping[str, str], name: str, where: str) -> float | None:
    """A cell as a number, None where it is empty or absent. Raises InputError where it is none, or below zero."""
    text = row.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{where}: {name}: {text!r} is no number") from error
    if not math.isfinite(value) or value < 0:
        raise InputError(f"{where}: {name}: {text} is no count, time or rate")
    return value


def needed_batch(reading: Reading, file: Path) -> int:
    """The batch size the user gave. Raises InputError where it was not given."""
    if reading.batch is None:
        raise InputError(f"{file} does not say the batch size: give it with --batch")
    return reading.batch
