"""The interface of a runtime: load a model file, run batches of tensors through it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import ModelInfo, Tensors

PROVIDERS = ("cpu", "cuda", "tensorrt")
"""Execution providers by our names, in no order."""


class ModelError(InputError):
    """A model could not be loaded, or does not run as asked."""


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

    def load(self, model: Path | None, provider: str, threads: int) -> Session:
        """Load a model. `threads` are those inside one operator; operators run one after another.

        Raises ModelError where the file is no model, or where another provider than `provider` would run it.
        """
