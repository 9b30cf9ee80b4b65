"""Built-in metrics against hand-computed values, formulas and brute force."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferplan.spec.errors import InputError
from inferplan.spec.metrics import Auc, MacroF1, Statistic, built_in, edit_distance, value_of
from inferplan.spec.stage import Metric
from inferplan.spec.stagecode import Scores


def metric(name: str, k: int | None = None) -> Metric:
    direction = "minimize" if name in ("cer", "wer", "mae") else "maximize"
    return Metric.model_validate({"name": name, "compute": name, "direction": direction, "k": k})


def scores(name: str, predictions: Sequence[Any], truths: Sequence[Any], k: int | None = None) -> Scores:
    found = built_in(metric(name, k), predictions, truths)
    assert isinstance(found, Scores)
    return found


def statistic(name: str, predictions: Sequence[Any], truths: Sequence[Any]) -> Statistic:
    found = built_in(metric(name), predictions, truths)
    assert not isinstance(found, Scores)
    return found


def test_top1_takes_classes_and_class_scores() -> None:
    predictions = [3, np.int64(3), np.float32([0.1, 0.2, 0.0, 0.9]), [0.1, 0.9], {"y": np.array([0.0, 0.1, 0.2, 0.9])}]
    found = scores("top1", predictions, [3, 3, np.array(3), 0, np.array([0, 0, 0, 1])])
    assert found.values.tolist() == [1, 1, 1, 0, 1]
    assert found.is_proportion
    assert scores("top1", ["cat", np.str_("dog")], ["cat", "cat"]).value == 0.5
    assert scores("top1", [True, np.array([False])], [1, 1]).values.tolist() == [1, 0]


def test_class_scores_that_are_no_numbers_are_wrong() -> None:
    assert scores("top1", [np.array([np.nan, 1.0]), np.array([0.0, 1.0])], [0, 1]).values.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "prediction", "truth", "message"),
    [
        ("top1", 0.93, 1, "prediction of example 0: expected a class .* got float 0.93"),
        ("top1", [[1, 2], [3, 4]], 1, "expected a class .* got list"),
        ("top1", {"a": np.ones(2), "b": np.ones(2)}, 1, "got dict"),
        ("top1", "3", 3, "predictions are texts but truths are numbers"),
        ("top1", 1, None, "truth of example 0: expected a class .* got NoneType None"),
        ("cer", 5, "five", "prediction of example 0: expected a text or a list of symbols, got int 5"),
        ("auc", "high", 1, "expected a score, or the scores of two classes, got str 'high'"),
        ("auc", np.nan, 1, "expected a score, or the scores of two classes, got float nan"),
        ("auc", 0.5, "yes", "truth of example 0: expected 0 or 1, got str 'yes'"),
        ("auc", 0.5, 1, "all truths are 1"),
        ("mae", "5", 5.0, "expected a finite number or an array of them, got str '5'"),
        ("mae", np.inf, 5.0, "expected a finite number"),
        ("mae", np.ones(3), np.ones(4), r"prediction of shape \(3,\), truth of \(4,\)"),
        ("recall_at_k", 7, 7, "expected a ranked list, .* got int 7"),
        ("recall_at_k", np.ones((2, 3)), 7, r"got an array of float64 and shape \(2, 3\)"),
        ("f1", [0.2, 0.8], [0, 1], "expected a set or a list of names"),
        ("f1", "ab", {"a"}, "expected a set or a list of names"),
    ],
)
def test_errors_say_what_was_got(name: str, prediction: Any, truth: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        built_in(metric(name, 1 if name == "recall_at_k" else None), [prediction], [truth])


def test_no_examples_and_unequal_numbers_are_errors() -> None:
    with pytest.raises(InputError, match="no labelled examples"):
        built_in(metric("top1"), [], [])
    with pytest.raises(InputError, match="2 predictions but 1 truths"):
        built_in(metric("top1"), [1, 2], [1])


def test_macro_f1_by_hand() -> None:
    """Class a: tp 2, fp 1, fn 1 -> 2/3; b: tp 1, fp 1, fn 0 -> 2/3; c: tp 0, fp 0, fn 1 -> 0."""
    truths = ["a", "a", "a", "b", "c"]
    predictions = ["a", "a", "b", "b", "a"]
    assert value_of(statistic("f1", predictions, truths)) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def brute_f1(predictions: Sequence[Any], truths: Sequence[Any]) -> float:
    classes = sorted(set(predictions) | set(truths))
    total = 0.0
    for c in classes:
        tp = sum(p == t == c for p, t in zip(predictions, truths, strict=True))
        wrong = sum((p == c) != (t == c) for p, t in zip(predictions, truths, strict=True))
        total += 2 * tp / (2 * tp + wrong)
    return total / len(classes)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40), st.randoms())
@settings(max_examples=100, deadline=None)
def test_macro_f1_and_its_resamples_are_brute_force(pairs: list[tuple[int, int]], random: Any) -> None:
    predictions, truths = [p for p, _ in pairs], [t for _, t in pairs]
    made = statistic("f1", predictions, truths)
    picks = [random.randrange(len(pairs)) for _ in pairs]
    counts = np.array([np.ones(len(pairs)), np.bincount(picks, minlength=len(pairs))])
    expected = [brute_f1(predictions, truths), brute_f1([predictions[i] for i in picks], [truths[i] for i in picks])]
    np.testing.assert_allclose(made.values(counts), expected)


def test_a_prediction_that_is_no_class_is_a_miss_but_no_class() -> None:
    made = statistic("f1", [np.array([np.nan, 1.0]), 1, 0], [0, 1, 0])
    assert isinstance(made, MacroF1)
    assert value_of(made) == pytest.approx((2 / 3 + 1) / 2)


def test_f1_of_sets_is_a_ratio_of_sums() -> None:
    found = scores("f1", [{"a", "b"}, ["c", "c"], np.array([], int)], [{"a"}, ("c", "d"), []])
    # Common 1 + 1 + 0; sizes 3 + 3 + 0.
    assert found.value == pytest.approx(2 * 2 / 6)
    assert found.weights.tolist() == [3, 3, 0]


def brute_auc(values: Sequence[float], truths: Sequence[bool]) -> float:
    ups = [v for v, t in zip(values, truths, strict=True) if t]
    downs = [v for v, t in zip(values, truths, strict=True) if not t]
    return float(np.mean([(a > b) + 0.5 * (a == b) for a, b in itertools.product(ups, downs)]))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30), st.randoms())
@settings(max_examples=100, deadline=None)
def test_auc_and_its_resamples_are_brute_force(pairs: list[tuple[int, bool]], random: Any) -> None:
    values, truths = [float(v) for v, _ in pairs], [t for _, t in pairs]
    if len(set(truths)) < 2:
        return
    made = statistic("auc", values, truths)
    picks = [random.randrange(len(pairs)) for _ in pairs]
    counts = np.array([np.ones(len(pairs)), np.bincount(picks, minlength=len(pairs))])
    found = made.values(counts)
    assert found[0] == pytest.approx(brute_auc(values, truths))
    drawn = [truths[i] for i in picks]
    if len(set(drawn)) < 2:
        assert np.isnan(found[1])
    else:
        assert found[1] == pytest.approx(brute_auc([values[i] for i in picks], drawn))


def test_auc_takes_two_class_scores() -> None:
    pairs = [[0.9, 0.1], np.array([0.2, 0.8]), (0.6, 0.4)]
    assert value_of(statistic("auc", pairs, [0, 1, 1])) == 1.0
    made = statistic("auc", [np.float32(0.1), np.array([0.8]), {"y": np.array([[0.4]])}], [False, np.int64(1), 1.0])
    assert isinstance(made, Auc)
    assert made.least == 1


def test_exact_match_compares_by_items() -> None:
    same = [("a", "a"), ([1, (2, 3)], (1, [2, 3])), (np.array([1, 2]), [1, 2]), ({"x": np.ones(2)}, {"x": [1.0, 1.0]})]
    same += [(np.float32(0.5), 0.5), ({"y": np.array([7])}, 7), ({1, 2}, {2, 1})]
    other = [("a", "A"), ([1], [1, 2]), (np.array([1, 2]), [1, 3]), ({"x": 1}, {"y": 1}), ([1], 2)]
    predictions, truths = zip(*same, *other, strict=True)
    assert scores("exact_match", predictions, truths).values.tolist() == [1.0] * len(same) + [0.0] * len(other)


def brute_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (x != y))
    return row[-1]


@given(st.text("abc", max_size=90), st.text("abc", max_size=90))
@settings(max_examples=200, deadline=None)
def test_the_edit_distance_is_brute_force(a: str, b: str) -> None:
    assert edit_distance(a, b) == brute_distance(a, b)


def test_error_rates_are_ratios_of_sums() -> None:
    """kitten -> sitting is 3 edits of 7; one of two words is wrong, then a word too many."""
    assert edit_distance("kitten", "sitting") == 3
    found = scores("cer", ["kitten", "ab"], ["sitting", "ab"])
    assert found.value == pytest.approx(3 / 9)
    assert found.weights.tolist() == [7, 2]
    assert scores("wer", ["the  cat", "a b c"], ["the hat", "a b"]).value == pytest.approx(2 / 4)
    assert scores("wer", [["the", "cat"]], [np.array(["the", "hat"], object)]).value == 0.5
    assert scores("cer", [[1, 2, 3]], [[1, 3]]).value == 0.5


def test_an_empty_truth_counts_what_was_read_there() -> None:
    found = scores("cer", ["abc", "", "x"], ["", "", "x"])
    assert found.weights.tolist() == [1, 1, 1]
    assert found.value == 1.0


def test_mean_absolute_error() -> None:
    found = scores("mae", [1, np.float32(2.5), [1.0, 2.0], {"y": np.array([[3.0]])}], [2.0, 2, np.array([0, 0]), 3])
    assert found.values.tolist() == [1.0, 0.5, 1.5, 0.0]


def test_recall_of_ranked_lists_and_class_scores() -> None:
    ranked = [[5, 3, 1], ("x", "y"), np.array([0.1, 0.7, 0.2], np.float32), np.array([4, 9]), []]
    truths = [3, {"y", "z"}, 2, np.array([9, 4]), frozenset({"a"})]
    assert scores("recall_at_k", ranked, truths, k=2).values.tolist() == [1.0, 0.5, 1.0, 1.0, 0.0]
    assert scores("recall_at_k", ranked, truths, k=1).values.tolist() == [0.0, 0.0, 0.0, 0.5, 0.0]
    nothing = scores("recall_at_k", [[1], [1]], [[], [1]], k=1)
    assert nothing.value == 1.0
    assert nothing.weights.tolist() == [0, 1]
