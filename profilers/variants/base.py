"""What a recipe is: which variants it applies to, what it changes in them, and how it makes a model file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from inferplan.profilers.inputs import PipelineSpec
from inferplan.profilers.runtimes.executor import ExecutorSpec
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant  # pydantic: measuring processes do without

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at a variant found. `failure` says why nothing can be made from it.

    `kind` is onnx, torchscript, exported, eager or none. ONNX only: `opset` of the default domain, `operators`
    counted by type, `weights` (float32 elements) by the type of the operator that takes them, `float_weights` of
    all of them. `examples` counts the inputs there are to calibrate with, `inputs_sha256` is their hash, `source`
    says whose they are: calibration, examples, requests, made-up.
    """

    failure: str = ""
    kind: str = "none"
    opset: int = 0
    operators: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    float_weights: int = 0
    half: bool = False
    quantized: bool = False
    inputs: Mapping[str, Sequence[int | str | None] | None] = field(default_factory=dict)
    examples: int = 0
    inputs_sha256: str = ""
    source: str = ""
    providers: tuple[str, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `Survey.of` is the inverse."""
        return asdict(self)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Survey:
        """From plain data."""
        return cls(**{**data, "providers": tuple(data["providers"])})

    def share(self, operators: Sequence[str]) -> float:
        """Share of the float32 weights that these types of operators take."""
        held = sum(self.weights.get(name, 0) for name in operators)
        return held / self.float_weights if self.float_weights else 0.0


@dataclass(frozen=True, slots=True)
class Order:
    """What the process that makes a file is told: the choices that use the parent's file (at least one), where the
    entry stage's requests come from, the recipe's settings, where the file goes. Other files may be left beside it."""

    specs: tuple[ExecutorSpec, ...]
    requests: PipelineSpec | None
    settings: Settings
    target: Path

    @property
    def source(self) -> Path:
        """The parent's model file."""
        assert self.specs[0].model is not None
        return Path(self.specs[0].model)

    def beside(self, name: str) -> Path:
        """A file for intermediate results."""
        return self.target.with_name(name)


class Recipe(ABC):
    """A way to make a variant from another. `settings` have every key, defaults included; they are what the
    workload file records."""

    name: ClassVar[str]
    summary: ClassVar[str]
    makes_file: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose version decides what is made."""
    uses_inputs: ClassVar[bool] = False
    """Whether the stage's inputs and code decide what is made."""
    revision: ClassVar[int] = 1
    """Raised when the recipe changes, so that what an older one made is made again."""
    same_outputs: ClassVar[bool] = True
    """Whether the outputs have the shapes of the parent's."""
    reduced: ClassVar[bool] = False
    """Whether outputs may come in another floating-point type."""

    @abstractmethod
    def parse(self, text: str) -> list[dict[str, Any]]:
        """Settings from what stands after `NAME:` on the command line, one per variant to make.

        Raises InputError.
        """

    def completed(self, settings: Settings) -> dict[str, Any]:
        """Recorded settings as they are written today: with the defaults of what came later."""
        return dict(settings)

    @abstractmethod
    def suffix(self, settings: Settings) -> str:
        """What the made variant's name adds to its parent's."""

    @abstractmethod
    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        """Why it does not apply to a variant; empty where it does."""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        """Fields of the made variant that differ from its parent's, as the document has them."""
        return {}

    def make(self, order: Order) -> dict[str, Any]:
        """Write the model file; returns further settings to record. Runs in the measuring process."""
        raise NotImplementedError(f"{self.name} makes no file")


class FlagRecipe(Recipe):
    """A recipe whose settings are words and `key=value`, separated by commas; it makes one variant."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What a word stands for."""

    def parse(self, text: str) -> list[dict[str, Any]]:
        found = dict(self.defaults)
        for part in [part.strip() for part in text.split(",") if part.strip()]:
            key, equals, value = part.partition("=")
            if not equals and part in self.words:
                found.update(self.words[part])
            elif equals and key.replace("-", "_") in self.defaults:
                found[key.replace("-", "_")] = self.value(key.replace("-", "_"), value.strip())
            else:
                known = [*self.words, *(f"{name.replace('_', '-')}=..." for name in self.valued())]
                raise InputError(
                    f"--recipe {self.name}: {part!r} is no setting of it"
                    + (f"; there are: {', '.join(known)}" if known else "; it has none")
                )
        return [found]

    def completed(self, settings: Settings) -> dict[str, Any]:
        return {**self.defaults, **{key: value for key, value in settings.items() if key in self.defaults}}

    def valued(self) -> list[str]:
        """Settings that take a value."""
        named = {key for change in self.words.values() for key in change}
        return [name for name in self.defaults if name not in named]

    def value(self, key: str, text: str) -> Any:
        """A setting's value: an integer, or names joined by `+`."""
        if isinstance(self.defaults[key], int):
            if not text.isdigit():
                raise InputError(f"--recipe {self.name}: {key}={text}: expected a whole number")
            return int(text)
        return [part for part in text.split("+") if part]


def listed(text: str) -> list[str]:
    """Values separated by commas, without repeats."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
