"""The runtime that runs no model: the stage code's `passthrough` does all there is to do."""

from __future__ import annotations

from inferplan.profilers.runtimes.base import PROVIDERS, ModelError, ModelSource, Session
from inferplan.spec.stagecode import ModelInfo, Tensors


class SkipSession:
    """No model: no inputs, no outputs. It stands for a place on whatever provider it is asked for."""

    version = ""

    def __init__(self, provider: str) -> None:
        self.info = ModelInfo((), ())
        self.provider = provider

    def run(self, inputs: Tensors) -> Tensors:
        """Nothing goes in and nothing comes out."""
        return {}

    def close(self) -> None:
        """Nothing to let go."""


class SkipRuntime:
    """Loads nothing."""

    name = "skip"

    def version(self) -> str:
        """Passing things through has no version."""
        return ""

    def providers(self) -> tuple[str, ...]:
        """Every provider: nothing runs on it."""
        return PROVIDERS

    def load(self, source: ModelSource, provider: str, threads: int) -> Session:
        """Raises ModelError where there is a model after all."""
        if source.file is not None:
            raise ModelError(f"{source.file}: runtime skip runs no model")
        return SkipSession(provider)
