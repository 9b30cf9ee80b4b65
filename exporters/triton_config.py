"""Triton configurations of a deployment: models, ensembles, pipelines. Complete: nothing is left to the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from inferplan.exporters.deployment import Model
from inferplan.exporters.onnx_graph import FREE, GraphTensor
from inferplan.exporters.pbtxt import Value, Word, render
from inferplan.exporters.triton_schema import SERVER_VERSION

_HEAD = f"# Written by inferplan for Triton {SERVER_VERSION}; serve with --disable-auto-complete-config.\n"
# Up to this batch size every size is warmed up; above, powers of two and the largest.
_WARM_EVERY = 16
# The backend's own numbers; what it is not told is "all".
_GRAPH_LEVELS = {"basic": -1, "extended": 1, "disabled": 2}

TRITON_TYPES = {
    "bool": "TYPE_BOOL",
    "string": "TYPE_STRING",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{f"{sign}int{bits}": f"TYPE_{'U' if sign else ''}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
"""Type of a served tensor, as workloads write it -> as Triton does."""


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """A tensor of a served pipeline. `dtype` as workloads write it; `shape` without the batch, -1 where free."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def model_config(model: Model, replicas: int, gpus: Sequence[int] = ()) -> str:
    """Configuration of one model with this many instances; on GPUs of these numbers, where it runs on GPUs."""
    max_batch = model.max_batch if model.batched else 0
    fields: dict[str, Value] = {
        "name": model.name,
        "backend": "onnxruntime",
        "max_batch_size": max_batch,
        "input": [_graph_tensor(tensor, max_batch) for tensor in model.graph.inputs],
        "output": [_graph_tensor(tensor, max_batch) for tensor in model.graph.outputs],
        "instance_group": _gpu_instances(gpus or [0] * replicas) if model.gpu else _cpu_instances(replicas),
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if max_batch > 1 or (max_batch and model.queue_limit is not None):
        fields["dynamic_batching"] = _batching(model)
    fields["parameters"] = _parameters({"intra_op_thread_count": str(model.threads), "inter_op_thread_count": "1"})
    optimization = _optimization(model, max_batch)
    if optimization:
        fields["optimization"] = optimization
    shapes = warm_shapes(model)
    if shapes is not None:
        fields["model_warmup"] = [_warm_sample(model, size, shapes) for size in _warm_sizes(max_batch)]
    return _HEAD + render(fields)


def _batching(model: Model) -> dict[str, Value]:
    """How calls wait. A limit of the queue is a policy of the dynamic batcher, also where batches are of one."""
    batching: dict[str, Value] = {"max_queue_delay_microseconds": round(model.max_queue_delay_s * 1e6)}
    if model.queue_limit is not None:
        batching["default_queue_policy"] = {"max_queue_size": model.queue_limit}
    return batching


def ensemble_config(name: str, steps: Sequence[tuple[Model, dict[str, str], dict[str, str]]]) -> str:
    """Configuration of an ensemble over (member, its inputs -> tensors, its outputs -> tensors) steps, in order.

    The tensors that no step produces are its inputs; the outputs of the last step are its outputs.
    """
    first, last = steps[0], steps[-1]
    batch_sizes = [model.max_batch if model.batched else 0 for model, _, _ in steps]
    max_batch = min(batch_sizes)
    fields: dict[str, Value] = {
        "name": name,
        "platform": "ensemble",
        "max_batch_size": max_batch,
        "input": [_ensemble_tensor(t, first[1][t.name], first[0], max_batch) for t in first[0].graph.inputs],
        "output": [_ensemble_tensor(t, last[2][t.name], last[0], max_batch) for t in last[0].graph.outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "ensemble_scheduling": {
            "step": [
                {
                    "model_name": model.name,
                    "model_version": -1,
                    "input_map": [{"key": key, "value": inputs[key]} for key in sorted(inputs)],
                    "output_map": [{"key": key, "value": outputs[key]} for key in sorted(outputs)],
                }
                for model, inputs, outputs in steps
            ]
        },
    }
    return _HEAD + render(fields)


def pipeline_config(
    name: str, inputs: Sequence[ServedTensor], outputs: Sequence[ServedTensor], max_batch: int, instances: int
) -> str:
    """Configuration of a pipeline model (python backend) that takes batches of requests."""
    fields: dict[str, Value] = {
        "name": name,
        "backend": "python",
        "max_batch_size": max_batch,
        "input": [_served_tensor(tensor) for tensor in inputs],
        "output": [_served_tensor(tensor) for tensor in outputs],
        "instance_group": _cpu_instances(instances),
        "version_policy": {"latest": {"num_versions": 1}},
    }
    if max_batch > 1:
        # Requests wait to fill batches in the models' own queues, not here.
        fields["dynamic_batching"] = {"max_queue_delay_microseconds": 0}
    return _HEAD + render(fields)


def warm_shapes(model: Model) -> dict[str, tuple[int, ...]] | None:
    """Shape per input without the batch; None where a dimension is free and the workload gives it no value."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in model.graph.inputs:
        own = (tensor.dims or ())[1:]
        given = model.input_shapes.get(tensor.name, own)
        fits = len(given) == len(own) and all(want in (FREE, have) for have, want in zip(given, own, strict=True))
        if not fits or any(size < 1 for size in given):
            return None
        shapes[tensor.name] = given
    return shapes


def _graph_tensor(tensor: GraphTensor, max_batch: int) -> dict[str, Value]:
    dims = list(tensor.dims or ())[1 if max_batch else 0 :]
    fields: dict[str, Value] = {"name": tensor.name, "data_type": Word(tensor.data_type)}
    return fields | _dims(dims)


def _served_tensor(tensor: ServedTensor) -> dict[str, Value]:
    fields: dict[str, Value] = {"name": tensor.name, "data_type": Word(TRITON_TYPES[tensor.dtype])}
    return fields | _dims(list(tensor.shape))


def _dims(dims: list[int]) -> dict[str, Value]:
    """Triton knows no tensor without dimensions: clients see one of size 1, the model sees none."""
    if dims:
        return {"dims": list[Value](dims)}
    return {"dims": [1], "reshape": {"shape": []}}


def _ensemble_tensor(tensor: GraphTensor, name: str, member: Model, max_batch: int) -> dict[str, Value]:
    """A member's tensor as the ensemble shows it: an unbatched ensemble shows one row of a batched member."""
    dims = list(tensor.dims or ())
    if max_batch:
        dims = dims[1:]
    elif member.batched:
        dims = [1, *dims[1:]]
    return {"name": name, "data_type": Word(tensor.data_type), "dims": list[Value](dims or [1])}


def _cpu_instances(count: int) -> list[Value]:
    return [{"kind": Word("KIND_CPU"), "count": count, "gpus": []}]


def _gpu_instances(gpus: Sequence[int]) -> list[Value]:
    """One group per number of instances that a GPU has; the server puts `count` of them on each GPU that is listed."""
    alike: dict[int, list[Value]] = {}
    for gpu, count in sorted(Counter(gpus).items()):
        alike.setdefault(count, []).append(gpu)
    return [{"kind": Word("KIND_GPU"), "count": count, "gpus": listed} for count, listed in sorted(alike.items())]


def _parameters(values: dict[str, str]) -> list[Value]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _optimization(model: Model, max_batch: int) -> dict[str, Value]:
    """Graph optimisation and accelerator, as far as they are not the backend's defaults."""
    found: dict[str, Value] = {}
    if model.graph_optimization in _GRAPH_LEVELS:
        found["graph"] = {"level": _GRAPH_LEVELS[model.graph_optimization]}
    accelerator = _accelerator(model, max_batch)
    if accelerator:
        side = "gpu" if model.gpu else "cpu"
        found["execution_accelerators"] = {f"{side}_execution_accelerator": [accelerator]}
    return found


def _accelerator(model: Model, max_batch: int) -> dict[str, Value] | None:
    if model.provider == "cuda":
        # What the runtime does when it is profiled, said aloud.
        return {"name": "cuda", "parameters": [{"key": "cudnn_conv_algo_search", "value": "EXHAUSTIVE"}]}
    if model.provider == "openvino":
        return {"name": "openvino"}
    if model.provider != "tensorrt":
        return None
    values = {"precision_mode": "FP16" if model.precision == "fp16" else "FP32"}
    shapes = warm_shapes(model)
    if shapes is not None and max_batch and not any(set(name) & set(":,") for name in shapes):
        # One engine for all batch sizes, instead of one built whenever a new size comes.
        for which, size in (("min", 1), ("opt", max_batch), ("max", max_batch)):
            values[f"trt_profile_{which}_shapes"] = ",".join(
                f"{name}:{'x'.join(map(str, (size, *shape)))}" for name, shape in shapes.items()
            )
    return {"name": "tensorrt", "parameters": [{"key": key, "value": value} for key, value in values.items()]}


def _warm_sizes(max_batch: int) -> list[int]:
    if max_batch <= _WARM_EVERY:
        return list(range(1, max(1, max_batch) + 1))
    return [*(2**n for n in range(max_batch.bit_length()) if 2**n < max_batch), max_batch]


def _warm_sample(model: Model, size: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, Value]:
    inputs: list[Value] = []
    for tensor in model.graph.inputs:
        shape = list(shapes[tensor.name]) if model.batched else [1, *shapes[tensor.name]]
        inputs.append(
            {
                "key": tensor.name,
                "value": {
                    "data_type": Word(tensor.data_type),
                    "dims": list[Value](shape or [1]),
                    "zero_data": Word("true"),
                },
            }
        )
    return {"name": f"batch-{size}", "batch_size": size, "count": 1, "inputs": inputs}
