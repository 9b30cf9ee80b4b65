"""The int8 variants: static quantization (QDQ), calibrated on pages that no test sees.

Only those worth having are made: dynamic quantization of the recognisers gains little, int8 makes the small
orientation net slower and costs the LCNet seven points.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import ocr_tensors as tensors
from ocr_data import Page, cut, turned
from ocr_packages import write_atomically
from ocr_tensors import Tensor

DETECTOR_SIDE = 320
"""The side at which the int8 detector is used, hence calibrated."""
CALIBRATION_LINES = 48
_PER_CHANNEL_OPSET = 13
_TARGET_OPSET = 17


def quantize_detector(source: Path, target: Path, pages: Sequence[Page]) -> None:
    """int8 convolutions; the rest stays float."""
    feeds = [tensors.detector_tensor([page.picture], DETECTOR_SIDE) for page in pages]
    _quantize(source, target, feeds, ["Conv"])


def quantize_reader(source: Path, target: Path, pages: Sequence[Page]) -> None:
    """int8 convolutions and matrix products."""
    crops = [(cut(page.picture, line.box), line.flipped) for page in pages for line in page.lines]
    upright = [turned(crop) if flipped else crop for crop, flipped in crops[:CALIBRATION_LINES]]
    width, height = tensors.FULL_WIDTH, tensors.LINE_HEIGHT
    feeds = [tensors.padded_tensor([crop], width, height, tensors.HALF_BGR) for crop in upright]
    _quantize(source, target, feeds, ["Conv", "MatMul"])


def _quantize(source: Path, target: Path, feeds: Sequence[Tensor], op_types: list[str]) -> None:
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Feeds(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Tensor] = iter(feeds)

        def get_next(self) -> dict[str, Tensor] | None:
            feed = next(self._left, None)
            return None if feed is None else {"x": feed}

    with tempfile.TemporaryDirectory() as folder:
        upgraded, shaped, quantized = (Path(folder) / f"{step}.onnx" for step in ("upgraded", "shaped", "int8"))
        model = onnx.load(source)
        opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset < _PER_CHANNEL_OPSET:  # scales per channel need the newer QuantizeLinear
            model = onnx.version_converter.convert_version(model, _TARGET_OPSET)
        onnx.save(model, upgraded)
        quant_pre_process(upgraded, shaped, skip_symbolic_shape=True)
        quantization.quantize_static(
            shaped,
            quantized,
            Feeds(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=op_types,
        )
        _keep_metadata(source, quantized)
        write_atomically(target, quantized.read_bytes())


def _keep_metadata(source: Path, quantized: Path) -> None:
    """Carry over the metadata (the recognisers' dictionary), which quantization may drop."""
    import onnx

    properties = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    model = onnx.load(quantized)
    onnx.helper.set_model_props(model, {**{e.key: e.value for e in model.metadata_props}, **properties})
    onnx.save(model, quantized)
