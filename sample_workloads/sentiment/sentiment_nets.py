"""The nets, in torch: MiniLM cut after some of its layers, and a bag of tokens.

Both take token ids int64 [n, t], where 0 is padding and t is free, and give logits float32 [n, 2]: negative,
positive. `minilm` is also what the eager variants of the workload name as their factory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 30522
WIDTH = 384
HEADS = 12
INNER = 1536
POSITIONS = 512
CLASSES = 2
SHARPNESS = 8.0
"""What the classifier of a net with layers is multiplied by: the vectors it reads have a length of one."""

_PARTS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "mixed": "attention.output.dense",
    "after_attention": "attention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "after_inner": "output.LayerNorm",
}
"""Parts of a layer: here -> in the published weights, whose names are those of BERT."""


def _norm() -> nn.LayerNorm:
    return nn.LayerNorm(WIDTH, eps=1e-12)


class Layer(nn.Module):
    """A transformer layer of BERT's kind: attention, then a dense network, each added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mixed = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.widen, self.narrow = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
        self.after_attention, self.after_inner = _norm(), _norm()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x float32 [n, t, 384]; mask float32 [n, 1, 1, t] is added to the attention's logits."""
        query, key, value = (_heads(part(x)) for part in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + mask, dim=-1)
        mixed = self.mixed((weights @ value).transpose(1, 2).flatten(2))
        x = self.after_attention(x + mixed)
        return self.after_inner(x + self.narrow(functional.gelu(self.widen(x))))


def _heads(x: Tensor) -> Tensor:
    """[n, t, 384] -> [n, 12, t, 32]"""
    return x.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)


def _mean(x: Tensor, ids: Tensor) -> Tensor:
    """Mean over the tokens that are not padding: [n, t, d] -> [n, d]."""
    real = (ids != 0).unsqueeze(-1).to(x.dtype)
    return (x * real).sum(1) / real.sum(1).clamp(min=1)


class MiniLM(nn.Module):
    """The first `layers` layers of all-MiniLM-L6-v2, the mean over tokens, and a linear classifier.

    The mean is brought to a length of one, as it was when the published weights were trained.
    """

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = _norm()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.words(ids) + self.positions.weight[: ids.shape[1]] + self.kinds.weight[0])
        mask = (ids == 0)[:, None, None, :].to(x.dtype) * -1e4
        for layer in self.layers:
            x = layer(x, mask)
        return SHARPNESS * self.head(functional.normalize(_mean(x, ids), dim=-1))


class Bag(nn.Module):
    """The mean of its tokens' vectors, and a linear classifier: blind to the order of words."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(_mean(self.words(ids), ids))


def minilm(layers: int) -> MiniLM:
    """A MiniLM whose weights are yet to be loaded."""
    return MiniLM(layers)


def pretrained(weights: Mapping[str, Tensor], layers: int) -> MiniLM:
    """The first `layers` layers with the published weights; the classifier is new."""
    net = MiniLM(layers)
    own: dict[str, Tensor] = {
        "words.weight": weights["embeddings.word_embeddings.weight"],
        "positions.weight": weights["embeddings.position_embeddings.weight"],
        "kinds.weight": weights["embeddings.token_type_embeddings.weight"],
        "head.weight": net.head.weight,
        "head.bias": net.head.bias,
    }
    for end in ("weight", "bias"):
        own[f"norm.{end}"] = weights[f"embeddings.LayerNorm.{end}"]
        for layer in range(layers):
            for here, there in _PARTS.items():
                own[f"layers.{layer}.{here}.{end}"] = weights[f"encoder.layer.{layer}.{there}.{end}"]
    net.load_state_dict(own)
    return net
