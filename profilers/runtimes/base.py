"""The interface of a runtime: load a model file, run batches of tensors through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import ModelInfo, Tensors

PROVIDERS = ("cpu", "openvino", "cuda", "tensorrt")
"""Execution providers by our names, in no order."""


class ModelError(InputError):
    """A model could not be loaded, or does not run as asked."""


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from: a file, or a factory (`module:function` below `root`) whose weights a file has.

    `options` are those of `spec.stage.RuntimeOptions` that are not at their default; `params` are the variant's.
    """

    file: Path | None = None
    factory: str | None = None
    root: Path = Path()
    params: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


class Session(Protocol):
    """A loaded model. `provider` is what really runs it, not what was asked for."""

    info: ModelInfo
    provider: str
    version: str

    def run(self, inputs: Tensors) -> Tensors:
        """Input tensors by name (first dimension: batch) -> output tensors by name."""

    def close(self) -> None:
        """Let the model go. The session cannot be used afterwards."""


class Runtime(Protocol):
    """A library that runs models."""

    name: str

    def version(self) -> str:
        """Version of the installed library."""

    def providers(self) -> tuple[str, ...]:
        """Providers the library claims to have. Whether one works shows only when a model is loaded."""

    def load(self, source: ModelSource, provider: str, threads: int) -> Session:
        """Load a model. `threads` are those inside one operator; operators run one after another.

        Raises ModelError where the file is no model, or where another provider than `provider` would run it.
        """
