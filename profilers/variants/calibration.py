"""Inputs to calibrate with: the stage code's own `calibration`, else a small share of its labelled inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferplan.profilers.inputs import PipelineSpec, StageInputs
from inferplan.profilers.runtimes.executor import Executor
from inferplan.profilers.variants.base import Order
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Example, Tensors, as_examples

SHARE_PERCENT = 10
"""Most of the labelled inputs that are used: they judge accuracy as well, which should not rest on them."""
FEW = 16
"""Fewer inputs than this seldom show the whole range of values."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Inputs there are, and whose they are: calibration, examples, requests or made-up."""

    examples: Sequence[Example]
    source: str

    @classmethod
    def of(cls, executor: Executor, requests: PipelineSpec | None) -> Pool:
        """Raises InputError where the stage can have no inputs at all."""
        own = executor.adapter.calibration()
        if own:
            return cls(as_examples([(item, None) for item in own], executor.adapter.owner), "calibration")
        inputs = StageInputs.of(executor, requests)
        source = "made-up" if inputs.made_up else "examples" if inputs.labelled else "requests"
        return cls(inputs.examples, source)

    def draw(self, count: int, share_percent: int, seed: int) -> list[Example]:
        """`count` inputs that the seed fixes, in their order; of labelled ones at most a share, at least one."""
        there = len(self.examples)
        most = there if self.source == "calibration" else max(1, there * share_percent // 100)
        picks = np.random.default_rng(seed).permutation(there)[: min(count, most)]
        return [self.examples[index] for index in sorted(picks)]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Inputs that were drawn, for every choice that uses the model."""

    order: Order
    drawn_inputs: Sequence[Any]
    ids: list[str]
    source: str

    @classmethod
    def drawn(cls, order: Order) -> Calibration:
        """Draw them as the settings `examples`, `share` and `seed` say. Raises InputError where there are none."""
        with Executor.from_spec(order.specs[0]) as executor:
            pool = Pool.of(executor, order.requests)
        if pool.source == "made-up" or not pool.examples:
            raise InputError("there are no inputs to calibrate with")
        settings = order.settings
        examples = pool.draw(settings["examples"], settings["share"], settings["seed"])
        return cls(order, [item.input for item in examples], [item.id for item in examples], pool.source)

    def feeds(self) -> Iterator[Tensors]:
        """What the model is fed with, one input at a time (as many as its batch size where that is fixed)."""
        for spec in self.order.specs:
            with Executor.from_spec(spec) as executor:
                size = executor.fixed_batch or 1
                for start in range(0, len(self.drawn_inputs), size):
                    batch = [self.drawn_inputs[(start + i) % len(self.drawn_inputs)] for i in range(size)]
                    yield executor.adapter.preprocess(batch)
