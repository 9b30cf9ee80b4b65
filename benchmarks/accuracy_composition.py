"""How well accuracy compositions predict: `python benchmarks/accuracy_composition.py [--profile DIR] [--plans]`.

On sample workload ocr, with all 168 combinations measured end to end (`data/ocr_accuracy.csv`, or a profile of yours):

1. some combinations, measured beside predicted: product, response (curves over the product of the inputs' metrics,
   made of measured combinations) and fitted, the latter two from all other measured combinations (leave one out);
2. the same over all 168: errors, and the share predicted within the measured combination's own 95 % interval;
3. from k measured combinations to all others, for the order in which the fitted model asks (it knows the values of
   what it has asked for only) and for random ones: product, response, a plain additive fit of the log odds (least
   squares), fitted. `known`: share predicted at all; `inside`: share of all others predicted within their own
   intervals; `covered`: share whose measured value lies in the predicted interval;
4. the fewest measured combinations after which all others (95 % of them) are predicted within their own intervals;
5. with --plans: how many combinations the planner has measured when it has nothing left to ask, for several floors,
   and whether its plan is the one that measuring all 168 leads to.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from inferplan.estimators.accuracy import AccuracyModel, accuracy_model
from inferplan.reports.tables import Table, left, plain, right
from inferplan.solvers.planner import solve
from inferplan.spec.document import LoadedWorkload, load_workload
from inferplan.spec.errors import InfeasibleError
from inferplan.spec.profile import Profile, read_profile
from inferplan.spec.rows import AccuracyRow, Measurement, PointKey, Quantiles, Samples

DATA = Path(__file__).parent / "data" / "ocr_accuracy.csv"
METRICS = {"detect": "f1", "orient": "accuracy", "read": "line_exact"}
STAGES = tuple(METRICS)
LINES_PER_PAGE = 12.05
MODEL = b"model"
Key = tuple[str, ...]
Rows = dict[Key, AccuracyRow]
LISTED = (
    "v4-int8-320 skip v4-160, v4-int8-320 v2 v6s-160, v4-int8-320 v2 v6s-int8-240, v6s-256 v2 v6s-int8-240,"
    " v4-320 v2 v6s-int8-240, v5-320 v2 v6s-int8-240, v6s-320 v2 v6s-160, v6s-320 v2 v6s-240, v4-480 skip v6s-int8-320,"
    " v4-480 v2 v4-160, v4-480 v2 v6s-320, v5-480 v2 v5-320, v5-480 lcnet v6s-320, v6s-480 v2 v6s-int8-320,"
    " v6s-480 lcnet v6s-240, v6s-480 lcnet v6s-320"
)
KS = (3, 5, 8, 12, 16, 24, 32, 48, 64)
FLOORS = (0.6, 0.75, 0.85, 0.9)


class Bare(Profile):
    """A profile without samples."""

    def samples(self, key: PointKey) -> Samples | None:
        """None: draws follow the mean and standard deviation of the point."""
        return None


def read(profile: Path | None) -> tuple[list[AccuracyRow], Rows, dict[tuple[str, str], float]]:
    """Stage rows, combination rows by (detect, orient, read), service times of batch 1 where known."""
    if profile is not None:
        found = read_profile(profile).accuracy
        own = [r for r in found if r.scope == "stage" and r.metric == METRICS[r.stage] and r.value is not None]
        whole = [r for r in found if r.scope == "pipeline" and r.metric == "line_exact" and r.value is not None]
        return own, {tuple(r.stages()[s] for s in STAGES): r for r in whole}, {}
    own, combined, times = [], {}, {}
    with DATA.open() as file:
        for line in csv.DictReader(file):
            key = tuple(line[s] for s in STAGES)
            text = (
                json.dumps(dict(zip(STAGES, key, strict=True)), sort_keys=True) if line["scope"] == "pipeline" else "{}"
            )
            row = AccuracyRow(
                "pipeline" if line["scope"] == "pipeline" else "stage", line["stage"], line["variant"], text, "",
                line["metric"], float(line["value"]), float(line["lower"]), float(line["upper"]), int(line["n"]),
                "", "",
            )  # fmt: skip
            if row.scope == "pipeline":
                combined[key] = row
            else:
                own.append(row)
                times[row.stage, row.variant] = float(line["service_s"] or 0)
    return own, combined, times


class Lab:
    """The workload and what was measured of it."""

    def __init__(self, profile: Path | None, folder: Path) -> None:
        self.own, self.rows, self.times = read(profile)
        self.folder = folder
        (folder / "model.onnx").write_bytes(MODEL)
        self.variants = {stage: sorted({key[i] for key in self.rows}) for i, stage in enumerate(STAGES)}
        self.loaded = {name: self.workload(name) for name in ("product", "response", "fitted")}

    def workload(self, composition: str, floor: float | None = None) -> LoadedWorkload:
        """The ocr workload with a composition; a page has its mean number of lines."""
        document: dict[str, Any] = {
            "apiVersion": "inferplan/v1",
            "name": "ocr",
            "pipeline": {
                "stages": {
                    stage: {
                        "metric": {"name": METRICS[stage]},
                        "variants": {v: {"runtime": "skip"} if v == "skip" else {"model": "model.onnx"} for v in own},
                    }
                    for stage, own in self.variants.items()
                },
                "edges": [
                    {"from": "detect", "to": "orient", "fan_out": LINES_PER_PAGE},
                    {"from": "orient", "to": "read"},
                ],
            },
            "tiers": {"edge": {"devices": {"small-cpu": {"price_usd_per_h": 0.085, "cores": 1}}}},
            "classes": {
                "pages": {
                    "rate_rps": 2.0,
                    "slo": {"latency_s": 5.0},
                    "accuracy": {} if floor is None else {"floor": floor},
                }
            },
            "accuracy": {"metric": {"name": "line_exact"}, "composition": composition},
        }
        path = self.folder / f"{composition}.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return load_workload(path)

    def profile(self, keys: Sequence[Key]) -> Profile:
        """A profile of the stages' rows and these combinations."""
        sha256 = hashlib.sha256(MODEL).hexdigest()
        measured = [
            Measurement(
                PointKey(s, v, "", sha256, "", "onnxruntime", "", "{}", "cpu", "edge/small-cpu", "f", 1, 1, "{}"),
                "ok",
                n=1000,
                service=Quantiles(mean_s=time, std_s=0.05 * time),
                peak_rss_bytes=2**27,
            )
            for (s, v), time in self.times.items()
            if time > 0
        ]
        rows = [self.rows[key] for key in keys]
        return Bare(self.folder, tuple(measured), (*self.own, *rows), (), "0" * 64)

    def model(self, composition: str, keys: Sequence[Key]) -> AccuracyModel:
        """The accuracy model that these measured combinations give."""
        found = accuracy_model(self.loaded[composition].workload, self.profile(keys))
        assert found is not None
        return found


