"""A plan as tables: what runs, what each class gets, what binds, what else was considered."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from inferplan.reports.quantities import DASH, energy, money, percent, rate, seconds, share, size
from inferplan.reports.tables import Table, left, right
from inferplan.spec.plan import Alternative, ClassPlan, DeployedOption, Estimate, Plan

WORTH_SHOWING = 1.01
"""Slow-downs by neighbours up to this are not shown."""


def options_table(plan: Plan) -> Table:
    """One row per deployed option, in order of stages as planned."""
    slowed = any(option.predicted.interference > WORTH_SHOWING for option in plan.options.values())
    columns = [
        *left("stage", "variant", "device"),
        *right("threads", "batch", "delay", "replicas", "load", "busy", "latency", "tail"),
        *(right("neighbours") if slowed else ()),
    ]
    rows = []
    for name in sorted(plan.options, key=lambda key: (plan.options[key].stage, key)):
        option, predicted = plan.options[name], plan.options[name].predicted
        skip = option.runtime == "skip"
        rows.append(
            [
                option.stage,
                option.choice,
                DASH if skip else _place(option),
                DASH if skip else str(option.threads),
                DASH if skip else str(option.max_batch),
                DASH if skip else seconds(option.max_queue_delay_s),
                DASH if skip else str(option.replicas),
                rate(predicted.load_rps),
                DASH if skip else percent(predicted.utilisation),
                seconds(predicted.latency_mean_s),
                seconds(predicted.latency_tail_s),
                *([_slower(predicted.interference)] if slowed else []),
            ]
        )
    return Table(columns, rows)


def _place(option: DeployedOption) -> str:
    """The device, with the execution provider where it is not the plain one."""
    return option.device if option.provider == "cpu" else f"{option.device} {option.provider}"


def _slower(interference: float) -> str:
    """How much slower the neighbours on its machines make an option."""
    return f"x {interference:.2f}" if interference > WORTH_SHOWING else DASH


def basis_lines(plan: Plan) -> list[str]:
    """What the plan rests on besides fresh measurements of just this, a line each."""
    source = plan.profile
    lines = []
    if source.interpolated:
        lines.append(f"Rests on {_counted(source.interpolated, 'interpolated point')}: {_some(source.interpolated)}")
    if source.imported:
        lines.append(f"Rests on {_counted(source.imported, 'imported point')}: {_some(source.imported)}")
    for name, traffic in sorted(plan.classes.items()):
        accuracy = traffic.predicted.accuracy
        if traffic.predicted.accuracy_source == "predicted" and accuracy is not None:
            ends = "" if accuracy.lower is None else f" [{share(accuracy.lower)}, {share(accuracy.upper)}]"
            lines.append(f"Accuracy of class {name} is predicted, not measured: {share(accuracy.value)}{ends}")
    if source.alone:
        lines.append(f"Share machines, and were never measured beside others: {_some(source.alone)}")
    return lines


def cost_lines(plan: Plan) -> list[str]:
    """What the cost is made of, where it is not machines alone, what is drawn, and the risk of interruptions."""
    lines = []
    costs = plan.costs
    if costs is not None:
        parts = (
            ("machines", costs.machines_usd_per_h),
            ("restarts", costs.restarts_usd_per_h),
            ("electricity", costs.energy_usd_per_h),
            ("network", costs.network_usd_per_h),
        )
        lines.append("Cost: " + ", ".join(f"{what} {money(part)}" for what, part in parts if part > 0))
    if plan.energy is not None:
        drawn = plan.energy
        carbon = "" if drawn.carbon_g_per_h is None else f", {drawn.carbon_g_per_h:.4g} g CO2e/h"
        lines.append(f"Energy: {drawn.power_w:.4g} W, {energy(drawn.energy_j_per_request)} per request{carbon}")
        if len(drawn.tiers) > 1:
            lines.append("  by tier: " + ", ".join(f"{n} {t.power_w:.4g} W" for n, t in sorted(drawn.tiers.items())))
    for device, machines in sorted(plan.machines.items()):
        if machines.interruptions_per_h is not None:
            often = f"{machines.interruptions_per_h:.3g} per hour"
            lines.append(
                f"Interruptions of {device}: {often} expected, {percent(machines.lost_share)} of its capacity lost"
            )
    if plan.terms:
        weighed = (f"{name} {t.weight:g} x {t.value:.4g} / {t.unit:.4g}" for name, t in sorted(plan.terms.items()))
        lines.append("Weighed: " + ", ".join(weighed))
    return lines


def assurance_lines(plan: Plan) -> list[str]:
    """What the plan withstands, and what that costs."""
    assured = plan.assurance
    if assured is None:
        return []
    asked = []
    if assured.confidence is not None:
        asked.append(f"bounds at {100 * assured.confidence:g} % confidence")
    if assured.load_levels:
        asked.append("load x " + ", ".join(f"{level:g}" for level in assured.load_levels))
    asked += [f"{count} of {device} lost" for device, count in sorted(assured.spare_machines.items())]
    if assured.availability is not None:
        asked.append(f"interruptions {100 * assured.availability:g} % of the time")
    if assured.headroom > 0:
        asked.append(f"headroom {100 * assured.headroom:g} %")
    extra = "cost not known"
    if assured.extra_usd_per_h is not None and assured.plain_cost_usd_per_h is not None:
        extra = f"{money(assured.extra_usd_per_h)} more than {money(assured.plain_cost_usd_per_h)} without"
    lines = [f"Withstands: {', '.join(asked)}: {extra}"]
    verdicts = [case.verdict for case in assured.cases]
    if verdicts:
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("met", "undecided", "missed") if v in verdicts)
        lines.append(f"  judged in {_counted(verdicts, 'further case')}: {counts}")
    lines += [f"  {case.name}: {case.verdict}" for case in assured.cases if case.verdict != "met"]
    if assured.without_bounds:
        lines.append(f"  without bounds: {_some(assured.without_bounds)}")
    return lines


def measuring_lines(plan: Plan, workload: Path, profile: Path | None) -> list[str]:
    """Combinations that the planner wants measured, each with its reason, and the command that does it."""
    if not plan.to_measure:
        return []
    named = [",".join(f"{stage}={choice}" for stage, choice in w.combination.items()) for w in plan.to_measure]
    command = ["inferplan", "profile", str(workload)]
    command += [] if profile is None else ["--profile", str(profile)]
    command += [part for text in named for part in ("--combination", text)]
    reasons = [f"{text}: {w.reason}" for text, w in zip(named, plan.to_measure, strict=True)]
    return [*reasons, f"with: {shlex.join(command)}"]


def _counted(items: Sequence[str], what: str) -> str:
    """`1 point`, `2 points`."""
    return f"{len(items)} {what}{'' if len(items) == 1 else 's'}"


def _some(items: Sequence[str], most: int = 4) -> str:
    """The first few of a list; the plan has all."""
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def machines_table(plan: Plan) -> Table:
    """One row per machine with what runs on it."""
    rows = []
    for device, machines in sorted(plan.machines.items()):
        for index, placements in enumerate(machines.packing):
            content = ", ".join(f"{placement.replicas} x {placement.option}" for placement in placements)
            price = money(machines.price_usd_per_h) + (" by share" if machines.share is not None else "")
            rows.append([f"{device} #{index}", price, content])
    return Table([*left("machine"), *right("price"), *left("replicas")], rows)


def traffic_table(plan: Plan) -> Table | None:
    """One row per class, leg and way between tiers that calls take; None where nothing crosses tiers."""
    if plan.traffic is None:
        return None
    rows = []
    for name, flows in sorted(plan.traffic.flows.items()):
        for flow in flows:
            if flow.from_tier != flow.to_tier:
                leg = f"{flow.source or 'requests'} -> {flow.target or 'answers'}"
                way = f"{flow.from_tier} -> {flow.to_tier}"
                rows.append(
                    [name, leg, way, rate(flow.rate_rps), f"{size(flow.bytes_per_s)}/s", money(flow.cost_usd_per_h)]
                )
    return Table([*left("class", "calls", "way"), *right("rate", "bytes", "cost")], rows) if rows else None


def classes_table(plan: Plan) -> Table:
    """One row per class: what was promised, and what is predicted."""
    columns = [
        *left("class"),
        *right("rate", "p50", "p90", "p99", "promise", "predicted", "accuracy", "floor"),
        *left("verdict"),
    ]
    rows = []
    for name, traffic in sorted(plan.classes.items()):
        predicted = traffic.predicted
        certificate = plan.certificate.classes.get(name) if plan.certificate else None
        rows.append(
            [
                name,
                rate(traffic.rate_rps),
                *(
                    seconds(None if estimate is None else estimate.value)
                    for estimate in (predicted.latency_p50_s, predicted.latency_p90_s, predicted.latency_p99_s)
                ),
                promise(traffic),
                interval(predicted.latency_slo_s),
                share(predicted.accuracy.value if predicted.accuracy else None),
                share(traffic.accuracy_floor),
                certificate.verdict if certificate else DASH,
            ]
        )
    return Table(columns, rows)


def mixtures_table(plan: Plan) -> Table | None:
    """One row per way of a class whose requests go different ways; None where there is none."""
    rows = [
        [
            name,
            percent(mixture.share) if mixture.requests is None else f"{mixture.requests} of {traffic.job_requests}",
            ", ".join(mixture.routes[stage] for stage in sorted(mixture.routes)),
            share(mixture.accuracy.value if mixture.accuracy else None),
        ]
        for name, traffic in sorted(plan.classes.items())
        for mixture in traffic.mixtures
    ]
    return Table([*left("class"), *right("requests"), *left("way"), *right("accuracy")], rows) if rows else None


def choices_table(plan: Plan) -> Table | None:
    """One row per way that a request which names accuracy and latency alone may go, the cheapest first; None where no
    class has such requests."""
    if plan.selection is None:
        return None
    table = plan.selection
    rows = [
        [
            ", ".join(f"{stage}={plan.options[name].choice}" for stage, name in sorted(row.options.items())),
            share(row.accuracy),
            seconds(row.latency_s.upper),
            f"{1e6 * row.cost_usd_per_request:.4g} USD",
            ", ".join(row.classes) or DASH,
        ]
        for row in table.rows
    ]
    columns = [
        *left("variants"),
        *right(table.metric or "accuracy", f"p{table.percentile:g} at most", "per million requests"),
        *left("planned for"),
    ]
    return Table(columns, rows)


def promise(traffic: ClassPlan) -> str:
    """A class's latency promise in words: `p99 <= 50.0 ms`."""
    if traffic.slo_latency_s is None or traffic.slo_percentile is None:
        return DASH
    return f"p{traffic.slo_percentile:g} <= {seconds(traffic.slo_latency_s)}"


