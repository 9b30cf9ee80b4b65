"""The fitted model: it finds an additive truth, its intervals cover, it asks well, it refuses to know too much."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from inferplan.estimators.composition import AccuracyEstimate, Key, Turn
from inferplan.estimators.fitted import Fitted, fit

STAGES = ("a", "b", "c")
CHOICES = {"a": [f"a{i}" for i in range(5)], "b": ["b0", "b1", "b2"], "c": [f"c{i}" for i in range(4)]}
EVERY = list(product(*(CHOICES[stage] for stage in STAGES)))
UP = Turn("maximize")


def share(y: float) -> float:
    return 1 / (1 + math.exp(-y))


def truth(rng: np.random.Generator, pairs: float = 0.0) -> dict[Key, float]:
    """Log odds that add up over stages, with pair effects and a little that no sum explains."""
    effects = {(s, c): rng.normal(0, 0.5) for s in STAGES for c in CHOICES[s]}
    joint = {(c, d): rng.normal(0, pairs) for c in CHOICES["a"] for d in CHOICES["c"]}
    return {
        key: share(
            1.0
            + sum(effects[s, c] for s, c in zip(STAGES, key, strict=True))
            + joint[key[0], key[2]]
            + rng.normal(0, 0.03)
        )
        for key in EVERY
    }


def fitted(values: dict[Key, float], keys: list[Key], turn: Turn = UP, width: float = 0.0) -> Fitted:
    ends = (None, None) if width == 0 else (-width, width)
    measured = {
        key: AccuracyEstimate(
            v := values[key], None if ends[0] is None else v + ends[0], None if ends[1] is None else v + ends[1]
        )
        for key in keys
    }
    return fit(STAGES, CHOICES, measured, {}, turn)


def some(rng: np.random.Generator, count: int) -> list[Key]:
    return [EVERY[i] for i in rng.permutation(len(EVERY))[:count]]


def test_an_additive_truth_is_found_from_a_third_of_the_combinations() -> None:
    rng = np.random.default_rng(0)
    values = truth(rng)
    keys = some(rng, 20)
    model = fitted(values, keys)
    errors = [abs(found.value - values[key]) for key in EVERY if (found := model.predict(key)) is not None]
    assert len(errors) == len(EVERY)
    assert np.mean(errors) < 0.02
    assert model.leave_one_out.rms < 0.05


@pytest.mark.parametrize(("count", "pairs"), [(6, 0.0), (12, 0.0), (12, 0.3), (25, 0.3)])
def test_intervals_cover_what_is_measured_later(count: int, pairs: float) -> None:
    covered = total = 0
    for seed in range(15):
        rng = np.random.default_rng(seed)
        values = truth(rng, pairs)
        keys = some(rng, count)
        model = fitted(values, keys)
        for key in EVERY:
            found = model.predict(key)
            if key not in keys and found is not None:
                total += 1
                covered += found.seen[0] <= values[key] <= found.seen[1]
    assert covered / total > 0.9


def test_what_is_shown_is_wider_by_the_sampling_error_of_what_was_measured() -> None:
    rng = np.random.default_rng(1)
    values = truth(rng)
    model = fitted(values, some(rng, 25), width=0.03)
    for key in EVERY:
        found = model.predict(key)
        assert found is not None
        assert found.itself[0] < found.seen[0] < found.value < found.seen[1] < found.itself[1]
        estimate = model.of(dict(zip(STAGES, key, strict=True)))
        assert estimate is not None
        assert estimate.source == "predicted"


def test_stage_metrics_are_where_it_starts_from() -> None:
    """With three measured combinations that are products, the rest are predicted as products."""
    rng = np.random.default_rng(2)
    goodness = {(s, c): float(rng.uniform(0.7, 0.99)) for s in STAGES for c in CHOICES[s]}
    values = {key: math.prod(goodness[s, c] for s, c in zip(STAGES, key, strict=True)) for key in EVERY}
    measured = {key: AccuracyEstimate(values[key]) for key in some(rng, 3)}
    with_metrics = fit(STAGES, CHOICES, measured, goodness, UP)
    without = fit(STAGES, CHOICES, measured, {}, UP)

    def error(model: Fitted) -> float:
        return float(np.mean([abs(found.value - values[key]) for key in EVERY if (found := model.predict(key))]))

    assert error(with_metrics) < 0.02
    assert error(with_metrics) < error(without) / 3


def test_error_rates_and_other_metrics_have_their_direction() -> None:
    rng = np.random.default_rng(3)
    right = truth(rng)
    keys = some(rng, 25)
    other = next(key for key in EVERY if key not in keys)
    up = fitted(right, keys).predict(other)
    down = fitted({key: 1 - value for key, value in right.items()}, keys, Turn("minimize")).predict(other)
    assert up is not None
    assert down is not None
    assert down.value == pytest.approx(1 - up.value)
    effects = {(s, c): float(rng.normal(0, 3)) for s in STAGES for c in CHOICES[s]}
    errors = {key: 40 + sum(effects[s, c] for s, c in zip(STAGES, key, strict=True)) for key in EVERY}
    linear = fitted(errors, keys, Turn("minimize")).predict(other)
    assert linear is not None
    assert linear.value == pytest.approx(errors[other], abs=0.5)
    assert linear.seen[0] < errors[other] < linear.seen[1]


def test_what_it_asks_for_helps_more_than_what_comes_along() -> None:
    asked, random = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        values = truth(rng)
        keys = some(rng, 3)
        others = some(rng, 14)
        while len(keys) < 12:
            chosen = fitted(values, keys).next_best([key for key in EVERY if key not in keys], EVERY)
            assert chosen is not None
            keys.append(chosen)

        def error(model: Fitted, values: dict[Key, float]) -> float:
            return float(np.mean([(found.value - values[key]) ** 2 for key in EVERY if (found := model.predict(key))]))

        asked.append(error(fitted(values, keys), values))
        random.append(error(fitted(values, others[:12]), values))
    assert np.mean(asked) < np.mean(random)


def test_left_out_is_what_fitting_without_it_would_say() -> None:
    """The closed form against fitting anew, whose weights of the grid differ a little."""
    rng = np.random.default_rng(5)
    values = truth(rng)
    keys = sorted(some(rng, 30))
    model = fitted(values, keys)
    predicted = model._left_out[0]
    for place in (0, 7, 20):
        without = fitted(values, [key for key in keys if key != keys[place]]).predict(keys[place])
        assert without is not None
        assert model.scale.back(float(predicted[place])) == pytest.approx(without.value, abs=0.02)


def test_nothing_is_left_to_ask_where_there_are_no_candidates() -> None:
    model = fitted(truth(np.random.default_rng(0)), EVERY[:5])
    assert model.next_best([], EVERY) is None
    assert model.predict(("a0", "b0", "unknown")) is None
    assert not model.knows("c", "unknown")
