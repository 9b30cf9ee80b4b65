"""Fine-tuning: all of a net but its word vectors, on sentences of like length at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

BATCH = 32
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises to its highest; then it falls to zero, both evenly."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a net learns. The epochs were fixed beforehand, not picked by the test sentences."""

    epochs: int
    rate: float
    learn_words: bool = False
    decay: float = 0.01


SCHEDULES = {
    "bag": Schedule(epochs=5, rate=5e-3, learn_words=True, decay=1e-4),
    "l1": Schedule(epochs=3, rate=4e-4),
    "l2": Schedule(epochs=2, rate=3e-4),
    "l3": Schedule(epochs=2, rate=2e-4),
    "l6": Schedule(epochs=2, rate=1e-4),
}


def fine_tune(
    net: nn.Module,
    ids: NDArray,
    labels: NDArray,
    schedule: Schedule,
    seed: int,
    say: Callable[[str], object],
) -> nn.Module:
    """Train `net` on token ids int64 [n, t] and labels int64 [n]; `say` hears of the loss now and then."""
    torch.manual_seed(seed)  # decides the order of the sentences; the net was made before
    tokens, truth = torch.from_numpy(ids), torch.from_numpy(labels)
    learned = [p for name, p in net.named_parameters() if schedule.learn_words or name != "words.weight"]
    steps = schedule.epochs * math.ceil(len(truth) / BATCH)
    optimiser = torch.optim.AdamW(learned, lr=schedule.rate, weight_decay=schedule.decay)
    pace = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _pace(step, steps))
    net.requires_grad_(False).train()
    for parameter in learned:
        parameter.requires_grad_(True)
    done, total = 0, 0.0
    for _ in range(schedule.epochs):
        for index in _batches(tokens):
            chosen = tokens[index]
            longest = int((chosen != 0).sum(1).max())
            loss = functional.cross_entropy(net(chosen[:, :longest]), truth[index])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            pace.step()
            done, total = done + 1, total + loss.item()
            if done % 50 == 0:
                say(f"step {done} of {steps}, loss {total / 50:.3f}")
                total = 0.0
    return net.requires_grad_(False).eval()


def _pace(step: int, steps: int) -> float:
    return min(step / max(1.0, WARM_UP * steps), (steps - step) / max(1.0, (1 - WARM_UP) * steps), 1.0)


def _batches(tokens: Tensor) -> Iterator[Tensor]:
    """Every sentence once, in random batches of like length, so that little is spent on padding."""
    lengths = (tokens != 0).sum(1)
    order = torch.randperm(len(tokens))
    batches: list[Tensor] = []
    for part in order.split(BATCH * 16):
        batches += part[lengths[part].argsort(stable=True)].split(BATCH)
    for position in torch.randperm(len(batches)).tolist():
        yield batches[position]
