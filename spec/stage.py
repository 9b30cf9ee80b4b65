"""What the workload says of one task: its metric, its modalities, the variants that can do it."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from inferplan.spec.choice import Choice as Choice
from inferplan.spec.choice import subset_name as subset_name
from inferplan.spec.types import (
    CodeReference,
    Name,
    NonNegative,
    PositiveInt,
    PositiveNumber,
    Record,
    RelativePath,
    Seconds,
)

Direction = Literal["maximize", "minimize"]


BuiltInMetric = Literal["top1", "f1", "exact_match", "cer", "wer", "auc", "mae", "recall_at_k"]

BUILT_IN_METRICS: tuple[str, ...] = get_args(BuiltInMetric)


class Metric(Record):
    """An accuracy metric and which way is better: a built-in one, a function, or what the code's `score` returns."""

    name: Name
    direction: Direction = "maximize"
    compute: BuiltInMetric | CodeReference | None = Field(
        None,
        description="A built-in metric, or module:function of (predictions, truths); absent: the key `name` of what"
        " the code's `score` returns.",
    )
    k: PositiveInt | None = Field(None, description="recall_at_k: how many of the first answers count.")

    @model_validator(mode="after")
    def _k_where_it_counts(self) -> Metric:
        if (self.k is not None) != (self.compute == "recall_at_k"):
            raise ValueError("'k' belongs to compute: recall_at_k, and compute: recall_at_k needs 'k'")
        lower_is_better = self.compute in ("cer", "wer", "mae")
        if lower_is_better != (self.direction == "minimize") and self.compute in BUILT_IN_METRICS:
            raise ValueError(f"{self.compute}: write direction: {'minimize' if lower_is_better else 'maximize'}")
        return self


TensorType = Literal[
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"
]


class TensorSpec(Record):
    """A tensor of the served pipeline. `shape` excludes the batch dimension; -1 is a free dimension."""

    name: Name
    dtype: TensorType | Literal["string"]
    shape: list[Annotated[int, Field(ge=-1)]]


class ModalitySpec(Record):
    """Which of the stage's modalities a variant reads, and which of them it can be spared."""

    reads: list[Name] = Field(min_length=1)
    optional: list[Name] = []
    models: dict[str, RelativePath] = Field(
        default={},
        description="Model file per modality subset (names joined by '+'), where subsets have their own.",
    )

    @model_validator(mode="after")
    def _names_fit(self) -> ModalitySpec:
        unknown = sorted(set(self.optional) - set(self.reads))
        if unknown:
            raise ValueError(f"'optional' names what is not in 'reads': {', '.join(unknown)}")
        known = {subset_name(subset) for subset in self.subsets()}
        wrong = sorted(set(self.models) - known)
        if wrong:
            raise ValueError(f"'models' has {', '.join(wrong)}; the subsets are {', '.join(sorted(known))}")
        return self

    def subsets(self) -> list[tuple[str, ...]]:
        """Every subset of modalities the variant can be given, each sorted; the largest comes first."""
        needed = set(self.reads) - set(self.optional)
        found = [
            tuple(sorted(needed | set(extra)))
            for count in range(len(self.optional), -1, -1)
            for extra in itertools.combinations(sorted(self.optional), count)
        ]
        return [subset for subset in found if subset]


class Sizes(Record):
    """Distribution of the size of a free dimension, in elements."""

    values: list[PositiveInt] = Field(min_length=1)
    weights: list[PositiveNumber] = Field(min_length=1)

    @model_validator(mode="after")
    def _same_length(self) -> Sizes:
        if len(self.values) != len(self.weights):
            raise ValueError(f"{len(self.values)} values but {len(self.weights)} weights")
        return self


class RuntimeOptions(Record):
    """How the runtime is told to run the model. What is profiled is exported and run."""

    graph_optimization: Literal["all", "extended", "basic", "disabled"] = Field(
        "all", description="onnxruntime: which graph optimisations are applied when the model is loaded."
    )
    compile: bool = Field(False, description="torch: whether torch.compile prepares the module.")
    autocast: Literal["none", "bf16", "fp16"] = Field("none", description="torch: mixed precision.")

    def changed(self) -> dict[str, Any]:
        """Options that are not at their default: what keys and tables show."""
        return self.model_dump(exclude_defaults=True)


class Recipe(Record):
    """How a variant was made from its parent (`inferplan variants` writes it)."""

    name: Name
    settings: dict[Name, Any] = {}


