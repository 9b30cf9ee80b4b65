"""The nets: an encoder per modality, the mean of what they say, a classifier. Trained with modality dropout.

Modalities come raw, float32 [n, 128, 3]; scaling is part of the net. Logits are float32 [n, 7].
"""

from __future__ import annotations

import math
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from preparation import PrepareError
from torch import Tensor, nn
from torch.nn import functional
from watch_data import MODALITIES, Windows

EXERCISES = 7
FEATURES = 32
BATCH = 64
DROPPED = 0.5
"""Share of the batches in training that lack a modality chosen at random."""
OPSET = 17
# The IR version that opset 17 came with; newer ones are refused by older servers.
IR_VERSION = 8
TOLERANCE = 1e-3
"""Most that a logit of an exported net may differ from the trained one's."""


@dataclass(frozen=True, slots=True)
class Size:
    """Channels of an encoder's first convolution, which the next two double, and how many there are."""

    channels: int
    depth: int
    epochs: int = 12


SIZES = {"s": Size(8, 2), "m": Size(24, 3), "l": Size(64, 4)}


class Encoder(nn.Module):
    """One modality: float32 [n, 128, 3] -> features [n, 32]. `mean` and `scale` are those of the training data."""

    def __init__(self, size: Size, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        layers: list[nn.Module] = []
        inputs = mean.numel()
        for position in range(size.depth):
            outputs = size.channels * 2 ** min(position, 2)
            layers += [nn.Conv1d(inputs, outputs, 5, 2, 2, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        self.body = nn.Sequential(*layers)
        self.out = nn.Linear(inputs, FEATURES)

    def forward(self, signal: Tensor) -> Tensor:
        scaled = (signal - self.mean) * self.scale
        return functional.relu(self.out(self.body(scaled.transpose(1, 2)).mean(-1)))


class Fusion(nn.Module):
    """Late fusion: whichever modalities are given are encoded, and the mean of their features is classified."""

    def __init__(self, size: Size, train: Windows) -> None:
        super().__init__()
        encoders = {}
        for name, signals in train.by_modality().items():
            mean, spread = signals.mean((0, 1)), signals.std((0, 1))
            encoders[name] = Encoder(size, torch.from_numpy(mean), torch.from_numpy(1 / spread))
        self.encoders = nn.ModuleDict(encoders)
        self.head = nn.Sequential(nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, EXERCISES))

    def forward(self, signals: dict[str, Tensor]) -> Tensor:
        return self.head(torch.stack([self.encoders[name](x) for name, x in signals.items()]).mean(0))


class Subset(nn.Module):
    """A net that is given some of the modalities, one argument each; the other encoders are not run."""

    def __init__(self, net: Fusion, modalities: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.modalities = list(modalities)

    def forward(self, *signals: Tensor) -> Tensor:
        return self.net(dict(zip(self.modalities, signals, strict=True)))


def fit(size: Size, train: Windows, seed: int) -> Fusion:
    """Train a net from scratch. No epoch is picked by the test persons: the last weights are kept."""
    torch.manual_seed(seed)
    dice = np.random.default_rng(seed)
    net = Fusion(size, train).train()
    signals = {name: torch.from_numpy(x) for name, x in train.by_modality().items()}
    labels = torch.from_numpy(train.labels)
    steps = size.epochs * math.ceil(len(labels) / BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    for _ in range(size.epochs):
        for index in torch.randperm(len(labels)).split(BATCH):
            given = [str(dice.choice(MODALITIES))] if dice.random() < DROPPED else MODALITIES
            logits = net({name: signals[name][index] for name in given})
            loss = functional.cross_entropy(logits, labels[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def export(net: Fusion, target: Path, signals: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the net for the modalities in `signals` (float32 [n, 128, 3] each), compared with the net on them."""
    examples = tuple(torch.from_numpy(x) for x in signals.values())
    subset = Subset(net, list(signals)).eval()
    free = {0: "batch"}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing exporter: it is to be replaced
        partial = Path(folder) / target.name
        torch.onnx.export(
            subset,
            examples,
            str(partial),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(signals),
            output_names=["logits"],
            dynamic_axes=dict.fromkeys((*signals, "logits"), free),
        )
        model = onnx.load(partial)
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, partial)
        with torch.inference_mode():
            wanted = subset(*examples).numpy()
        if np.abs(run_onnx(partial, signals) - wanted).max() > TOLERANCE:
            raise PrepareError(f"{target.name} does not compute what the trained net computes")
        os.replace(partial, target)


def run_onnx(model: Path, signals: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Logits of a model file, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], dict(signals))[0]
    return logits
