"""Metrics of an evaluation: intervals with and without per-example scores, the user's functions, evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inferplan.profilers import metrics
from inferplan.profilers.metrics import Evaluated, computed_metrics, evaluate, with_metrics
from inferplan.profilers.statistics import wilson
from inferplan.spec.errors import InputError
from inferplan.spec.stage import Metric
from inferplan.spec.stagecode import Scores

CODE = """
import numpy as np

def each(predictions, truths):
    return [float(p == t) for p, t in zip(predictions, truths)]

def weighted(predictions, truths):
    return ([1.0, 0.0], [3.0, 1.0])

def correlation(predictions, truths):
    return np.corrcoef(predictions, truths)[0, 1]

def wrong(predictions, truths):
    return [1.0]

def text(predictions, truths):
    return "good"

def broken(predictions, truths):
    raise KeyError("label")

constant = 5
"""


@pytest.fixture
def work(tmp_path: Path) -> Callable[..., dict[str, Evaluated]]:
    """Evaluate metrics given as documents, with the functions above."""
    (tmp_path / "own_metrics.py").write_text(CODE)

    def run(
        predictions: list[Any], truths: list[Any], *given: dict[str, Any], **scores: Scores
    ) -> dict[str, Evaluated]:
        wanted = [data for item in given for data in computed_metrics(Metric.model_validate(item))]
        steps = evaluate(scores, wanted, predictions, truths, tmp_path)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return dict(end.value)

    return run


def test_per_example_metrics_keep_their_scores(work: Callable[..., dict[str, Evaluated]]) -> None:
    found = work([1, 0, 1, 1], [1, 1, 1, 0], {"name": "right", "compute": "top1"})["right"]
    assert found.scores is not None
    assert found.scores.values.tolist() == [1, 0, 1, 0]
    assert (found.value, found.lower, found.upper, found.method, found.n) == (0.5, *wilson(2, 4), "wilson", 4)


def test_a_computed_metric_comes_before_a_score_of_its_name(work: Callable[..., dict[str, Evaluated]]) -> None:
    own = {"right": Scores(np.zeros(2), np.ones(2)), "other": Scores(np.ones(2), np.ones(2))}
    found = work([1, 1], [1, 1], {"name": "right", "compute": "top1"}, **own)
    assert {name: item.value for name, item in found.items()} == {"right": 1.0, "other": 1.0}


@pytest.mark.parametrize("name", ["auc", "f1"])
def test_metrics_without_scores_get_a_bootstrap(work: Callable[..., dict[str, Evaluated]], name: str) -> None:
    generator = np.random.default_rng(0)
    truths = generator.integers(0, 2, 300).tolist()
    values = generator.normal(size=300) + truths
    predictions = values.tolist() if name == "auc" else (values > 0.5).astype(int).tolist()
    found = work(predictions, truths, {"name": "m", "compute": name})["m"]
    assert found.scores is None
    assert (found.method, found.n) == ("bootstrap", 300)
    assert found.lower is not None
    assert found.upper is not None
    assert found.value is not None
    assert found.lower < found.value < found.upper
    # Hanley and McNeil's deviation of an AUC of 0.76 with 150 of each kind is 0.027; that of F1 is near sqrt(pq/n).
    assert (found.upper - found.lower) / (2 * 1.96) == pytest.approx(0.027, abs=0.004)


def test_many_classes_do_not_push_the_interval_aside(work: Callable[..., dict[str, Evaluated]]) -> None:
    """Resamples miss classes and repeat examples, which lowers macro F1: the interval is moved back by that."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        truths = generator.integers(0, 50, 500)
        predictions = np.where(generator.random(500) < 0.8, truths, generator.integers(0, 50, 500))
        found = work(predictions.tolist(), truths.tolist(), {"name": "f1", "compute": "f1"})["f1"]
        assert found.lower < found.value < found.upper
        # Of many examples, F1 of every class is its share of right answers: 0.8 + 0.2 / 50.
        covered += found.lower <= 0.804 <= found.upper
    assert covered / 60 >= 0.86