Guess = tuple[float, float | None, float | None] | None
"""Predicted value with the ends of the interval of what measuring would show."""


def guess(model: AccuracyModel, key: Key) -> Guess:
    """A model's prediction of a combination as if it had not been measured."""
    if model.fitted is not None:
        found = model.fitted.predict(key)
        return None if found is None else (found.value, *found.seen)
    estimate = model.of(dict(zip(STAGES, key, strict=True)))
    return None if estimate is None else (estimate.value, estimate.lower, estimate.upper)


def additive(lab: Lab, keys: Sequence[Key]) -> Callable[[Key], Guess]:
    """Main effects of the log odds by least squares; unknown where a choice was not measured."""
    columns = [(i, v) for i, stage in enumerate(STAGES) for v in lab.variants[stage]]
    design = np.array([[1.0, *(float(key[i] == v) for i, v in columns)] for key in keys])
    shares = np.clip([lab.rows[key].value or 0.0 for key in keys], 0.005, 0.995)
    effects = np.linalg.lstsq(design, np.log(shares / (1 - shares)), rcond=None)[0]
    seen = {(i, key[i]) for key in keys for i in range(len(STAGES))}

    def predict(key: Key) -> Guess:
        if any((i, v) not in seen for i, v in enumerate(key)):
            return None
        y = effects[0] + sum(e for e, (i, v) in zip(effects[1:], columns, strict=True) if key[i] == v)
        return 1 / (1 + math.exp(-y)), None, None

    return predict


