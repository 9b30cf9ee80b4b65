"""How wrong the models of service time are: every measured point predicted as if it had not been measured.

    python benchmarks/model_errors.py [WORKLOAD=PROFILE ...] [--set PATH=VALUE ...]

Without arguments it profiles `digits` (batches 1 to 16) in a temporary folder, and `smartwatch` where it is prepared:
on a machine that does nothing else, or the errors are those of the machine.
Per workload: the errors of the model by where the left-out point stood, and with the fit chosen without it; the
errors of every fit, also of those that are not part of the model because they were never the best; what part of the
errors is noise of the means that predictions are compared with; and, of profiles that were measured twice
(WORKLOAD=PROFILE=TWIN), how far the two means of a point are apart.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from inferplan.estimators.fits import fitted_log_s, held_between
from inferplan.estimators.latency import GroupModel, latency_models
from inferplan.estimators.leave_one_out import Errors, noise
from inferplan.estimators.observations import Observation, observe
from inferplan.estimators.points import read_points
from inferplan.spec.document import load_workload
from inferplan.spec.profile import read_profile

SAMPLES = Path(__file__).resolve().parent.parent / "sample_workloads"
DEFAULTS = ("digits", "smartwatch")
SETTINGS = ["profile.batch_sizes=[1,2,4,8,16]", "profile.neighbours=none"]
SERIES_KINDS = ("interior", "lower", "upper")


Curve = Callable[[Sequence[float], Sequence[float], float], float]


def straight(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Piecewise linear, as plans go between measured points; beyond them on with the last two."""
    if xs[0] <= at <= xs[-1]:
        return float(np.interp(at, xs, times_s))
    near, far = (0, 1) if at < xs[0] else (-1, -2)
    found = times_s[near] + (times_s[near] - times_s[far]) / (xs[near] - xs[far]) * (at - xs[near])
    return found if found > 0 else times_s[near] * at / xs[near]


