"""How a route through the pipeline becomes one model of Triton: an ensemble, or a pipeline with stage code.

An ensemble passes tensors straight from model to model. It is the pipeline itself where there is no code at
all; beside code it is an extra, offered where the declared tensors fit the models as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.exporters.deployment import Choice, Deployment, Model, Route
from inferplan.exporters.onnx_graph import FREE, GraphTensor
from inferplan.exporters.triton_config import TRITON_TYPES, ServedTensor
from inferplan.spec.errors import InputError
from inferplan.spec.stage import TensorSpec

Step = tuple[Model, dict[str, str], dict[str, str]]
Targets = Mapping[str, Sequence[tuple[str | None, int]]]
"""Model -> where its replicas are: (host:port, or None for the same server; how many)."""

_DTYPES = {triton: ours for ours, triton in TRITON_TYPES.items()} | {"TYPE_STRING": "object"}


@dataclass(frozen=True, slots=True)
class Interface:
    """The tensors of a served pipeline."""

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]


def has_code(deployment: Deployment) -> bool:
    """Whether the workload has any code of its own."""
    return deployment.code is not None or any(stage.code for stage in deployment.stages)


def ensemble_steps(deployment: Deployment, route: Route) -> list[Step] | None:
    """The models of a route wired tensor to tensor; None where they do not fit so."""
    chain = _chain(deployment, route)
    if not chain:
        return None
    if deployment.inputs and not _fits(deployment.inputs, chain[0]):
        return None
    entry = {tensor.name for tensor in chain[0].graph.inputs}
    if entry & {tensor.name for tensor in chain[-1].graph.outputs}:
        return None  # in an ensemble one name is one tensor
    steps: list[Step] = []
    for index, model in enumerate(chain):
        inputs = {tensor.name: tensor.name for tensor in model.graph.inputs}
        if index:
            before = {tensor.name: tensor for tensor in chain[index - 1].graph.outputs}
            if not all(_same(tensor, before.get(tensor.name)) for tensor in model.graph.inputs):
                return None
            inputs = {name: f"{steps[-1][0].name}:{name}" for name in inputs}
            # Outputs that nothing takes are not mapped: an ensemble may not have idle tensors.
            steps[-1] = (*steps[-1][:2], dict(sorted((name, tensor) for name, tensor in inputs.items())))
        last = index == len(chain) - 1
        steps.append((model, inputs, {t.name: t.name for t in model.graph.outputs} if last else {}))
    return steps


def _chain(deployment: Deployment, route: Route) -> list[Model] | None:
    """The models of a route in order, where it is one line of single choices with a call each."""
    models = []
    for index, stage in enumerate(deployment.stages):
        before = (deployment.stages[index - 1].name,) if index else ()
        choices = route.choices[stage.name]
        if stage.parents != before or not stage.fan_out_one or len(choices) != 1:
            return None
        if choices[0].model is not None:
            models.append(choices[0].model)
        elif stage.code:
            return None
    return models


def _fits(declared: Sequence[TensorSpec], model: Model) -> bool:
    theirs = {tensor.name: tensor for tensor in model.graph.inputs}
    if {tensor.name for tensor in declared} != set(theirs):
        return False
    return all(
        TRITON_TYPES[tensor.dtype] == theirs[tensor.name].data_type
        and _compatible(tuple(tensor.shape), (theirs[tensor.name].dims or ())[1:])
        for tensor in declared
    )


def _same(one: GraphTensor, other: GraphTensor | None) -> bool:
    if other is None or one.data_type != other.data_type or one.dims is None or other.dims is None:
        return False
    return _compatible(one.dims, other.dims)


def _compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or FREE in (a, b) for a, b in zip(one, other, strict=True))


def interface(deployment: Deployment, route: Route) -> Interface | None:
    """The tensors of a route's pipeline: as declared, or else, without code, those of its first and last models."""
    if deployment.inputs and deployment.outputs:
        declared = (deployment.inputs, deployment.outputs)
        return Interface(*(tuple(ServedTensor(t.name, t.dtype, tuple(t.shape)) for t in side) for side in declared))
    if has_code(deployment) or deployment.inputs or deployment.outputs:
        return None
    entry = [stage.name for stage in deployment.stages if not stage.parents]
    last = [stage.name for stage in deployment.stages if not stage.children]
    if len(entry) != 1 or len(last) != 1:
        return None
    inputs, outputs = _common(route.choices[entry[0]], "inputs"), _common(route.choices[last[0]], "outputs")
    return Interface(inputs, outputs) if inputs and outputs else None


def _common(choices: Sequence[Choice], side: str) -> tuple[ServedTensor, ...] | None:
    """The tensors that all choices of a stage have alike; None where they differ."""
    found: set[tuple[tuple[str, str, tuple[int, ...]], ...]] = set()
    for choice in choices:
        if choice.model is None:
            return None
        tensors: tuple[GraphTensor, ...] = getattr(choice.model.graph, side)
        found.add(tuple((t.name, t.data_type, (t.dims or ())[1:]) for t in tensors))
    if len(found) != 1:
        return None
    names = {triton: ours for ours, triton in TRITON_TYPES.items()}
    (only,) = found
    if any(data_type not in names for _, data_type, _ in only):
        return None
    return tuple(ServedTensor(name, names[data_type], dims) for name, data_type, dims in only)


def pipeline_json(deployment: Deployment, route: Route, tensors: Interface, targets: Targets) -> str:
    """What `pipeline_model` reads: the stages of a route, in order."""
    spec = {
        "format": 1,
        "code": deployment.code,
        "params": deployment.params,
        "inputs": [_served(tensor) for tensor in tensors.inputs],
        "outputs": [_served(tensor) for tensor in tensors.outputs],
        "stages": [
            {
                "name": stage.name,
                "code": stage.code,
                "parents": stage.parents,
                "children": stage.children,
                "choices": [_choice(choice, targets) for choice in route.choices[stage.name]],
            }
            for stage in deployment.stages
        ],
    }
    try:
        return json.dumps(spec, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputError(
            f"params must be plain numbers, strings, lists and mappings to be exported: {error}"
        ) from error


def _served(tensor: ServedTensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}


def _choice(choice: Choice, targets: Targets) -> dict[str, Any]:
    model = choice.model
    return {
        "share": choice.share,
        "variant": choice.variant,
        "modalities": list(choice.modalities),
        "params": choice.params,
        "max_batch": choice.max_batch,
        "model": None
        if model is None
        else {
            "name": model.name,
            "inputs": [_known(tensor) for tensor in model.graph.inputs],
            "outputs": [_known(tensor) for tensor in model.graph.outputs],
            "metadata": dict(model.graph.metadata),
            "targets": [{"endpoint": endpoint, "weight": weight} for endpoint, weight in targets[model.name]],
        },
    }


def _known(tensor: GraphTensor) -> dict[str, Any]:
    """A tensor as stage code is told of it (`inferplan.spec.stagecode.TensorInfo`)."""
    shape = [None if dim == FREE else dim for dim in tensor.dims or ()]
    return {"name": tensor.name, "dtype": _DTYPES.get(tensor.data_type, tensor.data_type), "shape": shape}
