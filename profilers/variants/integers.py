"""int8 by ONNX Runtime's own tools: dynamic (weights ahead, activations while it runs) and static (QDQ, calibrated).

| | int8-dynamic | int8-static |
|---|---|---|
| activations | ranges found at every call | ranges found once, on calibration inputs |
| operators (`ops=`) | MatMul, Gemm, Gather, LSTM, Attention, EmbedLayerNormalization | Conv, MatMul, Gemm |
| scales | per tensor | per channel of the weights |

Activations are unsigned, weights signed: what ONNX Runtime advises for x86. Processors without VNNI or AMX may
saturate then; `reduce-range` uses seven bits of the weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from inferplan.profilers.variants.base import FlagRecipe, Order, Settings, Survey
from inferplan.profilers.variants.calibration import FEW, SHARE_PERCENT, Calibration
from inferplan.profilers.variants.onnx_files import (
    at_opset,
    counted_operators,
    forget_shapes,
    opset_of,
    quiet,
    read_model,
    write_model,
)
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Tensors

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant

DYNAMIC = ("MatMul", "Gemm", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
STATIC = ("Conv", "MatMul", "Gemm")
LEAST_SHARE = 0.1
"""Where fewer of the weights than this would become int8, nothing is gained."""
_PER_CHANNEL_OPSET = 13
_TARGET_OPSET = 17


class _Int8(FlagRecipe):
    packages = ("onnx", "onnxruntime")
    operators: ClassVar[tuple[str, ...]] = ()
    possible: ClassVar[tuple[str, ...]] = ()

    def value(self, key: str, text: str) -> Any:
        found = super().value(key, text)
        if key == "ops":
            wrong = sorted(set(found) - set(self.possible))
            if wrong or not found:
                raise InputError(f"--recipe {self.name}: ops={text}: choose among {'+'.join(self.possible)}")
        return found

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if survey.kind != "onnx":
            return "takes ONNX models only (recipe onnx makes one of a torch variant)"
        if survey.quantized or variant.precision == "int8":
            return "int8 already"
        if survey.half or variant.precision in ("fp16", "bf16"):
            return "takes fp32 models only"
        ops = settings["ops"] or self.operators
        share = survey.share(ops)
        if share == 0.0:
            return f"no weights of {', '.join(ops)}"
        if share < LEAST_SHARE and not settings["ops"]:
            return f"only {100 * share:.1f} % of the weights are in {', '.join(ops)} (ops= names others)"
        return ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"precision": "int8"}

    def make(self, order: Order) -> dict[str, Any]:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        model = original = read_model(order.source)
        if settings_need_newer(order.settings) and opset_of(model) < _PER_CHANNEL_OPSET:
            model = at_opset(model, _TARGET_OPSET)
        forget_shapes(model)
        plain, shaped, quantized = (order.beside(f"{step}.onnx") for step in ("plain", "shaped", "quantized"))
        write_model(model, plain, original)
        with quiet():
            quant_pre_process(str(plain), str(shaped), skip_symbolic_shape=True)
            before = counted_operators(read_model(shaped, weights=False))
            further = self.quantize(order, shaped, quantized, list(order.settings["ops"] or self.operators))
        made = read_model(quantized)
        if counted_operators(made) == before:
            raise InputError("nothing in it became int8")
        write_model(made, order.target, original)
        return further

    @abstractmethod
    def quantize(self, order: Order, source: Path, target: Path, operators: list[str]) -> dict[str, Any]:
        """Call the tool; returns further settings to record."""


def settings_need_newer(settings: Settings) -> bool:
    """Scales per channel need the newer QuantizeLinear."""
    return bool(settings["per_channel"])


class Int8Dynamic(_Int8):
    """Weights ahead of time, activations at every call."""

    name = "int8-dynamic"
    summary = "int8 weights; activations become int8 at every call (ONNX Runtime)"
    operators = DYNAMIC
    possible = (*DYNAMIC, "Conv")
    defaults: ClassVar[Mapping[str, Any]] = {"per_channel": False, "reduce_range": False, "ops": []}
    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "per-channel": {"per_channel": True},
        "reduce-range": {"reduce_range": True},
    }

    def suffix(self, settings: Settings) -> str:
        return "-int8" + _marks(settings, self.defaults)

    def quantize(self, order: Order, source: Path, target: Path, operators: list[str]) -> dict[str, Any]:
        from onnxruntime import quantization

        # ONNX Runtime has no integer convolution with signed weights.
        weights = quantization.QuantType.QUInt8 if "Conv" in operators else quantization.QuantType.QInt8
        quantization.quantize_dynamic(
            str(source),
            str(target),
            op_types_to_quantize=_tools_names(operators),
            per_channel=order.settings["per_channel"],
            reduce_range=order.settings["reduce_range"],
            weight_type=weights,
        )
        return {}


def _tools_names(operators: list[str]) -> list[str]:
    """Gemm becomes MatMul and Add before it is quantised."""
    return list(dict.fromkeys("MatMul" if name == "Gemm" else name for name in operators))


class Int8Static(_Int8):
    """Weights and activations, with ranges from calibration inputs."""

    name = "int8-static"
    summary = "int8 weights and activations, calibrated on the stage's own inputs (ONNX Runtime, QDQ)"
    uses_inputs = True
    operators = STATIC
    possible = (*STATIC, "ConvTranspose", "Gather", "LayerNormalization", "InstanceNormalization")
    defaults: ClassVar[Mapping[str, Any]] = {
        "per_channel": True, "reduce_range": False, "ops": [], "method": "minmax", "examples": 64,
        "share": SHARE_PERCENT, "seed": 0,
    }  # fmt: skip
    words: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "per-channel": {"per_channel": True},
        "per-tensor": {"per_channel": False},
        "reduce-range": {"reduce_range": True},
        "minmax": {"method": "minmax"},
        "entropy": {"method": "entropy"},
        "percentile": {"method": "percentile"},
    }

    def parse(self, text: str) -> list[dict[str, Any]]:
        (found,) = super().parse(text)
        if found["examples"] < 1 or not 1 <= found["share"] <= 100:
            raise InputError(f"--recipe {self.name}: examples are 1 or more, share is 1 to 100 (per cent)")
        return [found]

    def suffix(self, settings: Settings) -> str:
        return "-int8s" + _marks(settings, self.defaults)

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if survey.source == "made-up":
            return "no labelled inputs to calibrate with; give the stage code `examples` or `calibration`"
        return super().refusal(variant, survey, settings)

    def quantize(self, order: Order, source: Path, target: Path, operators: list[str]) -> dict[str, Any]:
        from onnxruntime import quantization

        calibration = Calibration.drawn(order)
        quantization.quantize_static(
            str(source),
            str(target),
            _reader(calibration.feeds()),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=order.settings["per_channel"],
            reduce_range=order.settings["reduce_range"],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=operators,
            calibrate_method={
                "minmax": quantization.CalibrationMethod.MinMax,
                "entropy": quantization.CalibrationMethod.Entropy,
                "percentile": quantization.CalibrationMethod.Percentile,
            }[order.settings["method"]],
        )
        return {"calibrated_on": calibration.ids, "calibration_source": calibration.source}


def _reader(feeds: Iterator[Tensors]) -> Any:
    from onnxruntime import quantization

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Tensors | None:
            return next(feeds, None)

    return Feeds()


def _marks(settings: Settings, defaults: Mapping[str, Any]) -> str:
    """What sets a variant apart from the one with all defaults."""
    marks = []
    if settings["per_channel"] != defaults["per_channel"]:
        marks.append("pc" if settings["per_channel"] else "pt")
    if settings["reduce_range"]:
        marks.append("rr")
    if settings["ops"]:
        marks.append("".join(name.lower()[:4] for name in settings["ops"]))
    if settings.get("method", "minmax") != "minmax":
        marks.append(settings["method"])
    if settings.get("examples") != defaults.get("examples"):
        marks.append(f"n{settings['examples']}")
    if settings.get("share") != defaults.get("share"):
        marks.append(f"p{settings['share']}")
    if settings.get("seed"):
        marks.append(f"s{settings['seed']}")
    return "".join(f"-{mark}" for mark in marks)


def calibration_notes(settings: Settings) -> list[str]:
    """What to know of how a variant was calibrated: on few inputs, or on those that judge its accuracy."""
    source = settings.get("calibration_source")
    if source is None:
        return []
    count = len(settings["calibrated_on"])
    notes = []
    if count < FEW:
        notes.append(
            f"calibrated on {count} inputs only: rarer values may be cut off (share= takes more than"
            f" {SHARE_PERCENT} % of the labelled inputs; a `calibration` method in the stage code gives others)"
        )
    if source in ("examples", "requests"):
        notes.append(
            f"calibrated on {count} of the labelled inputs that also judge its accuracy (at most {settings['share']} %;"
            " their ids are in its recipe): a mild leak, which a `calibration` method in the stage code avoids"
        )
    return notes
