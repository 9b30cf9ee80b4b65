"""Trained nets as files that runtimes load: ONNX, its dynamic int8 form, TorchScript."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from preparation import PrepareError
from torch import nn

OPSET = 17
# The IR version that opset 17 came with; newer ones are refused by older servers.
IR_VERSION = 8
TOLERANCE = 1e-3
"""Most that a logit of an exported net may differ from the trained one's, but for int8."""


def export_onnx(net: nn.Module, target: Path, ids: NDArray[np.int64]) -> None:
    """Input `ids` int64 [batch, tokens], output `logits` float32 [batch, 2]. Compared with the net on `ids`."""
    free = {0: "batch"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing exporter: it is to be replaced, some shapes are constants
        partial = Path(folder) / "net.onnx"
        torch.onnx.export(
            net,
            (torch.from_numpy(ids[:2]),),
            str(partial),
            dynamo=False,
            opset_version=OPSET,
            input_names=["ids"],
            output_names=["logits"],
            dynamic_axes={"ids": {**free, 1: "tokens"}, "logits": free},
        )
        model = onnx.load(partial)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    _save(model, target)
    _check(target, net, ids)


def quantise(source: Path, target: Path) -> None:
    """Dynamic int8: weights and word vectors as int8, activations quantised as they come. Needs no data."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / "net.onnx"
        logging.disable(logging.WARNING)  # it advises a pre-processing that changes nothing here
        try:
            quantize_dynamic(str(source), str(partial), weight_type=QuantType.QInt8)
        finally:
            logging.disable(logging.NOTSET)
        os.replace(partial, target)


def export_script(net: nn.Module, target: Path, ids: NDArray[np.int64]) -> None:
    """A frozen TorchScript trace of the net with free batch and tokens. Compared with the net on `ids`."""
    tokens = torch.from_numpy(ids)
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")
        script = torch.jit.freeze(torch.jit.trace(net, (tokens[:2],)))
        if (script(tokens) - net(tokens)).abs().max() > TOLERANCE:
            raise PrepareError(f"{target.name} does not compute what the trained net computes")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            partial = Path(folder) / "net.pt"
            torch.jit.save(script, str(partial))
            os.replace(partial, target)


def run_onnx(model: Path, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits of a model file, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"ids": ids})[0]
    return logits


def _check(model: Path, net: nn.Module, ids: NDArray[np.int64]) -> None:
    with torch.inference_mode():
        wanted = net(torch.from_numpy(ids)).numpy()
    if np.abs(run_onnx(model, ids) - wanted).max() > TOLERANCE:
        raise PrepareError(f"{model.name} does not compute what the trained net computes")


def _save(model: onnx.ModelProto, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / target.name
        onnx.save(model, partial)
        os.replace(partial, target)
