"""Running one variant of a stage: its model and its stage code together.

The profiler times it and the runner serves with it, so what was measured is what runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from inferplan.profilers.runtimes.base import ModelSource, Session
from inferplan.profilers.runtimes.inputs import InputDeclaration, completed, fed_shape, random_inputs
from inferplan.profilers.runtimes.registry import runtime
from inferplan.spec.choice import Choice
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Context, Example, ModelInfo, Scores, StageAdapter, Tensors, stage_adapter

if TYPE_CHECKING:
    from inferplan.spec.stage import Stage


DRAWN = 16
"""Random inputs, of which the largest warms a model up."""


@dataclass(frozen=True, slots=True)
class ExecutorSpec:
    """What is needed to open a variant, as plain data (it survives JSON)."""

    root: str
    stage: str
    variant: str
    runtime: str
    model: str | None = None
    code: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    input_shapes: Mapping[str, Sequence[int | str]] = field(default_factory=dict)
    input_dims: Mapping[str, int | Mapping[str, Sequence[float]]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    factory: str | None = None
    modalities: tuple[str, ...] = ()
    input_dtypes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, root: Path, stage_name: str, stage: Stage, choice: Choice) -> ExecutorSpec:
        """The spec of a choice for a stage of a workload whose folder is `root`."""
        variant = stage.variants[choice.variant]
        model = variant.model_of(choice.subset)
        return cls(
            str(root),
            stage_name,
            choice.variant,
            variant.runtime,
            None if model is None else str((root / model).resolve()),
            stage.code,
            variant.params,
            variant.input_shapes,
            {name: size if isinstance(size, int) else size.model_dump() for name, size in variant.input_dims.items()},
            variant.options.changed(),
            variant.factory,
            choice.modalities,
            variant.input_dtypes,
        )

    @property
    def choice(self) -> str:
        """Name of the choice: `variant`, or `variant@modality+modality`."""
        return Choice(self.variant, tuple(self.modalities)).name

    @property
    def source(self) -> ModelSource:
        """Where its model comes from."""
        file = None if self.model is None else Path(self.model)
        return ModelSource(file, self.factory, Path(self.root), self.params, self.options)

    @property
    def declared(self) -> InputDeclaration:
        """What the variant says of its model's inputs."""
        owner = f"stage {self.stage}, variant {self.variant}"
        return InputDeclaration(owner, self.input_shapes, self.input_dims, self.input_dtypes)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `ExecutorSpec(**data)` is the inverse."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of one batch: a prediction per stage input, and where the time went."""

    predictions: list[Any]
    pre_s: float
    infer_s: float
    post_s: float
    elements: int = 0
    """Elements (not bytes) of all tensors that the model was fed, padding and batch included: what latency grows
    with where sizes are drawn. 0 where no model runs. Counted outside of the three times."""

    @property
    def service_s(self) -> float:
        """Time of the whole batch."""
        return self.pre_s + self.infer_s + self.post_s


class Executor:
    """A loaded variant with its stage code. Not for use by two threads at once.

    `info` is what the model says of itself, and the variant of it where it says nothing; empty for skip variants.
    """

    def __init__(self, spec: ExecutorSpec, session: Session, adapter: StageAdapter, info: ModelInfo) -> None:
        self.spec = spec
        self.info = info
        self.adapter = adapter
        self._session = session
        self._skips = spec.runtime == "skip"

    @classmethod
    def open(
        cls,
        workload_root: Path,
        stage_name: str,
        stage: Stage,
        choice: Choice,
        provider: str = "cpu",
        threads: int = 1,
    ) -> Executor:
        """Load a choice of a workload. Raises ModelError, MissingExtraError, InputError (stage code)."""
        spec = ExecutorSpec.of(workload_root, stage_name, stage, choice)
        return cls.from_spec(spec, provider, threads)

    @classmethod
    def from_spec(cls, spec: ExecutorSpec, provider: str = "cpu", threads: int = 1) -> Executor:
        """Load what a spec describes. Raises as `open`."""
        session = runtime(spec.runtime).load(spec.source, provider, threads)
        info = completed(session.info, spec.declared)
        model = None if spec.runtime == "skip" else info
        context = Context(Path(spec.root), spec.params, spec.stage, spec.variant, model, tuple(spec.modalities))
        return cls(spec, session, stage_adapter(spec.code, context), info)

    @property
    def provider(self) -> str:
        """The execution provider that really runs the model."""
        return self._session.provider

    @property
    def session(self) -> Session:
        """The loaded model alone, for those who look at tensors."""
        return self._session

    @property
    def version(self) -> str:
        """Version of the runtime."""
        return self._session.version

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size the model takes; None where it leaves the batch dimension free."""
        sizes = [tensor.shape[0] for tensor in self.info.inputs if tensor.shape and tensor.shape[0] is not None]
        return min(sizes) if sizes else None

    def execute(self, inputs: Sequence[Any]) -> Batch:
        """Run one batch of stage inputs. Errors of stage code and runtime pass through as they are."""
        adapter = self.adapter
        if self._skips:
            start = perf_counter()
            predictions = adapter.passthrough(inputs)
            return Batch(predictions, 0.0, 0.0, perf_counter() - start)
        start = perf_counter()
        tensors = adapter.preprocess(inputs)
        ready = perf_counter()
        outputs = self._session.run(tensors)
        done = perf_counter()
        predictions = adapter.postprocess(inputs, outputs)
        post_s = perf_counter() - done
        return Batch(predictions, ready - start, done - ready, post_s, _elements(tensors))

    def elements(self, inputs: Sequence[Any]) -> int:
        """`Batch.elements` of a batch that is prepared and not run."""
        return 0 if self._skips else _elements(self.adapter.preprocess(inputs))

    def examples(self) -> list[Example]:
        """The stage's labelled inputs; empty where the stage code has none."""
        return self.adapter.examples()

    def made_up_inputs(self, count: int, seed: int = 0) -> list[Any]:
        """Random stage inputs from the shapes the model and the variant declare; see `random_inputs`.

        Raises InputError for a free dimension without a value, and for stages whose own pre-processing
        wants inputs that cannot be made up.
        """
        declared = self.spec.declared
        if self.adapter.defines("preprocess") or self._skips:
            raise InputError(f"{declared.owner}: it has no inputs to measure with; give its stage code `examples`")
        return list(random_inputs(self.info, declared, count, seed))

    def run_made_up(self, batch: int) -> None:
        """Run the model alone on a batch of random tensors, of the largest of some that are drawn: a warm-up.

        Raises InputError for a free dimension without a value.
        """
        drawn = random_inputs(self.info, self.spec.declared, DRAWN)
        largest = max(drawn, key=lambda item: sum(part.size for part in item.values()))
        self._session.run({name: np.stack([part] * batch) for name, part in largest.items()})

    def made_up_shape(self, batch: int) -> dict[str, list[Any]]:
        """What the model is fed with at a batch size where inputs are made up; see `fed_shape`."""
        return fed_shape(self.info, self.spec.declared, batch)

    def route(self, stage_input: Any, prediction: Any) -> list[Any]:
        """The stage inputs that one call sends downstream."""
        return self.adapter.route(stage_input, prediction)

    def score(self, predictions: Sequence[Any], truths: Sequence[Any]) -> dict[str, Scores]:
        """Metric name -> scores over the examples."""
        return self.adapter.score(predictions, truths)

    def close(self) -> None:
        """Let the model go."""
        self._session.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _elements(tensors: Tensors) -> int:
    return sum(np.size(part) for part in tensors.values())
