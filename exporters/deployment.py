"""The deployment graph: what a plan and its workload say is to run where, checked against the real model files.

Every export target is a rendering of this one graph.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inferplan.exporters.onnx_graph import OnnxGraph, read_graph
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256
from inferplan.spec.gpus import ON_GPU, gpus_of_replicas
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.plan import DeployedOption, Plan
from inferplan.spec.stage import TensorSpec, Variant
from inferplan.spec.workload import Device, Workload

_MOST_CHARACTERS = 128
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_MOST_CHARACTERS - 1}}}")


@dataclass(frozen=True, slots=True)
class Model:
    """A model to serve: an option of the plan that has a model file. `variant` names the choice (`variant`, or
    `variant@subset`); `sha256` is that of the file `source`; `max_batch` counts stage calls."""

    name: str
    stage: str
    variant: str
    source: Path
    sha256: str
    graph: OnnxGraph
    provider: str
    gpu: bool
    precision: str
    threads: int
    max_batch: int
    max_queue_delay_s: float
    replicas: int
    input_shapes: Mapping[str, tuple[int, ...]]
    graph_optimization: str = "all"
    queue_limit: int | None = None

    @property
    def batched(self) -> bool:
        """Whether the server batches it: every tensor's first dimension is free."""
        return self.graph.batchable


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine and the replicas packed on it, by model name; `gpus`: the GPU numbers of those on GPUs."""

    name: str
    device: str
    spec: Device
    replicas: Mapping[str, int]
    gpus: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """A share of a stage's calls. `model` is None where the variant runs none (skip); `modalities` are those it is
    given."""

    share: float
    variant: str
    modalities: tuple[str, ...]
    params: Mapping[str, Any]
    max_batch: int
    model: Model | None


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage of the pipeline, and the stages its calls go on to."""

    name: str
    code: str | None
    parents: tuple[str, ...]
    children: tuple[str, ...]
    fan_out_one: bool


@dataclass(frozen=True, slots=True)
class Route:
    """How some traffic classes go through the pipeline: choices per stage. `name` is what clients call."""

    name: str
    classes: tuple[str, ...]
    choices: Mapping[str, tuple[Choice, ...]]


@dataclass(frozen=True, slots=True)
class Deployment:
    """All of it. `stages` are in topological order."""

    name: str
    root: Path
    plan_sha256: str
    models: Mapping[str, Model]
    machines: tuple[Machine, ...]
    stages: tuple[StageNode, ...]
    routes: tuple[Route, ...]
    code: str | None
    params: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    notes: list[str] = field(default_factory=list)

    def replicas(self, machine: Machine | None) -> dict[str, int]:
        """Replicas by model: those of one machine, or of the whole plan."""
        if machine is None:
            return {name: model.replicas for name, model in self.models.items()}
        return {name: count for name, count in machine.replicas.items() if count}

    def gpus(self, machine: Machine | None, model: str) -> tuple[int, ...]:
        """GPU numbers of a model's replicas: on one machine, or on each of the whole plan."""
        machines = self.machines if machine is None else (machine,)
        return tuple(gpu for one in machines for gpu in one.gpus.get(model, ()))


def build_deployment(plan: Plan, workload: Workload) -> Deployment:
    """The deployment graph of a plan.

    Raises InputError where plan and workload do not belong together, a model file is not the one that was
    planned with, or something cannot be exported.
    """
    from inferplan.spec.plan import dump_plan

    models = {
        name: _model(name, option, workload)
        for name, option in sorted(plan.options.items())
        if option.runtime != "skip"
    }
    return Deployment(
        name=_safe(workload.name),
        root=workload.root.resolve(),
        plan_sha256=hashlib.sha256(dump_plan(plan).encode()).hexdigest(),
        models=models,
        machines=_machines(plan, workload),
        stages=_stages(workload),
        routes=_routes(plan, workload, models),
        code=workload.pipeline.code,
        params=workload.pipeline.params,
        inputs=tuple(workload.pipeline.inputs),
        outputs=tuple(workload.pipeline.outputs),
        notes=not_exported(plan),
    )


def not_exported(plan: Plan) -> list[str]:
    """What of a plan its exports do not do."""
    return [*_by_arrival(plan), *_unlisted(plan)]


