"""Differences between choices: formulas, published examples, coverage by simulation, and what a profile holds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats

from inferplan.estimators.comparison import (
    Comparison,
    compare,
    compare_combinations,
    difference_of_scores,
    difference_of_statistics,
    lineage_comparisons,
    mcnemar,
    tango,
)
from inferplan.spec.errors import InputError
from inferplan.spec.metrics import Statistic, built_in
from inferplan.spec.predictions import to_text
from inferplan.spec.profile import Profile
from inferplan.spec.rows import AccuracyRow, ExampleScores, Predictions
from inferplan.spec.stage import Metric
from inferplan.spec.stagecode import Scores
from inferplan.spec.workload import Workload

Floats = NDArray[np.float64]
TOP1 = Metric(name="top1")
CER = Metric(name="cer", direction="minimize")


def plain(values: Floats) -> Scores:
    return Scores(values.astype(np.float64), np.ones(len(values)))


@given(b=st.integers(0, 60), c=st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_mcnemars_mid_p_is_the_binomials(b: int, c: int) -> None:
    exact = min(1.0, 2 * stats.binom.cdf(min(b, c), b + c, 0.5))
    expected = 1.0 if b == c else exact - stats.binom.pmf(min(b, c), b + c, 0.5)
    assert mcnemar(b, c, 200).p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_a_published_example() -> None:
    """Fagerland, Lydersen, Laake (2013): 1 and 7 discordant pairs of 21, mid-p 0.039; Tango -0.517 to -0.026."""
    found = mcnemar(1, 7, 21)
    assert found.p_value == pytest.approx(0.039, abs=5e-4)
    assert (found.lower, found.upper) == pytest.approx((-0.517, -0.026), abs=5e-4)


def constrained_score(b: int, c: int, n: int, d: float) -> float:
    """Tango's statistic with the share found by maximising the likelihood numerically."""

    def unlikely(q: float) -> float:
        shares = np.array([q + d, q, 1 - 2 * q - d])
        counts = np.array([b, c, n - b - c])
        return -float(np.sum(np.where(counts > 0, counts * np.log(np.maximum(shares, 1e-300)), 0.0)))

    q = optimize.minimize_scalar(
        unlikely, bounds=(max(0.0, -d), (1 - d) / 2), method="bounded", options={"xatol": 1e-12}
    ).x
    return float((b - c - n * d) / np.sqrt(n * (2 * q + d * (1 - d))))


@pytest.mark.parametrize(("b", "c", "n"), [(10, 4, 100), (3, 9, 40), (30, 25, 60), (5, 0, 50)])
def test_tangos_ends_solve_the_score_equation(b: int, c: int, n: int) -> None:
    lower, upper = tango(b, c, n)
    assert lower < (b - c) / n < upper
    assert constrained_score(b, c, n, lower) == pytest.approx(1.959964, rel=2e-3)
    assert constrained_score(b, c, n, upper) == pytest.approx(-1.959964, rel=2e-3)
    assert tango(c, b, n) == pytest.approx((-upper, -lower))


def test_no_discordant_pair_is_no_certainty() -> None:
    lower, upper = tango(0, 0, 100)
    assert upper == -lower == pytest.approx(3.8415 / (100 + 3.8415), rel=1e-3)
    assert tango(100, 0, 100)[1] == 1.0


def test_mcnemar_errs_as_often_as_it_says() -> None:
    """2000 pairs of evaluations of 200 examples, correlated: type I error and coverage (seeded)."""
    generator = np.random.default_rng(5)
    rejected = covered = 0
    for _ in range(2000):
        first = generator.random(200) < 0.8
        alike = generator.random(200) < 0.8
        equal = np.where(alike, first, generator.random(200) < 0.8)
        found = difference_of_scores(plain(first), plain(equal))
        rejected += found.p_value < 0.05
        worse = np.where(alike, first, generator.random(200) < 0.6)
        found = difference_of_scores(plain(first), plain(worse))
        covered += found.lower <= 0.2 * 0.2 <= found.upper
    assert 0.035 <= rejected / 2000 <= 0.06
    assert 0.935 <= covered / 2000 <= 0.965


def test_the_paired_bootstrap_errs_as_often_as_it_says() -> None:
    """250 pairs of error rates over 150 texts of unequal length (seeded)."""
    generator = np.random.default_rng(9)
    rejected = covered = 0
    for _ in range(250):
        weights = generator.integers(1, 40, 150).astype(np.float64)
        hard = generator.gamma(2.0, 0.05, 150)
        first, second, third = (hard + generator.gamma(1.0, scale, 150) for scale in (0.03, 0.03, 0.05))
        rejected += difference_of_scores(Scores(first, weights), Scores(second, weights)).p_value < 0.05
        found = difference_of_scores(Scores(third, weights), Scores(first, weights))
        covered += found.lower <= 0.02 <= found.upper
        assert found.method == "paired bootstrap"
    assert 0.02 <= rejected / 250 <= 0.085
    assert 0.91 <= covered / 250 <= 0.98


