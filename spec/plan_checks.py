"""Whether a plan still belongs to its workload: names, traces, models."""

from __future__ import annotations

from pathlib import Path

from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.plan import Plan


def check_against(plan: Plan, loaded: LoadedWorkload, path: Path) -> None:
    """Raise InputError where a plan and its workload do not belong together."""
    _check_names(plan, loaded, path)
    _check_models(plan, loaded, path)


def _check_names(plan: Plan, loaded: LoadedWorkload, path: Path) -> None:
    """What the plan names must be there, and its traces those that were planned for."""
    workload = loaded.workload
    for name, option in plan.options.items():
        stage = workload.pipeline.stages.get(option.stage)
        known = stage is not None and option.choice in stage.choices()
        if stage is None or not known or stage.variants[option.variant].runtime != option.runtime:
            raise InputError(f"{path}: option {name} is of a variant the workload does not have: solve again")
        if option.device not in workload.devices() and option.runtime != "skip":
            raise InputError(f"{path}: option {name} is on device {option.device!r}, which the workload does not have")
    for device in plan.machines:
        if device not in workload.devices():
            raise InputError(
                f"{path}: machines are of device {device!r}, which the workload does not have: solve again"
            )
    for name, traffic in plan.classes.items():
        if name not in workload.classes:
            raise InputError(f"{path}: class {name} is not in the workload: solve again")
        trace = workload.classes[name].trace
        if trace is not None and file_sha256(workload.root / trace) != traffic.trace_sha256:
            raise InputError(f"{path}: the trace of class {name} has changed since planning: solve again")
        missing = set(workload.pipeline.stages) - set(traffic.routes)
        if missing:
            raise InputError(f"{path}: class {name} has no route for {', '.join(sorted(missing))}")


def _check_models(plan: Plan, loaded: LoadedWorkload, path: Path) -> None:
    """Models must be those that were measured and planned."""
    hashes: dict[tuple[str, str], str] = {}
    for name, option in plan.options.items():
        key = (option.stage, option.choice)
        if option.runtime != "skip" and key not in hashes:
            hashes[key] = model_sha256(loaded.workload, *key)
        if option.runtime != "skip" and hashes[key] != option.model_sha256:
            model = loaded.workload.model_path(*key)
            raise InputError(f"{path}: {model} of option {name} has changed since planning: profile and solve again")