WITHOUT_MODEL = ("skip", "external")
"""Runtimes of variants that have no model file."""


class Variant(Record):
    """One way to do a stage's task."""

    model: RelativePath | None = Field(
        None, description="Model file, relative to this file. With `factory`: its weights, safetensors or a state dict."
    )
    factory: CodeReference | None = Field(
        None, description="torch: module:function that makes the module, given `params`; `model` has its weights."
    )
    options: RuntimeOptions = RuntimeOptions()
    runtime: Literal["onnxruntime", "torch", "skip", "external"] = Field(
        "onnxruntime",
        description="'skip' runs no model: the stage passes its input through. 'external' is run by something else: it"
        " is planned from imported measurements, and neither profiled, exported nor run.",
    )
    precision: Literal["fp32", "fp16", "bf16", "int8", "mixed"] = "fp32"
    params: dict[Name, Any] = Field(default={}, description="Given to the stage code as context.params.")
    input_shapes: dict[str, list[PositiveInt | Name]] = Field(
        default={},
        description="Shape per model input without the batch dimension, where the model leaves it free. A name stands"
        " for a size of `input_dims`.",
    )
    input_dims: dict[Name, PositiveInt | Sizes] = Field(
        default={},
        description="Size, or distribution of sizes, per named free dimension: the model's own names, or those in"
        " `input_shapes`.",
    )
    input_dtypes: dict[str, TensorType] = Field(
        default={}, description="torch: type per model input, where the program does not say it."
    )
    modalities: ModalitySpec | None = None
    accuracy: NonNegative | None = Field(
        None, description="Declared (not measured) value of the stage's metric; used where none was measured."
    )
    parent: Name | None = Field(None, description="The variant this one was made from.")
    recipe: Recipe | None = Field(None, description="How it was made from its parent.")
    license: str | None = None

    @model_validator(mode="after")
    def _model_matches_runtime(self) -> Variant:
        if self.runtime == "skip" and self.model is not None:
            raise ValueError("a skip variant runs no model: remove 'model', or choose another runtime")
        if self.runtime == "external" and (self.model is not None or self.factory is not None):
            raise ValueError("an external variant has no model here: remove 'model', or choose another runtime")
        covered = self.modalities is not None and len(self.modalities.models) == len(self.modalities.subsets())
        if self.runtime not in WITHOUT_MODEL and self.model is None and self.factory is None and not covered:
            raise ValueError("missing field 'model' (a model file, relative to this file)")
        if self.factory is not None and self.runtime != "torch":
            raise ValueError("'factory' belongs to runtime: torch")
        if self.runtime != "torch" and (self.options.compile or self.options.autocast != "none"):
            raise ValueError("options.compile and options.autocast belong to runtime: torch")
        if self.runtime != "torch" and self.input_dtypes:
            raise ValueError("'input_dtypes' belongs to runtime: torch")
        if self.runtime != "onnxruntime" and self.options.graph_optimization != "all":
            raise ValueError("options.graph_optimization belongs to runtime: onnxruntime")
        return self

    def model_of(self, subset: str = "") -> str | None:
        """The model file given for a modality subset (its name), as the workload writes it."""
        own = self.modalities.models.get(subset) if self.modalities is not None else None
        return own if own is not None else self.model


class Stage(Record):
    """One task of the pipeline, and the variants that can do it."""

    task: str | None = Field(None, description="What the stage does, in words.")
    code: CodeReference | None = Field(None, description="module:Class with the stage's pre- and post-processing.")
    metric: Metric | None = None
    modalities: list[Name] = []
    variants: dict[Name, Variant] = Field(min_length=1)
    max_queue_delays_s: list[Seconds] = Field(
        default=[0.0],
        min_length=1,
        description="Queue delays the planner may choose; 0 never waits to fill a batch.",
    )
    queue_limit: PositiveInt | None = Field(
        None, description="Most calls that may wait at one option; one that finds the queue full is shed. Absent: any."
    )

    def choices(self) -> dict[str, Choice]:
        """Every variant with every modality subset it can be given, by name; in the order of the document.

        A variant without `modalities` reads whatever its stage is given.
        """
        found: list[Choice] = []
        for name, variant in self.variants.items():
            subsets = variant.modalities.subsets() if variant.modalities is not None else [()]
            found += [Choice(name, subset) for subset in subsets]
        return {choice.name: choice for choice in found}
