"""The nets, in torch: a frozen pretrained encoder per modality, and a head that fuses what they say.

Inputs are raw: `image` uint8 [n, side, side, 3], `text` token ids int64 [n, 32], `audio` int16 [n, samples];
scaling is in the graph. Logits are float32 [n, 10].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from sentiment_nets import pretrained
from stamps_data import CLASSES
from torch import Tensor, nn
from torch.nn import functional

HEARD = 76
"""Frames of a spectrogram that one speech embedding hears: 0.775 s. The next one hears 8 frames later."""
SPANS = 4
"""Parts of a recording that are averaged apart, beside its mean and maximum over time."""
SHARED = 64
"""Width of what the modalities are brought to before they are averaged."""

# EfficientNet-Lite: repeats, kernel, stride, expansion, outputs of each row of blocks, before scaling.
_ROWS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_WIDTH_DEPTH = {0: (1.0, 1.0), 2: (1.1, 1.2)}


@dataclass(frozen=True, slots=True)
class Size:
    """Which encoders a size has: EfficientNet-Lite `lite` on `side` pixels, MiniLM's first `layers` layers on
    `tokens` tokens, the speech embedding on `samples` samples."""

    lite: int
    side: int
    layers: int
    samples: int
    tokens: int = 32


SIZES = {"s": Size(0, 96, 1, 20_000), "m": Size(0, 160, 2, 40_000), "l": Size(2, 260, 6, 40_000)}


class SameConv(nn.Conv2d):
    """A convolution whose output is ceil(input / stride) wide, padded more on the right and at the bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        size, kernel, stride = int(x.shape[-1]), self.kernel_size[0], self.stride[0]
        lacking = max(0, (math.ceil(size / stride) - 1) * stride + kernel - size)
        pads = (lacking // 2, lacking - lacking // 2)
        return super().forward(functional.pad(x, pads * 2) if lacking else x)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class Block(nn.Module):
    """Widen, convolve each channel by itself, narrow; added to the input where the shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.added = stride == 1 and inputs == outputs
        # Names are those of the published weights.
        if expansion > 1:
            self._expand_conv, self._bn0 = SameConv(inputs, inner, 1), _norm(inner)
        self._depthwise_conv, self._bn1 = SameConv(inner, inner, kernel, stride, inner), _norm(inner)
        self._project_conv, self._bn2 = SameConv(inner, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if hasattr(self, "_expand_conv") else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.added else y


class PictureEncoder(nn.Module):
    """EfficientNet-Lite up to its pooled features: uint8 [n, side, side, 3] -> [n, 1280]."""

    def __init__(self, lite: int) -> None:
        super().__init__()
        width, depth = _WIDTH_DEPTH[lite]
        blocks: list[nn.Module] = []
        inputs = 32
        for row, (repeats, kernel, stride, expansion, outputs) in enumerate(_ROWS):
            # The Lite nets do not deepen their first and last rows, nor widen stem and head.
            count = repeats if row in (0, len(_ROWS) - 1) else math.ceil(repeats * depth)
            for position in range(count):
                wide = _eighths(outputs * width)
                blocks.append(Block(inputs, wide, kernel, stride if position == 0 else 1, expansion))
                inputs = wide
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2), _norm(32)
        self._blocks = nn.Sequential(*blocks)
        self._conv_head, self._bn1 = SameConv(inputs, 1280, 1), _norm(1280)

    def forward(self, pictures: Tensor) -> Tensor:
        x = (pictures.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        x = functional.relu6(self._bn1(self._conv_head(self._blocks(x))))
        return x.mean((2, 3))


def _eighths(width: float) -> int:
    """The multiple of 8 next to a width, but not below 90 % of it."""
    rounded = max(8, int(width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * width else rounded


class Spectrogram(nn.Module):
    """Log-mel spectrogram: int16 [n, samples] -> [n, frames, 32], a frame every 10 ms. Weights come from the
    published model, which takes its 80 dB of range over a whole batch; here every recording has its own."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.register_buffer("real", weights["0.stft.conv_real.weight"])
        self.register_buffer("imaginary", weights["0.stft.conv_imag.weight"])
        self.register_buffer("mel", weights["1.melW"])

    def forward(self, samples: Tensor) -> Tensor:
        wave = samples.float().unsqueeze(1)
        waves = [functional.conv1d(wave, weights, stride=160) for weights in (self.real, self.imaginary)]
        power = (waves[0].square() + waves[1].square()).transpose(1, 2)
        decibels = (power @ self.mel).clamp(min=1e-10).log() * (10 / math.log(10))
        decibels = torch.maximum(decibels, decibels.amax((1, 2), keepdim=True) - 80)
        return decibels / 10 + 2  # the scale that the embedding was trained on


class AtLeast(nn.Module):
    """What lies below a number is brought to it."""

    def __init__(self, least: float) -> None:
        super().__init__()
        self.least = least

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=self.least)


