"""An independent check of a finished plan. It shares no code with the solver or the estimators.

From the plan, the workload and the profile's rows alone it recomputes: that every class is served at every stage;
the load of every option and that it is below capacity at full batches; that replicas fit on their machines and
machines are in stock; cost and budget; accuracy and floors; latencies against limits and verdicts. Tolerances: 1e-6
relative for sums of floats, 1e-9 for accuracies. The table of choices is held against the same (`selection_check`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

from inferplan.solvers.accuracy_check import check_goals, end_to_end, planned_end_to_end
from inferplan.solvers.assurance_check import check_assurance, planned_mean_s, promised
from inferplan.solvers.bill_check import check_bill, least_batch_s
from inferplan.solvers.interference_check import check_interference
from inferplan.solvers.mixture_check import check_mixtures, flows
from inferplan.solvers.row_check import counted_rows, handoff_s
from inferplan.solvers.selection_check import check_selection
from inferplan.solvers.traffic_check import check_traffic
from inferplan.spec.arrivals import source_of
from inferplan.spec.errors import CheckFailedError
from inferplan.spec.plan import Choice, DeployedOption, Plan
from inferplan.spec.profile import Profile
from inferplan.spec.rows import FlowRow
from inferplan.spec.workload import Edge, FanOut, Workload

RELATIVE = 1e-6


def check_plan(plan: Plan, workload: Workload, profile: Profile) -> None:
    """Recompute what a plan claims. Raises CheckFailedError with everything found wrong."""
    findings = [
        *_routes(plan, workload),
        *check_mixtures(plan, workload, profile),
        *_capacity(plan, workload, profile),
        *check_interference(plan, workload, profile),
        *_machines(plan, workload),
        *check_bill(plan, workload, profile),
        *check_assurance(plan, workload),
        *check_traffic(plan, workload, profile),
        *_accuracy(plan, workload, profile),
        *check_goals(plan, workload, profile),
        *_latency(plan, workload, profile),
        *check_selection(plan, workload, profile),
    ]
    if findings:
        raise CheckFailedError(
            "the plan does not keep what it says; this is a bug of the planner, please report it", findings
        )


def _routes(plan: Plan, workload: Workload) -> Iterator[str]:
    if set(plan.classes) != set(workload.classes):
        yield "the plan's classes are not the workload's"
    for name, traffic in plan.classes.items():
        if set(traffic.routes) != set(workload.pipeline.stages):
            yield f"class {name} is not routed through every stage"
        if not math.isclose(_rate_rps(name, workload), traffic.rate_rps, rel_tol=RELATIVE):
            yield f"class {name}: rate {traffic.rate_rps} is not the workload's"
        for stage, choices in traffic.routes.items():
            if abs(math.fsum(choice.share for choice in choices) - 1) > RELATIVE:
                yield f"class {name}, stage {stage}: shares do not add up to 1"
            for choice in choices:
                option = plan.options[choice.option]
                if option.stage != stage or _choice(option) not in _choices(workload, stage):
                    yield f"class {name}, stage {stage}: option {choice.option} does not belong there"
            may = workload.splitting is True or workload.classes[name].job is not None
            if len({_choice(plan.options[choice.option]) for choice in choices}) > 1 and not may:
                yield f"class {name}, stage {stage}: its calls go to several variants"
            if len(choices) > 1 and not workload.splitting and not may:
                yield f"class {name}, stage {stage}: its calls are split, which the workload does not allow"


def _rate_rps(name: str, workload: Workload) -> float:
    """Requests per second of a class; the times of a trace are those of jobs where the class has jobs."""
    traffic, rate = workload.classes[name], source_of(workload, name).rate_rps
    return rate * traffic.job.requests if traffic.job is not None and traffic.trace is not None else rate


def _choice(option: DeployedOption) -> str:
    """What was chosen: the variant, and after an @ the modalities it is given."""
    return f"{option.variant}@{'+'.join(sorted(option.modalities))}" if option.modalities else option.variant


def _choices(workload: Workload, stage: str) -> set[str]:
    """Everything that may be chosen for a stage: every variant, with every modality it may be spared or given."""
    found = set()
    for name, variant in workload.pipeline.stages[stage].variants.items():
        spec = variant.modalities
        if spec is None:
            found.add(name)
            continue
        subsets = [set(spec.reads) - set(spec.optional)]
        for optional in spec.optional:
            subsets += [subset | {optional} for subset in subsets]
        found |= {f"{name}@{'+'.join(sorted(subset))}" for subset in subsets if subset}
    return found


def _is_choice(row: FlowRow, choice: str) -> bool:
    return (f"{row.variant}@{row.modalities}" if row.modalities else row.variant) == choice


def _mean_fan_out(edge: Edge, choice: str, profile: Profile) -> float:
    if isinstance(edge.fan_out, FanOut):
        total = math.fsum(edge.fan_out.weights)
        return math.fsum(v * w for v, w in zip(edge.fan_out.values, edge.fan_out.weights, strict=True)) / total
    if edge.fan_out == "measured":
        rows = [
            r for r in profile.flows if (r.source, r.target) == (edge.source, edge.target) and _is_choice(r, choice)
        ]
        counts = json.loads(rows[-1].fan_outs)
        return math.fsum(counts) / len(counts)
    return float(edge.fan_out)


def _loads(plan: Plan, workload: Workload, profile: Profile) -> dict[str, float]:
    """Calls per second of every option, walking the stages as their feeds are known."""
    loads = dict.fromkeys(plan.options, 0.0)
    for rate_rps, routes in (flow for traffic in plan.classes.values() for flow in flows(traffic)):
        rates: dict[str, dict[str, float]] = {}
        while len(rates) < len(workload.pipeline.stages):
            for stage in workload.pipeline.stages:
                feeding = [edge for edge in workload.pipeline.edges if edge.target == stage]
                if stage in rates or any(edge.source not in rates for edge in feeding):
                    continue
                total = rate_rps
                if feeding:
                    edge = feeding[0]
                    total = math.fsum(
                        rate * _mean_fan_out(edge, _choice(plan.options[name]), profile)
                        for name, rate in rates[edge.source].items()
                    )
                rates[stage] = {option: total * share for option, share in routes[stage].items()}
        for stage_rates in rates.values():
            for name, rate in stage_rates.items():
                loads[name] += rate
    return loads


def _capacity(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    loads = _loads(plan, workload, profile)
    for name, option in plan.options.items():
        predicted = option.predicted
        if not math.isclose(loads[name], predicted.load_rps, rel_tol=RELATIVE, abs_tol=1e-9):
            yield f"option {name}: {loads[name]:.9g} calls/s reach it, the plan says {predicted.load_rps:.9g}"
        if option.runtime == "skip":
            continue
        row = counted_rows(option, workload, profile).get(option.max_batch)
        if row is None or row.service.mean_s is None:
            yield f"option {name}: the profile has no row of it"
            continue
        like = workload.devices()[option.device].like
        mean_s = planned_mean_s(row, workload) or 0.0
        seconds = mean_s * (like.slowdown if like else 1.0) * predicted.interference
        seconds += handoff_s(row, profile) * predicted.interference
        capacity = option.replicas * option.max_batch / seconds
        on_capacity = plan.certificate is not None and plan.certificate.judged_on == "capacity"
        most = capacity * workload.max_utilisation * (1 + RELATIVE)
        if loads[name] > most if on_capacity else loads[name] >= capacity:
            yield f"option {name}: load {loads[name]:.9g} calls/s is beyond its capacity of {capacity:.9g}"
        if predicted.capacity_rps is None or not math.isclose(capacity, predicted.capacity_rps, rel_tol=RELATIVE):
            yield f"option {name}: its capacity is {capacity:.9g} calls/s, the plan says {predicted.capacity_rps}"


def _machines(plan: Plan, workload: Workload) -> Iterator[str]:
    devices = workload.devices()
    for name, bought in plan.machines.items():
        for index, placements in enumerate(bought.packing):
            stages = {plan.options[placement.option].stage for placement in placements}
            if devices[name].exclusive and len(stages) > 1:
                yield f"{name}, machine {index}: it is exclusive, and serves {', '.join(sorted(stages))}"
    placed = dict.fromkeys(plan.options, 0)
    for name, bought in plan.machines.items():
        device = devices[name]
        if device.count is not None and bought.count > device.count:
            yield f"{name}: {bought.count} machines, there are {device.count}"
        for index, placements in enumerate(bought.packing):
            cores = memory = gpus = 0
            for placement in placements:
                option = plan.options[placement.option]
                placed[placement.option] += placement.replicas
                cores += placement.replicas * option.threads
                memory += placement.replicas * (option.memory_bytes or 0)
                gpus += placement.replicas * (option.provider in ("cuda", "tensorrt") and not option.shares_gpu)
                if option.device != name:
                    yield f"{name}, machine {index}: option {placement.option} is for {option.device}"
            if cores > device.cores - device.reserved_cores:
                yield f"{name}, machine {index}: {cores} cores on {device.cores - device.reserved_cores}"
            if device.memory_bytes is not None and memory > device.memory_bytes:
                yield f"{name}, machine {index}: {memory} bytes of memory on {device.memory_bytes}"
            if gpus > (available := (device.gpus or 1) if device.kind == "gpu" else 0):
                yield f"{name}, machine {index}: {gpus} replicas on {available} GPUs"
    for name, option in plan.options.items():
        if placed[name] != option.replicas:
            yield f"option {name}: {placed[name]} replicas placed of {option.replicas}"


def _accuracy(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    if workload.accuracy is None:
        return
    for name, traffic in plan.classes.items():
        if traffic.mixtures:
            continue
        variants = {stage: _choice(plan.options[choices[0].option]) for stage, choices in traffic.routes.items()}
        value = end_to_end(variants, workload, profile)
        said = traffic.predicted.accuracy
        if (value is None) != (said is None) or (
            value is not None and said is not None and not math.isclose(value, said.value, rel_tol=RELATIVE)
        ):
            yield f"class {name}: its accuracy is {value}, the plan says {said.value if said else None}"
        job = workload.classes[name].job
        floor = workload.classes[name].accuracy.floor if job is None else job.mean_accuracy
        if floor is not None:
            sign = 1.0 if workload.accuracy.metric.direction == "maximize" else -1.0
            planned = planned_end_to_end(variants, workload, profile, said)
            if planned is None or sign * planned < sign * floor - 1e-9:
                yield f"class {name}: accuracy {planned} does not keep its floor {floor}"


def _latency(plan: Plan, workload: Workload, profile: Profile) -> Iterator[str]:
    certificate = plan.certificate
    for name, traffic in workload.classes.items():
        limit = promised(traffic)
        if limit is None:
            continue
        claim = certificate.classes.get(name) if certificate else None
        if claim is None:
            yield f"class {name} has an SLO and no certificate"
            continue
        if (claim.limit_s, claim.percentile) != limit:
            yield f"class {name}: certified for another SLO than the workload's"
        if claim.verdict == "met" and (claim.latency_s.upper is None or claim.latency_s.upper > claim.limit_s):
            yield f"class {name}: said to be met, but its latency may be {claim.latency_s.upper} s of {claim.limit_s}"
        # No request is answered before every option of its slowest path has served it: means add up along a path.
        slowest = max(
            math.fsum(
                min(
                    _least_mean_s(plan, choice.option, workload, profile) for choice in plan.classes[name].routes[stage]
                )
                * _at_least_once(stage, workload)
                for stage in path
            )
            for path in workload.pipeline.paths()
        )
        mean = plan.classes[name].predicted.latency_mean_s
        if mean is None:
            yield f"class {name} has an SLO and no mean latency"
        elif (mean.upper or mean.value) < slowest * 0.5:
            yield f"class {name}: mean latency {mean.value} s is far below the {slowest} s of its stages"


def _least_mean_s(plan: Plan, name: str, workload: Workload, profile: Profile) -> float:
    """What every class's calls take at an option in the mean, at least. Where one class alone sends calls they take
    what all take. Several may meet queues of different lengths (bursts, deadlines): only the work is certain."""
    senders = [
        own for own, traffic in plan.classes.items() for choices in traffic.routes.values() if name in _named(choices)
    ]
    if len(senders) == 1:
        return plan.options[name].predicted.latency_mean_s or 0.0
    return least_batch_s(plan.options[name], workload, profile)


def _named(choices: Sequence[Choice]) -> set[str]:
    return {choice.option for choice in choices}


def _at_least_once(stage: str, workload: Workload) -> int:
    """1 for a stage that every request calls exactly once, else 0: only there means of calls are means of requests."""
    feeding = [edge for edge in workload.pipeline.edges if edge.target == stage]
    if not feeding:
        return 1
    return int(all(edge.fan_out == 1.0 and _at_least_once(edge.source, workload) for edge in feeding))