def predictor(lab: Lab, method: str, keys: Sequence[Key]) -> Callable[[Key], Guess]:
    """What a method says of combinations once `keys` were measured."""
    if method == "additive":
        return additive(lab, keys)
    model = lab.model(method, [] if method == "product" else keys)
    return lambda key: guess(model, key)


def scores(lab: Lab, predict: Mapping[Key, Guess]) -> list[str]:
    """Cells: known, mean error, root mean square, largest, inside, covered."""
    errors, inside, covered, bounded = [], 0, 0, 0
    for key, found in predict.items():
        row = lab.rows[key]
        assert row.value is not None
        if found is None:
            continue
        errors.append(abs(found[0] - row.value))
        inside += row.lower is not None and row.upper is not None and row.lower <= found[0] <= row.upper
        if found[1] is not None and found[2] is not None:
            bounded += 1
            covered += found[1] <= row.value <= found[2]
    if not errors:
        return ["0 %", *["-"] * 5]
    every = len(predict)
    return [
        f"{100 * len(errors) / every:.0f} %",
        f"{100 * np.mean(errors):.2f}",
        f"{100 * math.sqrt(np.mean(np.square(errors))):.2f}",
        f"{100 * max(errors):.1f}",
        f"{100 * inside / every:.0f} %",
        f"{100 * covered / bounded:.0f} %" if bounded else "-",
    ]


SCORES = ("known", "mean error", "rms", "largest", "inside", "covered")


def left_out(lab: Lab, method: str) -> dict[Key, Guess]:
    """Every combination predicted from all others."""
    return {key: predictor(lab, method, [k for k in lab.rows if k != key])(key) for key in lab.rows}


