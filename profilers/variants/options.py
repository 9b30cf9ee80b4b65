"""Variants that run their parent's file with other runtime options, and those that are no variants but providers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from inferplan.profilers.variants.base import Recipe, Settings, Survey, listed
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant


class _Choices(Recipe):
    makes_file = False
    values: ClassVar[tuple[str, ...]] = ()
    unasked: ClassVar[tuple[str, ...]] = ()
    """Values taken where none are given."""
    key: ClassVar[str] = ""

    def parse(self, text: str) -> list[dict[str, Any]]:
        found = listed(text) or list(self.unasked)
        wrong = [part for part in found if part not in self.values]
        if wrong:
            raise InputError(f"--recipe {self.name}:{wrong[0]}: choose among {', '.join(self.values)}")
        return [{self.key: part} for part in found]


class GraphLevel(_Choices):
    """Fewer graph optimisations while loading."""

    name = "graph"
    summary = "the same file with other graph optimisations while loading: graph:basic,disabled (ONNX Runtime)"
    values = ("all", "extended", "basic", "disabled")
    unasked = ("extended", "basic", "disabled")
    key = "level"

    def suffix(self, settings: Settings) -> str:
        return f"-opt-{settings['level']}"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if variant.runtime != "onnxruntime":
            return "belongs to runtime onnxruntime"
        if variant.options.graph_optimization == settings["level"]:
            return f"has level {settings['level']} already"
        return ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"options": {**variant.options.changed(), "graph_optimization": settings["level"]}}


class Autocast(_Choices):
    """Mixed precision in torch."""

    name = "autocast"
    summary = "the same torch program in mixed precision: autocast:bf16,fp16"
    values = ("bf16", "fp16")
    unasked = ("bf16",)
    key = "type"
    reduced = True

    def suffix(self, settings: Settings) -> str:
        return f"-{settings['type']}"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if variant.runtime != "torch":
            return "belongs to runtime torch"
        if survey.half or variant.options.autocast != "none" or variant.precision != "fp32":
            return "takes fp32 variants only"
        return ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"precision": "mixed", "options": {**variant.options.changed(), "autocast": settings["type"]}}


class Compile(Recipe):
    """torch.compile."""

    name = "compile"
    summary = "the same torch module, prepared by torch.compile"
    makes_file = False

    def parse(self, text: str) -> list[dict[str, Any]]:
        if text.strip():
            raise InputError("--recipe compile has no settings")
        return [{}]

    def suffix(self, settings: Settings) -> str:
        return "-compiled"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if variant.runtime != "torch":
            return "belongs to runtime torch"
        if survey.kind == "torchscript":
            return "torch.compile takes no TorchScript"
        return "compiled already" if variant.options.compile else ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"options": {**variant.options.changed(), "compile": True}}


class Provider(Recipe):
    """OpenVINO and TensorRT prepare a model while they load it: no file, and no variant, but another provider."""

    makes_file = False

    def __init__(self, name: str) -> None:
        self.name = name  # type: ignore[misc]
        self.summary = f"no variant: {name} is a provider, which profile.providers asks for"  # type: ignore[misc]

    def parse(self, text: str) -> list[dict[str, Any]]:
        return [{}]

    def suffix(self, settings: Settings) -> str:
        return f"-{self.name}"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if self.name not in survey.providers:
            return f"a provider, not a file; the installed onnxruntime has no {self.name}"
        return f"a provider, not a file: set `profile: {{providers: [cpu, {self.name}]}}`"