def test_a_perfect_auc_is_not_certain(work: Callable[..., dict[str, Evaluated]]) -> None:
    found = work([0.1, 0.2, 0.3, 0.8, 0.9], [0, 0, 0, 1, 1], {"name": "auc", "compute": "auc"})["auc"]
    assert (found.value, found.method) == (1.0, "wilson")
    assert (found.lower, found.upper) == wilson(2, 2)


def test_functions_next_to_the_workload(work: Callable[..., dict[str, Evaluated]]) -> None:
    both = [{"name": name, "compute": f"own_metrics:{name}"} for name in ("each", "weighted")]
    found = work([1, 0], [1, 1], *both)
    assert (found["each"].value, found["each"].method) == (0.5, "wilson")
    assert found["weighted"].value == 0.75


def test_a_function_of_everything_is_drawn_anew(work: Callable[..., dict[str, Evaluated]]) -> None:
    generator = np.random.default_rng(4)
    truths = generator.normal(size=200)
    predictions = truths + generator.normal(size=200)
    item = {"name": "r", "compute": "own_metrics:correlation"}
    found = work(predictions.tolist(), truths.tolist(), item)["r"]
    assert found.value == pytest.approx(np.corrcoef(predictions, truths)[0, 1])
    # Fisher's z: tanh(atanh(r) -+ 1.96 / sqrt(n - 3)).
    ends = np.tanh(np.arctanh(found.value) + np.array([-1.96, 1.96]) / np.sqrt(197))
    assert (found.lower, found.upper) == pytest.approx(tuple(ends), abs=0.03)
    assert found.method == "bootstrap"


def test_a_slow_function_is_drawn_less_often(
    work: Callable[..., dict[str, Evaluated]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "LONGEST_S", 0.0)
    drawn = list(metrics._draws(metrics.FunctionOf(lambda p, t: sum(p), [1.0, 2.0], [0, 0])))
    assert len(drawn) == metrics.FEWEST_RESAMPLES


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        ("own_metrics:wrong", r"one value per example \(2\); got shape \(1,\)"),
        ("own_metrics:text", "expected numbers per example or one number, got 'good'"),
        ("own_metrics:broken", "own_metrics:broken raised KeyError: 'label'"),
        ("own_metrics:constant", "defines no function constant"),
        ("own_metrics:absent", "defines no function absent"),
        ("auc", "auc: all truths are 1"),
    ],
)
def test_what_cannot_be_computed_says_why(work: Callable[..., dict[str, Evaluated]], compute: str, reason: str) -> None:
    import re

    found = work([1, 0], [1, 1], {"name": "m", "compute": compute}, fine=Scores(np.ones(2), np.ones(2)))
    assert found["m"].value is None
    assert re.search(reason, found["m"].reason)
    assert found["fine"].value == 1.0


def test_nothing_weighed_is_no_value(work: Callable[..., dict[str, Evaluated]]) -> None:
    found = work([[1]], [[]], {"name": "r", "compute": "recall_at_k", "k": 1})["r"]
    assert (found.value, found.reason) == (None, "no example had a weight: the metric has no value")


def test_the_evidence_changes_with_the_definition(tmp_path: Path) -> None:
    file = tmp_path / "own_metrics.py"
    file.write_text(CODE)

    def evidence(**item: Any) -> str:
        return with_metrics("ab" * 32, computed_metrics(Metric.model_validate({"name": "m", **item})), tmp_path)

    plain = evidence()
    assert plain == "ab" * 32
    made = [evidence(compute="top1"), evidence(compute="f1"), evidence(compute="top1", name="n")]
    made += [evidence(compute="recall_at_k", k=k) for k in (1, 2)]
    made.append(evidence(compute="own_metrics:each"))
    file.write_text(CODE + "# changed")
    made.append(evidence(compute="own_metrics:each"))
    assert len(set(made)) == len(made)
    assert {text.partition("-")[0] for text in made} == {plain}
    with pytest.raises(InputError, match="there is no file"):
        evidence(compute="missing:each")