def embedding_layers(model: onnx.ModelProto) -> nn.Sequential:
    """The layers of the published speech embedding: [n, 1, frames, 32] -> [n, 96, steps, 1].

    The published model takes windows of 76 frames. Its layers only convolve and pool, so a whole spectrogram may
    go through them at once: step i then says what the window from frame 8 i on would say, at a fraction of the cost.
    """
    weights = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    layers: list[nn.Module] = []
    for node in model.graph.node:
        options = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Conv":
            weight = weights[node.input[1]]
            convolution = nn.Conv2d(
                weight.shape[1],
                weight.shape[0],
                tuple(weight.shape[2:]),
                padding=tuple(options.get("pads", (0, 0))[:2]),
                bias=len(node.input) == 3,
            )
            convolution.weight.data = weight
            if convolution.bias is not None:
                convolution.bias.data = weights[node.input[2]]
            layers.append(convolution)
        elif node.op_type == "LeakyRelu":
            layers.append(nn.LeakyReLU(options["alpha"]))
        elif node.op_type == "Max":
            layers.append(AtLeast(float(weights[node.input[1]].item())))
        elif node.op_type == "MaxPool":
            layers.append(nn.MaxPool2d(options["kernel_shape"], options["strides"]))
        elif node.op_type != "Reshape":
            raise ValueError(f"the speech embedding has a layer of an unknown kind: {node.op_type}")
    return nn.Sequential(*layers)


class SpeechEncoder(nn.Module):
    """Speech embeddings, pooled over time: int16 [n, samples] -> [n, 576]."""

    def __init__(self, spectrogram: Path, embedding: Path) -> None:
        super().__init__()
        published = onnx.load(spectrogram).graph.initializer
        weights = {tensor.name: torch.tensor(numpy_helper.to_array(tensor)) for tensor in published}
        self.spectrogram = Spectrogram(weights)
        self.layers = embedding_layers(onnx.load(embedding))

    def steps(self, samples: Tensor) -> Tensor:
        """[n, 96, steps]: the embedding of every window."""
        return self.layers(self.spectrogram(samples).unsqueeze(1)).squeeze(-1)

    def forward(self, samples: Tensor) -> Tensor:
        steps = self.steps(samples)
        count = int(steps.shape[-1])
        edges = [-(-count * span // SPANS) for span in range(SPANS + 1)]
        spans = [steps[:, :, low:high].mean(-1) for low, high in itertools.pairwise(edges)]
        return torch.cat([steps.mean(-1), steps.amax(-1), *spans], 1)


def caption_encoder(weights: Mapping[str, Tensor], layers: int) -> nn.Module:
    """MiniLM cut after its first layers, mean over tokens, one length for all: int64 [n, t] -> [n, 384]."""
    net = pretrained(weights, layers)
    net.head = nn.Identity()
    return net


class Branch(nn.Module):
    """A modality's features [n, d], standardised as those of the training data are, to the shared width."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", 1 / (features.std(0) + 1e-5))
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(features.shape[1], SHARED)

    def forward(self, features: Tensor) -> Tensor:
        return functional.relu(self.out(self.drop((features - self.mean) * self.scale)))


class Head(nn.Module):
    """Late fusion: a weighted mean of what the given modalities' branches say is classified.

    The classifier is linear, so its logits are the weighted mean of those it would give each modality alone.
    """

    def __init__(self, features: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({name: Branch(values) for name, values in features.items()})
        self.classifier = nn.Linear(SHARED, len(CLASSES))
        self.weights = dict.fromkeys(features, 1.0)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        whole = sum(self.weights[name] for name in features)
        said = [self.branches[name](values) * (self.weights[name] / whole) for name, values in features.items()]
        return self.classifier(torch.stack(said).sum(0))


class Subset(nn.Module):
    """A net that is given some of the modalities, one argument each: their encoders and the head, nothing else."""

    def __init__(self, encoders: Mapping[str, nn.Module], head: Head, modalities: Sequence[str]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: encoders[name] for name in modalities})
        self.head = head

    def forward(self, *inputs: Tensor) -> Tensor:
        given = zip(self.encoders.items(), inputs, strict=True)
        return self.head({name: encoder(x) for (name, encoder), x in given})


def as_tensor(values: np.ndarray) -> Tensor:
    """Without sharing memory: arrays of files may be read-only."""
    return torch.tensor(values)
