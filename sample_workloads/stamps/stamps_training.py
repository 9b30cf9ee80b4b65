"""Features of the frozen encoders, the head's training, and the fused graph of each modality subset as ONNX."""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from preparation import PrepareError
from safetensors.torch import load_file
from stamps_data import CLASSES, Captions, Stamps, resized
from stamps_nets import Head, PictureEncoder, Size, SpeechEncoder, Subset, as_tensor, caption_encoder
from stamps_packages import CAPTION_WEIGHTS, EMBEDDING, PICTURE_WEIGHTS, SPECTROGRAM, TOKENIZER
from torch import Tensor, nn
from torch.nn import functional

EPOCHS = 60
BATCH = 32
WHOLE = 0.4
"""Share of the batches in training that have all modalities; the others have any subset, all equally often."""
FOLDS = 5
"""Heads that are trained to weigh the modalities, each without a fifth of the families."""
WEIGHING_STEPS = 300
FEATURE_BATCH = 16
OPSET = 17
# The IR version that opset 17 came with; newer ones are refused by older servers.
IR_VERSION = 8
TOLERANCE = 1e-3
"""Most that a logit of an exported net may differ from the trained one's."""

Arrays = dict[str, NDArray[Any]]


def encoders_of(size: Size, into: Path) -> dict[str, nn.Module]:
    """The frozen encoders of a size by modality, with the pretrained weights below the folder `into`."""
    pictures = PictureEncoder(size.lite)
    # weights_only: a .pth is a pickle, and only arrays are taken from it. The classifier's are not wanted.
    found = torch.load(into / PICTURE_WEIGHTS[size.lite], weights_only=True)
    pictures.load_state_dict({name: tensor for name, tensor in found.items() if not name.startswith("_fc.")})
    encoders: dict[str, nn.Module] = {
        "audio": SpeechEncoder(into / SPECTROGRAM, into / EMBEDDING),
        "image": pictures,
        "text": caption_encoder(load_file(into / CAPTION_WEIGHTS), size.layers),
    }
    for encoder in encoders.values():
        encoder.eval().requires_grad_(False)
    return encoders


def inputs_of(stamps: Stamps, size: Size, into: Path) -> Arrays:
    """What the encoders of a size take of these stamps, by modality."""
    return {
        "audio": stamps.speech[:, : size.samples],
        "image": resized(list(stamps.pictures), size.side),
        "text": Captions(into / TOKENIZER, size.tokens)(stamps.captions.tolist()),
    }


def features_of(encoders: Mapping[str, nn.Module], inputs: Arrays) -> dict[str, Tensor]:
    """float32 [n, d] by modality."""
    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name, encoder in encoders.items():
            parts = as_tensor(inputs[name]).split(FEATURE_BATCH)
            found[name] = torch.cat([encoder(part) for part in parts])
    return {name: features.clone() for name, features in found.items()}


def fit(features: dict[str, Tensor], labels: Tensor, families: NDArray[np.int64], seed: int) -> Head:
    """Train a head, and weigh its modalities by what heads like it know of families they were not trained on.

    With a few hundred stamps a weak modality is learnt by heart, and is as sure of itself as a strong one; so
    equal weights would do harm. Nothing is picked by test stamps.
    """
    unseen = {name: torch.zeros(len(labels), len(CLASSES)) for name in features}
    folds = _folds(families, seed)
    for fold in range(FOLDS):
        rest, held = torch.tensor(folds != fold), torch.tensor(folds == fold)
        head = train({name: values[rest] for name, values in features.items()}, labels[rest], seed)
        with torch.inference_mode():
            for name, values in features.items():
                unseen[name][held] = head({name: values[held]})
    head = train(features, labels, seed)
    head.weights = weigh(unseen, labels)
    return head


def train(features: dict[str, Tensor], labels: Tensor, seed: int, epochs: int = EPOCHS) -> Head:
    """Train a head with modality dropout, all modalities weighing the same. The last weights are kept."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    subsets = _subsets(features)
    head = Head(features).train()
    optimiser = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(epochs):
        for index in torch.randperm(len(labels)).split(BATCH):
            given = subsets[-1] if dice.random() < WHOLE else subsets[dice.integers(len(subsets))]
            logits = head({name: features[name][index] for name in given})
            loss = functional.cross_entropy(logits, labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return head.eval()


def weigh(logits: Mapping[str, Tensor], labels: Tensor) -> dict[str, float]:
    """Weights, 1 for the largest, under which sums of the modalities' logits (float32 [n, 10] each, of stamps that
    were not trained on) have the least cross-entropy, over all subsets of modalities."""
    exponents = {name: torch.zeros((), requires_grad=True) for name in logits}
    optimiser = torch.optim.Adam(exponents.values(), lr=0.05)
    subsets = _subsets(logits)
    for _ in range(WEIGHING_STEPS):
        sums = [torch.stack([logits[name] * exponents[name].exp() for name in subset]).sum(0) for subset in subsets]
        loss = torch.stack([functional.cross_entropy(total, labels) for total in sums]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    largest = max(exponent.item() for exponent in exponents.values())
    return {name: math.exp(exponent.item() - largest) for name, exponent in exponents.items()}


def _subsets(modalities: Iterable[str]) -> list[tuple[str, ...]]:
    """All subsets but the empty one, the whole last."""
    names = sorted(modalities)
    return list(itertools.chain(*(itertools.combinations(names, count) for count in range(1, len(names) + 1))))


def _folds(families: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The fold, 0 to 4, of every stamp; families are not divided."""
    known, positions = np.unique(families, return_inverse=True)
    return np.random.RandomState(seed).permutation(len(known))[positions] % FOLDS


def export(encoders: Mapping[str, nn.Module], head: Head, target: Path, inputs: Arrays) -> None:
    """Write the fused graph for the modalities in `inputs` (some stamps), compared with the nets on them."""
    subset = Subset(encoders, head, list(inputs)).eval()
    examples = tuple(as_tensor(values) for values in inputs.values())
    free = {0: "batch"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing exporter: it is to be replaced, all shapes but n are constants
        partial = Path(folder) / target.name
        torch.onnx.export(
            subset,
            examples,
            str(partial),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes=dict.fromkeys((*inputs, "logits"), free),
        )
        model = onnx.load(partial)
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, partial)
        with torch.inference_mode():
            wanted = subset(*examples).numpy()
        if np.abs(run_onnx(partial, inputs) - wanted).max() > TOLERANCE:
            raise PrepareError(f"{target.name} does not compute what the trained net computes")
        os.replace(partial, target)


def run_onnx(model: Path, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Logits of a model file, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], dict(inputs))[0]
    return logits