def _by_arrival(plan: Plan) -> list[str]:
    """Where it matters that the server knows no deadlines: where calls of one queue have several."""
    limits: dict[str, set[float | None]] = {name: set() for name in plan.by_deadline()}
    for traffic in plan.classes.values():
        for choice in (choice for choices in traffic.routes.values() for choice in choices):
            limits.get(choice.option, set()).add(traffic.slo_latency_s)
    mixed = sorted(name for name, found in limits.items() if len(found) > 1)
    if not mixed:
        return []
    return [
        f"Options {', '.join(mixed)} are planned to take the calls of the earliest deadlines first; the server takes"
        " them in the order they come, so latencies differ from the plan's. `inferplan run` and `inferplan serve` go by"
        " deadlines."
    ]


def _unlisted(plan: Plan) -> list[str]:
    if plan.selection is None:
        return []
    return [
        "The plan's table of choices is not exported: the server looks nothing up by accuracy and latency. What a class"
        " `asks` is exported as the classes planned for it; clients call the one that asks for what they need."
        " `inferplan serve` looks the table up."
    ]


def _safe(name: str) -> str:
    """A name that is safe as a file name, a YAML scalar, a protobuf string and a shell word."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a name: letters, digits, '-' and '_' only, at most {_MOST_CHARACTERS} of them"
        )
    return name


def short_name(name: str) -> str:
    """A name made of others, cut to what a name may have; its end then tells it from others that begin alike."""
    if len(name) <= _MOST_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _MOST_CHARACTERS - 9]}-{digest}"


def _model(name: str, option: DeployedOption, workload: Workload) -> Model:
    owner = f"option {_safe(name)}"
    variant = _variant(owner, option, workload)
    if option.runtime == "torch":
        raise InputError(
            f"{owner}: runtime torch cannot be exported: a TorchScript file does not say of what types and shapes its"
            " tensors are, and the server's backend runs neither exported programs nor factories",
            ["make an ONNX variant of it with `inferplan variants`, profile it and solve again"],
        )
    if option.runtime != "onnxruntime" or variant.runtime != option.runtime:
        raise InputError(f"{owner}: runtime {option.runtime} cannot be exported; only onnxruntime and skip can")
    source = workload.model_path(option.stage, option.choice)
    if source is None or not source.is_file():
        raise InputError(f"{owner}: there is no model file {source}")
    if model_sha256(workload, option.stage, option.choice) != option.model_sha256:
        raise InputError(f"{owner}: {source} is not the model that was planned with: profile and solve again")
    device = workload.devices().get(option.device)
    if device is None:
        raise InputError(f"{owner}: the workload has no device {option.device!r}")
    gpu = option.provider in ON_GPU
    if gpu and device.kind != "gpu":
        raise InputError(f"{owner}: provider {option.provider} does not run on {option.device}, a {device.kind}")
    graph = read_graph(source)
    _check_batch(owner, source, graph, option.max_batch)
    return Model(
        name=name,
        stage=option.stage,
        variant=option.choice,
        source=source,
        sha256=file_sha256(source),
        graph=graph,
        provider=option.provider,
        gpu=gpu,
        precision=variant.precision,
        threads=max(1, option.threads),
        max_batch=option.max_batch,
        max_queue_delay_s=option.max_queue_delay_s,
        replicas=option.replicas,
        input_shapes=_shapes(variant),
        graph_optimization=variant.options.graph_optimization,
        queue_limit=workload.pipeline.stages[option.stage].queue_limit,
    )


def _variant(owner: str, option: DeployedOption, workload: Workload) -> Variant:
    """The variant of an option. Raises InputError where the workload does not have it, or not with these modalities."""
    stage = workload.pipeline.stages.get(option.stage)
    variant = stage.variants.get(option.variant) if stage else None
    if stage is None or variant is None or option.choice not in stage.choices():
        raise InputError(f"{owner}: the workload has no variant {option.choice!r} of stage {option.stage!r}")
    return variant


def _shapes(variant: Variant) -> dict[str, tuple[int, ...]]:
    """Shapes of the inputs all of whose sizes the workload fixes; those with a size that is drawn are left out."""
    fixed = {name: size for name, size in variant.input_dims.items() if isinstance(size, int)}
    found: dict[str, tuple[int, ...]] = {}
    for tensor, shape in variant.input_shapes.items():
        sizes = [fixed.get(size) if isinstance(size, str) else size for size in shape]
        known = tuple(size for size in sizes if size is not None)
        if len(known) == len(sizes):
            found[tensor] = known
    return found


def _check_batch(owner: str, source: Path, graph: OnnxGraph, max_batch: int) -> None:
    """A server batches along the first dimension of every tensor; without that, calls go one by one."""
    for tensor in (*graph.inputs, *graph.outputs):
        if tensor.dims is None:
            raise InputError(f"{owner}: {source} does not say how many dimensions {tensor.name!r} has")
        if 0 in tensor.dims:
            raise InputError(f"{owner}: {source}: {tensor.name!r} has an empty dimension: {list(tensor.dims)}")
    if graph.batchable:
        return
    fixed = [tensor for tensor in (*graph.inputs, *graph.outputs) if not tensor.free_first]
    shown = "; ".join(f"{tensor.name!r} is {list(tensor.dims or ())}" for tensor in fixed)
    if max_batch > 1:
        raise InputError(
            f"{owner}: the plan wants batches of {max_batch}, but the first dimension is not free everywhere ({shown})",
            ["export the model with a free batch dimension, or plan with batch_sizes: [1]"],
        )
    if any(tensor.dims is not None and tensor.dims[:1] != (1,) for tensor in fixed if tensor in graph.inputs):
        raise InputError(f"{owner}: {source} has no batch dimension of 1 or free ({shown})")


def _machines(plan: Plan, workload: Workload) -> tuple[Machine, ...]:
    machines: list[Machine] = []
    for device, group in sorted(plan.machines.items()):
        spec = workload.devices().get(device)
        if spec is None:
            raise InputError(f"the plan has machines of {device!r}, a device the workload does not have")
        for index, placements in enumerate(group.packing):
            replicas: dict[str, int] = {}
            gpus: dict[str, tuple[int, ...]] = {}
            for option, gpu in gpus_of_replicas(placements, plan.options, spec):
                replicas[option] = replicas.get(option, 0) + 1
                if gpu is not None:
                    gpus[option] = (*gpus.get(option, ()), gpu)
            name = _safe(short_name(f"{device.replace('/', '-').lower()}-{index}"))
            if any(machine.name == name for machine in machines):
                raise InputError(f"two machines would be called {name}: rename a tier or a device")
            machines.append(Machine(name, device, spec, dict(sorted(replicas.items())), gpus))
    return tuple(machines)


def _stages(workload: Workload) -> tuple[StageNode, ...]:
    pipeline = workload.pipeline
    return tuple(
        StageNode(
            name=name,
            code=pipeline.stages[name].code,
            parents=tuple(edge.source for edge in pipeline.edges if edge.target == name),
            children=tuple(edge.target for edge in pipeline.edges if edge.source == name),
            fan_out_one=all(edge.fan_out == 1.0 for edge in pipeline.edges if edge.target == name),
        )
        for name in pipeline.order()
    )


def _routes(plan: Plan, workload: Workload, models: Mapping[str, Model]) -> tuple[Route, ...]:
    """One route per different way through the pipeline; classes that share one share the name."""
    ways: dict[str, tuple[list[str], dict[str, tuple[Choice, ...]]]] = {}
    for name, traffic in sorted(plan.classes.items()):
        choices: dict[str, tuple[Choice, ...]] = {}
        if traffic.mixtures and len(workload.pipeline.stages) > 1:
            raise InputError(
                f"class {name}: its requests go different ways through the pipeline, which exported pipelines cannot"
                " keep them to; `inferplan serve` can, and plans without splitting can be exported"
            )
        for stage in workload.pipeline.stages:
            picks = traffic.routes.get(stage)
            if not picks:
                raise InputError(f"the plan has no route for class {name} through stage {stage}")
            choices[stage] = tuple(
                _choice(pick.option, pick.share, plan, workload, models)
                for pick in sorted(picks, key=lambda pick: pick.option)
            )
        key = repr([(stage, pick.option, pick.share) for stage in choices for pick in traffic.routes[stage]])
        ways.setdefault(key, ([], choices))[0].append(name)
    taken = {name.lower() for name in models}
    routes = []
    for classes, choices in ways.values():
        name = workload.name if len(ways) == 1 else short_name(f"{workload.name}-{classes[0]}")
        while name.lower() in taken:
            name = short_name(f"{name}-pipeline")
        taken.add(name.lower())
        routes.append(Route(_safe(name), tuple(classes), choices))
    return tuple(routes)


def _choice(option: str, share: float, plan: Plan, workload: Workload, models: Mapping[str, Model]) -> Choice:
    chosen = plan.options[option]
    variant = _variant(f"option {option}", chosen, workload)
    modalities = tuple(sorted(chosen.modalities))
    return Choice(share, chosen.variant, modalities, variant.params, chosen.max_batch, models.get(option))