def asked_order(lab: Lab, most: int) -> list[Key]:
    """The order in which the fitted model asks, from combinations that show the middle and both ends."""
    product = lab.model("product", [])
    ranked = sorted(lab.rows, key=lambda key: guess(product, key) or (0.0,))
    keys = [ranked[len(ranked) // 2], ranked[-1], ranked[0]]
    while len(keys) < most:
        fitted = lab.model("fitted", keys).fitted
        assert fitted is not None
        chosen = fitted.next_best([key for key in lab.rows if key not in keys], list(lab.rows))
        assert chosen is not None
        keys.append(chosen)
    return keys


def inside_share(lab: Lab, predict: Callable[[Key], Guess], keys: Sequence[Key]) -> float:
    """Share of combinations that were not measured predicted within their own intervals."""
    found = [(predict(key), lab.rows[key]) for key in lab.rows if key not in keys]
    good = [
        g is not None and r.lower is not None and r.upper is not None and r.lower <= g[0] <= r.upper for g, r in found
    ]
    return float(np.mean(good)) if good else 1.0


def needed(lab: Lab, method: str, order: Sequence[Key], share: float) -> str:
    """The fewest of an order after which this share of the rest is inside, and stays so."""
    counts = list(range(3, len(order) + 1))
    shares = [inside_share(lab, predictor(lab, method, order[:k]), order[:k]) for k in counts]
    enough = [all(s >= share for s in shares[i:]) for i in range(len(counts))]
    return next((str(k) for k, stays in zip(counts, enough, strict=True) if stays), f"more than {len(order)}")


def plans(lab: Lab) -> Table:
    """The planner measures what it asks for until it asks no more."""
    count = max(len(own) for own in lab.variants.values())
    begin = [tuple(own[i % len(own)] for own in lab.variants.values()) for i in range(count)]
    rows = []
    for floor in FLOORS:
        keys, rounds = list(begin), 0
        while asked := (answer := decided(lab, "fitted", floor, keys))[1]:
            keys += [key for key in asked if key not in keys]
            rounds += 1
        full = decided(lab, "table", floor, list(lab.rows))[0]
        same = "same" if math.isclose(answer[0], full, rel_tol=1e-6) else "differs"
        costs = ["none" if math.isnan(cost) else f"{cost:.4g}" for cost in (answer[0], full)]
        same = "same" if costs[0] == costs[1] else same
        rows.append([f"{floor:g}", str(len(keys)), str(rounds), *costs, same])
    columns = [*right("floor", "measured", "rounds", "USD/h", f"USD/h, all {len(lab.rows)}"), *left("")]
    return Table(columns, rows)


def decided(lab: Lab, composition: str, floor: float, keys: Sequence[Key]) -> tuple[float, list[Key]]:
    """Cost of the plan (NaN where there is none), and what the planner asks for."""
    try:
        plan = solve(lab.workload(composition, floor), lab.profile(keys), plan_dir=lab.folder, time_limit_s=60)
    except InfeasibleError as error:
        lines = [line.split()[1].rstrip(":") for line in error.details if line.startswith("measure ")]
        return math.nan, [tuple(part.partition("=")[2] for part in line.split(",")) for line in lines]
    return plan.cost_usd_per_h, [tuple(wanted.combination[s] for s in STAGES) for wanted in plan.to_measure]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, help="a profile of ocr instead of data/ocr_accuracy.csv")
    parser.add_argument("--plans", action="store_true", help="run the planner's loop too (a minute or two)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(arguments.profile, Path(folder))
        alone = {method: left_out(lab, method) for method in ("product", "response", "additive", "fitted")}
        listed = [tuple(text.split()) for text in LISTED.split(", ")]
        rows = []
        for key in (key for key in listed if key in lab.rows):
            row = lab.rows[key]
            cells = [f"{100 * (row.value or 0):.1f}", f"{100 * (row.lower or 0):.1f} to {100 * (row.upper or 0):.1f}"]
            for method in ("product", "response", "fitted"):
                found = alone[method][key]
                mark = "" if found is None or not (row.lower or 0) <= found[0] <= (row.upper or 0) else " *"
                cells.append("-" if found is None else f"{100 * found[0]:.1f}{mark or '  '}")
            rows.append([" ".join(key), *cells])
        print("Accuracies in %; * within the measured interval\n")
        print(
            plain(Table([*left("combination"), *right("measured", "interval", "product", "response", "fitted")], rows))
        )
        print(f"\nAll {len(lab.rows)}, each from all others; errors in points of %\n")
        print(plain(Table([*left("model"), *right(*SCORES)], [[m, *scores(lab, alone[m])] for m in alone])))
        order = asked_order(lab, min(96, len(lab.rows) - 1))
        rng = np.random.default_rng(0)
        rows = []
        for k, (which, keys) in itertools.product(KS, (("asked for", None), ("random", "random"))):
            names = list(lab.rows)
            chosen = order[:k] if keys is None else [names[i] for i in rng.permutation(len(names))[:k]]
            rest = [key for key in lab.rows if key not in chosen]
            for method in ("product", "response", "additive", "fitted"):
                predict = predictor(lab, method, chosen)
                rows.append([str(k), which, method, *scores(lab, {key: predict(key) for key in rest})])
        print("\nFrom k measured combinations to all others\n")
        print(plain(Table([*right("k"), *left("which", "model"), *right(*SCORES)], rows)))
        print("\nMeasured combinations needed, in the order asked for, until the rest is within its own intervals\n")
        rows = [
            [method, *(needed(lab, method, order, share) for share in (0.8, 0.9, 0.95, 1.0))]
            for method in ("product", "response", "additive", "fitted")
        ]
        print(plain(Table([*left("model"), *right("80 %", "90 %", "95 %", "all")], rows)))
        if arguments.plans:
            print("\nThe planner's own questions\n")
            print(plain(plans(lab)))


if __name__ == "__main__":
    main()
