"""fp16 by ONNX Runtime's converter; inputs and outputs keep their types."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inferplan.profilers.variants.base import FlagRecipe, Order, Settings, Survey
from inferplan.profilers.variants.onnx_files import (
    forget_shapes,
    has_half,
    optimised,
    quiet,
    read_model,
    write_model,
)
from inferplan.spec.errors import InputError

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant


_SINGLE = ("BatchNormalization",)
"""Operators that stay fp32 besides those that the converter leaves so."""


class Half(FlagRecipe):
    """Half-precision weights and arithmetic. Many CPU kernels have none: the runtime casts back, and it is slower."""

    name = "fp16"
    summary = "half-precision weights; inputs and outputs keep their types (ONNX Runtime)"
    packages = ("onnx", "onnxruntime")

    def suffix(self, settings: Settings) -> str:
        return "-fp16"

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if survey.kind != "onnx":
            return "takes ONNX models only (recipe onnx makes one of a torch variant)"
        if survey.quantized or variant.precision == "int8":
            return "takes fp32 models only"
        if survey.half or variant.precision in ("fp16", "bf16"):
            return "half precision already"
        return "" if survey.float_weights else "it has no fp32 weights"

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"precision": "fp16"}

    def make(self, order: Order) -> dict[str, Any]:
        converter = importlib.import_module("onnxruntime.transformers.float16")
        # Folding normalisations into convolutions first: on their own their variances are too small for fp16.
        model = optimised(order.source, order.beside("optimised.onnx"), "basic")
        forget_shapes(model)
        single = [*converter.DEFAULT_OP_BLOCK_LIST, *_SINGLE]
        with quiet():
            made = converter.convert_float_to_float16(model, keep_io_types=True, op_block_list=single)
        # It notes types of intermediate tensors that its own casts then change.
        forget_shapes(made)
        if not has_half(made):
            raise InputError("nothing in it became half precision")
        write_model(made, order.target, read_model(order.source, weights=False))
        return {}