def power(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Straight in log-log; beyond the points with the slope of the least-squares line."""
    logs_x, logs_t = np.log(xs), np.log(times_s)
    if xs[0] <= at <= xs[-1]:
        return math.exp(np.interp(math.log(at), logs_x, logs_t))
    near = 0 if at < xs[0] else -1
    slope = np.polyfit(logs_x, logs_t, 1)[0]
    return math.exp(logs_t[near] + slope * (math.log(at) - logs_x[near]))


def monotone(xs: Sequence[float], times_s: Sequence[float], at: float) -> float:
    """Monotone cubic (Fritsch and Butland 1984) in log-log, for three points or more; beyond them as `power`."""
    if len(xs) < 3 or not xs[0] <= at <= xs[-1]:
        return power(xs, times_s, at)
    x, y = np.log(xs), np.log(times_s)
    steps, slopes = np.diff(x), np.diff(y) / np.diff(x)
    inner = [
        0.0 if one * two <= 0 else (h + g) / ((h / 3 + 2 * g / 3) / one + (2 * h / 3 + g / 3) / two)
        for one, two, h, g in zip(slopes[:-1], slopes[1:], steps[:-1], steps[1:], strict=True)
    ]
    tangents = [slopes[0], *inner, slopes[-1]]
    place = min(int(np.searchsorted(x, math.log(at), side="right")) - 1, len(steps) - 1)
    part = (math.log(at) - x[place]) / steps[place]
    ends = y[place] * (1 + 2 * part) * (1 - part) ** 2 + y[place + 1] * part**2 * (3 - 2 * part)
    bends = steps[place] * part * (1 - part) * (tangents[place] * (1 - part) - tangents[place + 1] * part)
    return math.exp(ends + bends)


NOT_IN_THE_MODEL: dict[str, Curve] = {"straight": straight, "power": power, "monotone": monotone}


def curve_errors(group: GroupModel, curve: Curve, by_size: bool, kinds: Sequence[str] = SERIES_KINDS) -> list[float]:
    """Errors of a curve through the other points of a series."""
    errors = []
    for test in group.tests:
        if test.kind not in kinds:
            continue
        item = test.observation
        own = [o for o in group.series[item.key].observations if o is not item]
        xs, times = [_x(o, by_size) for o in own], [o.mean_s for o in own]
        log_s = fitted_log_s(curve, xs, times, _x(item, by_size))
        if log_s is not None:
            errors.append(held_between(log_s, xs, times, _x(item, by_size)) - item.log_s)
    return errors


def product_errors(group: GroupModel) -> list[float]:
    """Errors of time(b, threads) = f(b) g(threads) of every choice, by least squares of logarithms; of choices that
    were measured with one number of threads there are none."""
    errors = []
    for test in group.tests:
        item = test.observation
        own = [o for o in group.observations if o.current and o.key.choice == item.key.choice and o is not item]
        batches, threads = sorted({o.batch for o in own}), sorted({o.key.threads for o in own})
        if test.kind not in SERIES_KINDS or item.batch not in batches or len(threads) < 2:
            continue
        rows = np.zeros((len(own) + 1, len(batches) + len(threads)))
        for row, o in zip(rows, [*own, item], strict=True):
            row[batches.index(o.batch)] = row[len(batches) + threads.index(o.key.threads)] = 1
        found, *_ = np.linalg.lstsq(rows[:-1], np.array([o.log_s for o in own]), rcond=None)
        errors.append(float(rows[-1] @ found) - item.log_s)
    return errors


def _x(item: Observation, by_size: bool) -> float:
    return item.size if by_size and item.size is not None else float(item.batch)


def text(errors: Errors) -> str:
    """`12  3.4 %  9.9 %`."""
    if errors.median is None or errors.p90 is None:
        return f"{errors.n:5}        -        -"
    return f"{errors.n:5} {100 * errors.median:6.1f} % {100 * errors.p90:6.1f} %"


def table(groups: Iterable[GroupModel]) -> Iterable[str]:
    """Lines of one workload: the model by where points stood, then every fit, stage by stage and all together."""
    groups = list(groups)
    yield f"  {'':34} {'n':>5} {'median':>8} {'p90':>8}"
    for group in [*groups, None] if len(groups) > 1 else groups:
        shown = groups if group is None else [group]
        title = "all stages" if group is None else f"{group.key.stage} ({group.fit.name})"
        every = [log for one in shown for log in one.logs(*SERIES_KINDS)]
        yield f"  {title:34} {text(Errors.of(every))}"
        for kind in (*SERIES_KINDS, "borrowed"):
            logs = [log for one in shown for log in one.logs(kind)]
            if logs:
                yield f"    {kind:32} {text(Errors.of(logs))}"
        tested = [test for one in shown for test in one.tests if test.kind in SERIES_KINDS]
        blind = Errors.of([test.errors[test.blind] for test in tested])
        yield f"    {'fit chosen by other folds':32} {text(blind)}"
        counts = sorted({test.observation.key.threads for test in tested})
        for threads in counts if len(counts) > 1 else ():
            logs = [test.error for test in tested if test.observation.key.threads == threads]
            yield f"    {f'{threads} threads':32} {text(Errors.of(logs))}"
        yield f"    {'noise of the means':32} {text(noise([test.observation.error for test in tested]))}"
        straight_logs = [log for one in shown for log in curve_errors(one, straight, False, ("interior",))]
        yield f"    {'interior, as plans go: straight':32} {text(Errors.of(straight_logs))}"
        if group is not None:
            yield from _candidates(group)


def _candidates(group: GroupModel) -> Iterable[str]:
    tested = [test for test in group.tests if test.kind in SERIES_KINDS]
    for candidate in group.candidates:
        logs = [test.errors[candidate] for test in tested if candidate in test.errors]
        yield f"    fit: {candidate.name:27} {text(Errors.of(logs))}"
    for by_size in sorted({candidate.by_size for candidate in group.candidates}):
        for name, curve in NOT_IN_THE_MODEL.items():
            named = f"{name}{' by size' if by_size else ''} (not used)"
            yield f"    fit: {named:27} {text(Errors.of(curve_errors(group, curve, by_size)))}"
    product = product_errors(group)
    if product:
        yield f"    fit: {'f(b) g(threads) (not used)':27} {text(Errors.of(product))}"
    for statistic, model in group.spreads.items():
        yield f"    {f'{statistic} over mean: {model.fit}':32} {text(model.errors)}"


def models_of(workload: Path, store: Path, overrides: list[str]) -> dict[str, GroupModel]:
    """The models of a profile, by stage and place."""
    spec = load_workload(workload, overrides).workload
    profile = read_profile(store)
    points = read_points(spec, profile)
    found = latency_models(observe(points, profile.samples), spec.profile.tolerance)
    return {" ".join(key): group for key, group in found.items()}


def twins(one: dict[str, GroupModel], other: dict[str, GroupModel]) -> Errors:
    """How far the means of points are apart that were measured twice."""
    second = {(o.key, o.batch): o for group in other.values() for o in group.observations if o.current}
    first = [o for group in one.values() for o in group.observations if o.current and (o.key, o.batch) in second]
    pairs = [(o, second[o.key, o.batch]) for o in first]
    return Errors.of([b.log_s - a.log_s for a, b in pairs if _when(a) != _when(b)])


def _when(item: Observation) -> str:
    return item.row.measured_at if item.row is not None else ""


def profiled(workload: Path, store: Path) -> None:
    """A whole profile of the workload."""
    command = [str(Path(sys.executable).with_name("inferplan")), "profile", str(workload), "--profile", str(store)]
    command += ["--exhaustive", *(part for setting in SETTINGS for part in ("--set", setting))]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print a table per workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", metavar="WORKLOAD=PROFILE[=TWIN]")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pairs = [pair.split("=") for pair in options.pairs]
        if not pairs:
            for name in DEFAULTS:
                if name == "digits" or (SAMPLES / name / "prepared").is_dir():
                    profiled(SAMPLES / name, Path(scratch) / name)
                    pairs.append([str(SAMPLES / name), str(Path(scratch) / name)])
        for workload, store, *twin in pairs:
            print(load_workload(Path(workload), options.overrides).workload.name)
            models = models_of(Path(workload), Path(store), options.overrides)
            for line in table(models.values()):
                print(line)
            if twin:
                apart = twins(models, models_of(Path(workload), Path(twin[0]), options.overrides))
                print(f"  {'the same points measured twice':34} {text(apart)}")


if __name__ == "__main__":
    main()
