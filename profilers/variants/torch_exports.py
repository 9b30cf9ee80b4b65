"""torch to ONNX, by torch's own exporter (the one that traces: it needs no further package).

What the program is fed with decides which dimensions are free: those that differ between the stage's inputs, and
the batch.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inferplan.profilers.runtimes.executor import Executor
from inferplan.profilers.variants.base import FlagRecipe, Order, Settings, Survey
from inferplan.profilers.variants.calibration import Pool
from inferplan.profilers.variants.onnx_files import library, quiet
from inferplan.spec.errors import InputError
from inferplan.spec.stagecode import Tensors

if TYPE_CHECKING:
    from inferplan.spec.stage import Variant

_LOOKED_AT = 16
"""Inputs whose shapes are compared."""
_BATCHES = (2, 3)


class OnnxExport(FlagRecipe):
    """An ONNX model of a torch variant."""

    name = "onnx"
    summary = "an ONNX model of a torch variant, run by onnxruntime: onnx:opset=17 (torch.onnx)"
    packages = ("torch", "onnx")
    uses_inputs = True
    defaults: ClassVar[Mapping[str, Any]] = {"opset": 17}

    def suffix(self, settings: Settings) -> str:
        return "-onnx" + (f"-opset{settings['opset']}" if settings["opset"] != self.defaults["opset"] else "")

    def refusal(self, variant: Variant, survey: Survey, settings: Settings) -> str:
        if variant.runtime != "torch":
            return "takes torch variants only"
        if variant.options.autocast != "none" or variant.options.compile:
            return "takes torch variants without options only"
        return ""

    def changes(self, variant: Variant, settings: Settings) -> dict[str, Any]:
        return {"runtime": "onnxruntime", "factory": None, "options": {}, "input_dtypes": {}}

    def make(self, order: Order) -> dict[str, Any]:
        library()
        torch: Any = importlib.import_module("torch")
        with Executor.from_spec(order.specs[0]) as executor:
            feeds = _feeds(executor, order)
            outputs = [executor.session.run(feed) for feed in feeds]
            session: Any = executor.session  # a TorchSession
            feed = {tensor.name: feeds[0][tensor.name] for tensor in executor.info.inputs if tensor.name in feeds[0]}
            module = _flat(torch, session.program, list(feed), list(outputs[0]))
            arguments = tuple(torch.from_numpy(np.array(array, order="C")) for array in feed.values())
            with torch.inference_mode(), warnings.catch_warnings(), quiet():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    module,
                    arguments,
                    str(order.target),
                    dynamo=False,
                    opset_version=int(order.settings["opset"]),
                    input_names=list(feed),
                    output_names=list(outputs[0]),
                    dynamic_axes={**free_axes(feeds), **free_axes(outputs)},
                )
        return {}


def _feeds(executor: Executor, order: Order) -> list[Tensors]:
    """Tensors of several batches of different sizes."""
    examples = Pool.of(executor, order.requests).examples[:_LOOKED_AT]
    if not examples:
        raise InputError("there are no inputs to trace it with")
    inputs = [example.input for example in examples]
    sizes = [executor.fixed_batch] if executor.fixed_batch else list(_BATCHES)
    starts = range(len(inputs)) if not executor.fixed_batch else range(0, len(inputs), executor.fixed_batch)
    return [
        executor.adapter.preprocess([inputs[(start + i) % len(inputs)] for i in range(sizes[index % len(sizes)])])
        for index, start in enumerate([*starts, 0][: max(2, len(inputs))])
    ]


def free_axes(batches: Sequence[Tensors]) -> dict[str, dict[int, str]]:
    """Axes that differ between batches, named; axes that are always as large as one another share a name."""
    found: dict[str, dict[int, str]] = {}
    names: dict[tuple[int, ...], str] = {}
    for name in batches[0]:
        shapes = [np.shape(batch[name]) for batch in batches]
        if len({len(shape) for shape in shapes}) != 1:
            raise InputError(f"tensor {name} has a different number of dimensions from batch to batch")
        for axis, sizes in enumerate(zip(*shapes, strict=True)):
            if len(set(sizes)) > 1:
                label = "batch" if axis == 0 else f"free_{len(names)}"
                found.setdefault(name, {})[axis] = names.setdefault(sizes, label)
    return found


def _flat(torch: Any, program: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """A module that takes tensors in order and gives back a flat tuple, as the runtime names them.

    TorchScript cannot be called by what is traced; it is exported as it is, and its outputs have to be flat.
    """
    from inferplan.profilers.runtimes.pytorch import flattened

    if isinstance(program.module, torch.jit.ScriptModule):
        if tuple(inputs) != tuple(tensor.name for tensor in program.inputs)[: len(inputs)]:
            raise InputError("an optional input is left out before one that is fed: TorchScript is exported in order")
        return program.module

    class Flat(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = program.module

        def forward(self, *tensors: Any) -> Any:
            given = dict(zip(inputs, tensors, strict=True))
            found = dict(flattened(torch, program.call(given)))
            return tuple(found[name] for name in outputs)

    return Flat().eval()