def test_pairs_tell_more_than_intervals_do() -> None:
    """Two choices that differ on the same few examples: unpaired intervals overlap, the paired one tells."""
    first = np.repeat([1.0, 0.0, 1.0], [700, 280, 20])
    second = np.repeat([1.0, 0.0, 0.0], [700, 280, 20])
    found = difference_of_scores(plain(first), plain(second))
    assert found.value == pytest.approx(0.02)
    assert 0 < found.lower < found.upper < 0.04
    assert found.p_value < 1e-5


def statistics_of(name: str, n: int, seed: int) -> tuple[Statistic, Statistic]:
    generator = np.random.default_rng(seed)
    truths = generator.integers(0, 2, n).tolist()
    good = generator.normal(size=n) + truths
    poor = good + 2 * generator.normal(size=n)
    if name == "f1":
        good, poor = (good > 0.5).astype(int), (poor > 0.5).astype(int)
    pair = [built_in(Metric.model_validate({"name": "m", "compute": name}), list(p), truths) for p in (good, poor)]
    assert not any(isinstance(found, Scores) for found in pair)
    return pair[0], pair[1]  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["auc", "f1"])
def test_metrics_without_scores_are_made_anew(name: str) -> None:
    good, poor = statistics_of(name, 400, 3)
    found = difference_of_statistics(good, poor)
    assert 0 < found.lower < found.value < found.upper
    assert found.p_value < 0.01
    same = difference_of_statistics(good, good)
    assert (same.value, same.p_value) == (0.0, 1.0)
    assert same.lower < 0 < same.upper


def test_the_auc_interval_is_delongs() -> None:
    """DeLong, DeLong, Clarke-Pearson (1988): the variance of a difference of AUCs from placements."""
    generator = np.random.default_rng(1)
    truths = generator.integers(0, 2, 600)
    first = generator.normal(size=600) + truths
    second = first + generator.normal(size=600)
    metric = Metric.model_validate({"name": "auc", "compute": "auc"})
    pair = [built_in(metric, list(scores), list(truths)) for scores in (first, second)]
    found = difference_of_statistics(*pair)  # type: ignore[arg-type]
    ups, downs = truths == 1, truths == 0
    wins = [scores[ups][:, None] > scores[downs][None, :] for scores in (first, second)]
    gaps = wins[0].astype(float) - wins[1]
    deviation = np.sqrt(gaps.mean(1).var(ddof=1) / ups.sum() + gaps.mean(0).var(ddof=1) / downs.sum())
    assert found.value == pytest.approx(gaps.mean())
    assert (found.upper - found.lower) / (2 * 1.96) == pytest.approx(deviation, rel=0.08)


def comparison(lower: float, upper: float, p_value: float, metric: Metric = TOP1) -> Comparison:
    return Comparison("s", "a", "b", metric, (lower + upper) / 2, lower, upper, p_value, 100, "mcnemar")


def test_verdicts_turn_with_the_metric() -> None:
    assert comparison(0.01, 0.03, 0.01).verdict == "better"
    assert comparison(0.01, 0.03, 0.01, CER).verdict == "worse"
    assert comparison(-0.03, -0.01, 0.01).verdict == "worse"
    assert comparison(-0.03, -0.01, 0.01, CER).verdict == "better"
    assert comparison(-0.001, 0.03, 0.049).verdict == "no difference shown"
    assert comparison(0.001, 0.03, 0.051).verdict == "no difference shown"


def test_as_accurate_looks_at_the_worse_end() -> None:
    assert comparison(-0.009, 0.02, 0.5).as_accurate_within(0.01)
    assert not comparison(-0.011, 0.02, 0.5).as_accurate_within(0.01)
    assert comparison(-0.5, 0.009, 0.5, CER).as_accurate_within(0.01)
    assert not comparison(-0.5, 0.011, 0.5, CER).as_accurate_within(0.01)


class Kept(Profile):
    """A profile whose scores and predictions are in memory."""

    scored: dict[str, Scores] = {}
    predicted: dict[str, tuple[list[Any], list[Any]]] = {}

    def scores(self, row: AccuracyRow) -> ExampleScores | None:
        found = self.scored.get(row.choice or row.combination)
        if found is None:
            return None
        ids = tuple(map(str, range(len(found.values))))
        return ExampleScores("", "", ids, {row.metric: found.values}, {row.metric: found.weights})

    def predictions(self, row: AccuracyRow) -> Predictions | None:
        found = self.predicted.get(row.choice)
        if found is None:
            return None
        ids = tuple(map(str, range(len(found[0]))))
        return Predictions("", "", ids, tuple(map(to_text, found[0])), tuple(map(to_text, found[1])))


