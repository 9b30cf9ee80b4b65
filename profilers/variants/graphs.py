"""The same arithmetic in another graph: another operator-set version, or optimised once and for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inferplan.profilers.variants.base import FlagRecipe, Order, Recipe, Settings, Survey, listed
from inferplan.profilers.variants.onnx_files import at_opset, optimised, read_model, write_model
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant

_OLDEST_OPSET = 7


class Opset(Recipe):
    """Another version of the operator set, for runtimes and tools that want it."""

    name = "opset"
    summary = "another version of the operator set: opset:17,21 (onnx)"
    packages = ("onnx",)

    def parse(self, text: str) -> list[dict[str, Any]]:
        found = listed(text)
        if not found or not all(part.isdigit() and int(part) >= _OLDEST_OPSET for part in found):
            raise InputError(f"--recipe opset: expected versions from {_OLDEST_OPSET} on, e.g. opset:17")
        return [{"opset": int(part)} for part in found]

    def suffix(self, settings: Settings) -> str:
        return f"-opset{settings['opset']}"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if survey.kind != "onnx":
            return "takes ONNX models only"
        return f"has opset {settings['opset']} already" if survey.opset == settings["opset"] else ""

    def make(self, order: Order) -> dict[str, Any]:
        model = read_model(order.source)
        write_model(at_opset(model, int(order.settings["opset"])), order.target, model)
        return {}


class Offline(FlagRecipe):
    """Optimised by ONNX Runtime and saved, so that loading need not do it. Level `all` would tie the file to this
    processor, so it is not offered."""

    name = "offline"
    summary = "graph optimisations done ahead and saved: offline:basic or offline:extended (ONNX Runtime)"
    packages = ("onnxruntime",)
    defaults = {"level": "extended"}
    words = {"basic": {"level": "basic"}, "extended": {"level": "extended"}}

    def suffix(self, settings: Settings) -> str:
        return f"-off-{settings['level']}"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        return "" if survey.kind == "onnx" else "takes ONNX models only"

    def make(self, order: Order) -> dict[str, Any]:
        model = optimised(order.source, order.beside("optimised.onnx"), str(order.settings["level"]))
        write_model(model, order.target, read_model(order.source, weights=False))
        return {}
