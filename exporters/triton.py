"""Write a plan as a Triton model repository.

Every repository is checked by the linter, against the copied models, before it is put in place; what the
linter has anything to say about is never written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from inferplan.exporters import pipeline_model
from inferplan.exporters.deployment import Deployment, Machine, Model, Route, build_deployment, short_name
from inferplan.exporters.publishing import copy_checked, published, written_files
from inferplan.exporters.stage_files import StageFiles, stage_files
from inferplan.exporters.triton_config import ensemble_config, model_config, pipeline_config, warm_shapes
from inferplan.exporters.triton_lint import lint_repository
from inferplan.exporters.triton_pipeline import (
    Step,
    Targets,
    ensemble_steps,
    has_code,
    interface,
    pipeline_json,
)
from inferplan.exporters.triton_schema import CONTAINER_IMAGE, CONTAINER_RELEASE, SERVER_VERSION
from inferplan.spec.errors import InputError
from inferplan.spec.plan import Plan
from inferplan.spec.workload import Workload

# Processes of the pipeline model: enough that every replica can be kept busy, up to a limit for memory's sake.
_MOST_PIPELINE_INSTANCES = 8


def export_triton(plan: Plan, workload: Workload, out_dir: Path | str, *, force: bool = False) -> list[Path]:
    """Write the plan as one Triton model repository; returns the files written, relative to `out_dir`.

    Instance counts are those of the whole plan; where it has several machines, `configs/<machine>.pbtxt` of
    every model has those of one machine (`--model-config-name`). Raises InputError for a plan that does not
    belong to the workload or a folder that is not ours to replace, CheckFailedError where the linter objects.
    """
    deployment = build_deployment(plan, workload)
    target = Path(out_dir)
    about = {
        "format": "1",
        "target": "triton",
        "server": f"{SERVER_VERSION} ({CONTAINER_RELEASE})",
        "workload": deployment.name,
        "plan_sha256": deployment.plan_sha256,
    }
    with published(target, about, force=force, sources=deployment.root) as folder:
        notes = write_repository(deployment, folder, None)
        if len(deployment.machines) > 1:
            for machine in deployment.machines:
                _machine_configs(deployment, machine, folder)
        (folder / "README.md").write_text(_readme(deployment, notes), "utf-8")
        lint_repository(folder).require_clean()
    return written_files(target)


def write_repository(
    deployment: Deployment, folder: Path, machine: Machine | None, targets: Targets | None = None
) -> list[str]:
    """Write the models and pipelines of one machine (None: of the whole plan) into an empty folder.

    `targets` says where each model's replicas are, for pipelines that call other machines; by default all are
    in this server. Returns what a reader should know.
    """
    replicas = deployment.replicas(machine)
    for name, count in replicas.items():
        _write_model(deployment.models[name], count, deployment.gpus(machine, name), folder / name)
    if not replicas:
        raise InputError("the plan runs no model: there is nothing for a server to load")
    here: Targets = targets or {name: [(None, count)] for name, count in replicas.items()}
    instances = min(_MOST_PIPELINE_INSTANCES, max(2, sum(replicas.values())))
    return [note for route in deployment.routes for note in _write_route(deployment, route, folder, here, instances)]


def _write_model(model: Model, count: int, gpus: Sequence[int], folder: Path) -> None:
    version = folder / "1"
    copy_checked(model.source, version / "model.onnx", model.sha256)
    for name in model.graph.external_files:
        copy_checked(model.source.parent / name, version / name)
    (folder / "config.pbtxt").write_text(model_config(model, count, gpus), "utf-8")


def _machine_configs(deployment: Deployment, machine: Machine, folder: Path) -> None:
    for name, count in deployment.replicas(machine).items():
        configs = folder / name / "configs"
        configs.mkdir(exist_ok=True)
        config = model_config(deployment.models[name], count, deployment.gpus(machine, name))
        (configs / f"{machine.name}.pbtxt").write_text(config, "utf-8")


def _no_interface(deployment: Deployment) -> str:
    """Why the tensors of a served request cannot be read off the models."""
    if has_code(deployment):
        return "the workload has code of its own"
    if deployment.inputs or deployment.outputs:
        return "one side of a served request is declared without the other"
    if sum(not stage.parents for stage in deployment.stages) > 1 or sum(not s.children for s in deployment.stages) > 1:
        return "the workload's pipeline begins or ends in several stages"
    return "the tensors of the workload's first or last stage cannot be told from its models"


def _write_route(deployment: Deployment, route: Route, folder: Path, targets: Targets, instances: int) -> list[str]:
    """Write the pipeline model, the ensemble, or both, of a route."""
    notes = []
    steps = ensemble_steps(deployment, route)
    local = all(places and all(endpoint is None for endpoint, _ in places) for places in targets.values())
    code = has_code(deployment)
    if steps and local:
        name = short_name(f"{route.name}-ensemble") if code else route.name
        _claim(folder / name)
        _write_ensemble(name, steps, folder / name)
        if code:
            notes.append(f"`{name}` passes tensors straight through the models: it runs none of the stage code.")
        else:
            return notes
    tensors = interface(deployment, route)
    if tensors is None:
        notes.append(
            f"There is no pipeline model `{route.name}`: {_no_interface(deployment)}, and its `pipeline` does not"
            " declare the `inputs` and `outputs` of a served request. The models are served one by one."
        )
        return notes
    target = folder / route.name
    _claim(target)
    version = target / "1"
    version.mkdir(parents=True)
    entry = next(stage.name for stage in deployment.stages if not stage.parents)
    max_batch = max(choice.max_batch for choice in route.choices[entry])
    (target / "config.pbtxt").write_text(
        pipeline_config(route.name, tensors.inputs, tensors.outputs, max_batch, instances), "utf-8"
    )
    (version / "pipeline.json").write_text(pipeline_json(deployment, route, tensors, targets), "utf-8")
    copy_checked(Path(pipeline_model.__file__), version / "model.py")
    needed = _code_files(deployment, route)
    for file in needed.files:
        copy_checked(deployment.root / file, version / "code" / file)
    if needed.packages:
        notes.append(
            f"`{route.name}` runs stage code that imports {', '.join(needed.packages)}: install these into the"
            f" server's Python (a container image built on {CONTAINER_IMAGE})."
        )
    return notes


def _claim(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"two models would be called {folder.name!r}: rename an option, a class or the workload")


def _write_ensemble(name: str, steps: list[Step], folder: Path) -> None:
    # The server wants a version folder, and a folder without a file is lost in archives and in git.
    version = folder / "1"
    version.mkdir(parents=True)
    (version / "README.md").write_text("An ensemble has no file of its own.\n", "utf-8")
    (folder / "config.pbtxt").write_text(ensemble_config(name, steps), "utf-8")


def _code_files(deployment: Deployment, route: Route) -> StageFiles:
    params = [deployment.params, *(choice.params for choices in route.choices.values() for choice in choices)]
    return stage_files([deployment.code, *(stage.code for stage in deployment.stages)], params, deployment.root)


def _readme(deployment: Deployment, notes: list[str]) -> str:
    lines = [
        f"# {deployment.name}: a Triton model repository",
        "",
        f"Written by inferplan for Triton {SERVER_VERSION} (container release {CONTAINER_RELEASE}).",
        "Serve it with everything as written, nothing completed by the server:",
        "",
        "    tritonserver --model-repository=. --disable-auto-complete-config --exit-on-error=true",
        "",
        "| model | stage, variant | instances | threads each | batch up to | waits up to |",
        "|---|---|---|---|---|---|",
        *(
            f"| `{model.name}` | {model.stage}, {model.variant} | {model.replicas} | {model.threads}"
            f" | {model.max_batch} | {model.max_queue_delay_s * 1e3:g} ms |"
            for model in deployment.models.values()
        ),
        "",
        *(f"Call `{route.name}` for class {', '.join(route.classes)}." for route in deployment.routes),
    ]
    cold = [model.name for model in deployment.models.values() if warm_shapes(model) is None]
    if cold:
        notes = [
            *notes,
            f"Not warmed up, for want of input shapes (`input_shapes` of the variant): {', '.join(cold)}.",
        ]
    notes = [*deployment.notes, *notes, *provider_notes(deployment)]
    if len(deployment.machines) > 1:
        lines += ["", "Instances are those of the whole plan. On one of its machines, start the server with:", ""]
        lines += [f"    {_machine_options(deployment, machine)}" for machine in deployment.machines]
        lines += ["", "For pipelines whose stages are on different machines use `inferplan export compose`."]
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def provider_notes(deployment: Deployment) -> list[str]:
    """What a reader should know of execution providers."""
    openvino = [f"`{model.name}`" for model in deployment.models.values() if model.provider == "openvino"]
    if not openvino:
        return []
    return [
        f"OpenVINO runs {', '.join(openvino)}: the server's ONNX Runtime backend must be built with it, and it is not"
        " told how many threads to use."
    ]


def _machine_options(deployment: Deployment, machine: Machine) -> str:
    loads = " ".join(f"--load-model={name}" for name in deployment.replicas(machine))
    return f"--model-config-name={machine.name} --model-control-mode=explicit {loads}"


def models_by_endpoint(deployment: Deployment, here: Machine, endpoints: Mapping[str, str]) -> Targets:
    """Where a pipeline on machine `here` finds each model: in its own server, or at another machine's endpoint."""
    return {
        name: [
            (None if machine.name == here.name else endpoints[machine.name], machine.replicas[name])
            for machine in deployment.machines
            if machine.replicas.get(name)
        ]
        for name in deployment.models
    }