def row(variant: str, value: float | None, modalities: str = "", **changes: Any) -> AccuracyRow:
    made = AccuracyRow("stage", "s", variant, "{}", modalities, "top1", value, None, None, 4, "wilson", "e")
    return dataclasses.replace(made, **changes)


def profile(
    rows: list[AccuracyRow],
    scored: dict[str, list[float]] | None = None,
    predicted: dict[str, tuple[list[Any], list[Any]]] | None = None,
) -> Profile:
    made = Kept(Path("p"), (), tuple(rows), (), "")
    Kept.scored = {name: plain(np.array(values)) for name, values in (scored or {}).items()}
    Kept.predicted = predicted or {}
    return made


def test_choices_are_compared_on_their_scores() -> None:
    held = profile([row("a", 0.75), row("b", 0.25)], {"a": [1, 1, 1, 0] * 20, "b": [1, 0, 0, 0] * 20})
    found = compare(held, "s", "a", "b", TOP1)
    assert (found.first, found.second, found.n, found.method, found.verdict) == ("a", "b", 80, "mcnemar", "better")
    assert found.difference == pytest.approx(0.5)
    assert compare(held, "s", "b", "a", TOP1).verdict == "worse"


def test_without_a_value_there_is_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="s=b has no measured top1"):
        compare(profile([row("a", 0.5), row("b", None)]), "s", "a", "b", TOP1)


def test_predictions_stand_in_where_a_metric_has_no_scores() -> None:
    metric = Metric.model_validate({"name": "top1", "compute": "f1"})
    truths = [0, 1] * 50
    predicted = {"a": (truths, truths), "b": ([0, 0] * 50, truths)}
    found = compare(profile([row("a", 1.0), row("b", 1 / 3)], None, predicted), "s", "a", "b", metric)
    assert found.difference == pytest.approx(1 - 1 / 3)
    assert (found.method, found.verdict) == ("paired bootstrap", "better")
    other = {"a": (truths, truths), "b": ([0, 0] * 50, truths[::-1])}
    found = compare(profile([row("a", 1.0), row("b", 1 / 3)], None, other), "s", "a", "b", metric)
    assert found.method == "independent intervals"


def test_two_intervals_are_the_last_resort() -> None:
    a, b = row("a", 0.9, lower=0.88, upper=0.92), row("b", 0.8, lower=0.76, upper=0.84)
    found = compare(profile([a, b]), "s", "a", "b", TOP1)
    half = np.hypot(0.02, 0.04)
    assert (found.lower, found.upper) == pytest.approx((0.1 - half, 0.1 + half))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(0.1 / (half / 1.959964)), rel=1e-5)
    assert (found.method, found.verdict) == ("independent intervals", "better")
    bare = compare(profile([row("a", 0.9), row("b", 0.8)]), "s", "a", "b", TOP1)
    assert bare.verdict == "no difference shown"


def test_combinations_are_compared_end_to_end() -> None:
    names = [{"read": "b", "detect": "x"}, {"detect": "y", "read": "b"}]
    texts = [json.dumps(name, sort_keys=True) for name in names]
    rows = [
        row("", value, scope="pipeline", stage="", combination=text)
        for text, value in zip(texts, (0.75, 0.5), strict=True)
    ]
    held = profile(rows, {texts[0]: [1, 1, 1, 0] * 30, texts[1]: [1, 1, 0, 0] * 30})
    found = compare_combinations(held, names[0], names[1], TOP1)
    assert (found.stage, found.first, found.verdict) == ("", texts[0], "better")


def test_every_variant_is_compared_with_its_parent() -> None:
    reads = {"reads": ["acc", "gyro"], "optional": ["gyro"]}
    variants = {
        "big": {"model": "big.onnx", "modalities": reads},
        "int8": {"model": "int8.onnx", "parent": "big", "modalities": reads},
        "fp16": {"model": "fp16.onnx", "parent": "big"},
        "orphan": {"model": "o.onnx", "parent": "gone"},
    }
    workload = Workload.model_validate(
        {
            "apiVersion": "inferplan/v1",
            "name": "w",
            "pipeline": {"stages": {"s": {"metric": {"name": "top1"}, "variants": variants}}},
            "tiers": {"edge": {"devices": {"box": {"price_usd_per_h": 1.0, "cores": 1}}}},
            "classes": {"c": {"rate_rps": 1.0}},
        }
    )
    rows = [
        row("big", 0.75, "acc+gyro"),
        row("big", 0.5, "acc"),
        row("int8", 0.5, "acc+gyro"),
        row("int8", None, "acc"),
    ]
    rows += [row("fp16", 0.9), row("orphan", 0.9)]
    held = profile(rows, {"big@acc+gyro": [1, 1, 1, 0] * 30, "int8@acc+gyro": [1, 1, 0, 0] * 30})
    (found,) = lineage_comparisons(workload, held)
    assert (found.first, found.second, found.verdict) == ("int8@acc+gyro", "big@acc+gyro", "worse")