def interval(estimate: Estimate | None) -> str:
    """An estimated duration with its interval: `12.0 ms [11.0 ms, 13.0 ms]`."""
    if estimate is None:
        return DASH
    if estimate.lower is None or estimate.upper is None:
        return seconds(estimate.value)
    return f"{seconds(estimate.value)} [{seconds(estimate.lower)}, {seconds(estimate.upper)}]"


def alternatives_table(plan: Plan) -> Table:
    """What else was considered, the chosen plan first."""
    columns = [*left("variants"), *right("cost", "accuracy", "latency"), *left("why not")]
    return Table(columns, [_alternative(item) for item in plan.alternatives])


def _alternative(item: Alternative) -> list[str]:
    return [
        ", ".join(f"{stage}={variant}" for stage, variant in sorted(item.variants.items())),
        money(item.cost_usd_per_h),
        share(item.accuracy),
        seconds(item.latency_s),
        item.reason,
    ]


def binding_lines(plan: Plan) -> list[str]:
    """Constraints that hold the plan where it is."""
    return [f"{item.constraint}: {item.value:.6g} of {item.limit:.6g} {item.unit}".rstrip() for item in plan.binding]


def proof_line(plan: Plan) -> str:
    """How sure it is."""
    proof = plan.proof
    sure = "no bound"
    if proof.bound is not None and proof.gap is not None:
        sure = f"bound {proof.bound:.6g}, gap {100 * proof.gap:.2g} %"
    if proof.status == "optimal":
        return f"optimal under the planner's models ({sure}), {proof.solver}"
    return f"feasible, not proven optimal ({sure}), {proof.solver}"
