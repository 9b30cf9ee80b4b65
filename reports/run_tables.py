"""A run as tables: predicted beside measured, per class and per option."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from inferplan.reports.quantities import DASH, percent, rate, seconds, share
from inferplan.reports.tables import Table, left, right
from inferplan.spec.report import ClassReport, Compared, RunReport

Shown = Callable[[float | None], str]


def classes_table(report: RunReport) -> Table:
    """One row per class and quantity."""
    columns = [*left("class", "what"), *right("promised", "predicted", "measured", "interval", "ratio")]
    rows = [row for name, traffic in sorted(report.classes.items()) for row in _class_rows(name, traffic)]
    return Table(columns, rows)


def _class_rows(name: str, traffic: ClassReport) -> Iterator[list[str]]:
    yield [name, "throughput", *_cells(traffic.throughput_rps, rate)]
    slo = traffic.slo_percentile
    named = [("p50", traffic.latency_p50_s), ("p90", traffic.latency_p90_s), ("p99", traffic.latency_p99_s)]
    if traffic.latency_slo_s is not None and slo is not None and f"p{slo:g}" not in dict(named):
        named.append((f"p{slo:g}", traffic.latency_slo_s))
    for label, compared in named:
        promised = f"<= {seconds(traffic.slo_latency_s)}" if slo is not None and label == f"p{slo:g}" else DASH
        yield ["", f"latency {label}", *_cells(compared, seconds, promised)]
    if traffic.accuracy is not None:
        floor = traffic.accuracy.floor
        promised = DASH if floor is None else f">= {share(floor)}"
        yield ["", traffic.accuracy.metric, *_cells(traffic.accuracy.compared, share, promised)]


def _cells(compared: Compared, shown: Shown, promised: str = DASH) -> list[str]:
    measured = compared.measured
    known = measured.lower is not None and measured.upper is not None
    interval = f"{shown(measured.lower)} .. {shown(measured.upper)}" if known else DASH
    ratio = DASH if compared.ratio is None else f"{compared.ratio:.2f}"
    return [promised, shown(compared.predicted), shown(measured.value), interval, ratio]


def reasons(report: RunReport) -> list[str]:
    """The verdict of every class, with why."""
    lines = []
    for name, traffic in sorted(report.classes.items()):
        counts = f"{traffic.requests} requests, {traffic.failed} failed, {traffic.unfinished} unfinished"
        lines.append(f"{name}: {traffic.verdict} ({counts})")
        lines += [f"  {reason}" for reason in traffic.reasons]
        lines += [f"  {count} x {error}" for error, count in sorted(traffic.errors.items())]
        lines.append(
            f"  generator late by p99 {seconds(traffic.lateness.p99_s)}, most {seconds(traffic.lateness.max_s)}"
        )
    return lines


def options_table(report: RunReport) -> Table:
    """One row per option; predicted before the slash, measured after it."""
    columns = [
        *left("stage", "variant"),
        *right("replicas", "calls", "batch mean", "busy", "service per call", "wait"),
        *left("batches"),
    ]
    rows = []
    for _, option in sorted(report.options.items(), key=lambda item: (item[1].stage, item[0])):
        sizes = ", ".join(f"{size}: {count}" for size, count in sorted(option.batch_sizes.items()))
        rows.append(
            [
                option.stage,
                option.variant,
                str(option.replicas),
                str(option.calls),
                _both(option.batch_mean, lambda value: DASH if value is None else f"{value:.2f}"),
                _both(option.utilisation, percent),
                _both(option.service_per_call_s, seconds),
                seconds(option.wait_mean_s),
                sizes or DASH,
            ]
        )
    return Table(columns, rows)


def stalls(report: RunReport) -> str:
    """For how long the machine left router and replicas standing, in a line; empty where nobody watched."""
    seen = [("router", report.router_stalls), *((name, one.stalls) for name, one in sorted(report.options.items()))]
    told = [f"{name} {percent(one.share)} ({one.per_s:.2g} a second)" for name, one in seen if one is not None]
    return f"left standing by the machine, of the time that they polled: {', '.join(told)}" if told else ""


def _both(compared: Compared, shown: Shown) -> str:
    return f"{shown(compared.predicted)} / {shown(compared.measured.value)}"
