"""Evening out what calls owe to the sizes they drew."""

from __future__ import annotations

import numpy as np
import pytest

from inferplan.profilers.sizes import Calls, Cells, Floats, doubt, evened, exponent, middle_mean


def drawn(rng: np.random.Generator, count: int, level_s: float, power: float, noise: float = 0.02) -> Calls:
    elements = rng.integers(100, 1000, count)
    return Calls.of(level_s * elements**power * np.exp(rng.normal(0, noise, count)), elements)


@pytest.mark.parametrize("power", [0.5, 1.0, 1.4])
def test_the_exponent_is_found_from_a_handful_of_calls_in_each_of_a_few_cells(power: float) -> None:
    rng = np.random.default_rng(1)
    cells = [drawn(rng, 8, level_s, power) for level_s in (1e-5, 3e-5, 2e-4)]
    assert exponent(cells) == pytest.approx(power, abs=0.05)


def test_no_exponent_without_proof() -> None:
    rng = np.random.default_rng(2)
    unrelated = Calls.of(rng.lognormal(0, 0.3, 12), rng.integers(100, 1000, 12))
    falling = Calls.of(1 / np.arange(1.0, 13), np.arange(1, 13))
    alike = Calls.of(rng.lognormal(0, 0.3, 12), [64] * 12)
    assert exponent([unrelated]) == exponent([falling]) == exponent([alike]) == exponent([]) == 0.0
    assert exponent([drawn(rng, 3, 1e-5, 1.0)] * 2) == 0.0, "four calls beyond one per cell are too few"


def test_a_few_calls_evened_out_tell_the_mean_as_many_would() -> None:
    """Of sizes that differ tenfold eight calls miss the mean by 17 % (rms), evened out by the noise of the rest."""
    rng = np.random.default_rng(3)
    population = rng.integers(100, 1000, 20_000).astype(np.float64)
    truth_s = float(1e-5 * population.mean())
    plain, even = [], []
    for _ in range(300):
        calls = drawn(rng, 8, 1e-5, 1.0)
        plain.append(calls.times_s.mean() / truth_s - 1)
        even.append(evened(calls, 1.0, population).mean() / truth_s - 1)
    assert np.std(plain) > 0.12
    assert np.std(even) < 0.01
    assert abs(float(np.mean(even))) < 0.002


def test_sizes_of_batches_that_were_not_run_count_for_all_cells_of_their_batch_size() -> None:
    rng = np.random.default_rng(4)
    sizes = rng.integers(100, 1000, 5000)
    measured = {(1, 1): drawn(rng, 60, 1e-5, 1.0), (1, 2): drawn(rng, 60, 6e-6, 1.0)}
    glanced = {(1, 1): drawn(rng, 8, 1e-5, 1.0), (1, 2): drawn(rng, 8, 6e-6, 1.0)}
    means, glances, _ = Cells(measured, glanced, [(1, sizes.tolist())], lambda cell: cell[0]).means_s()
    for cell, level_s in (((1, 1), 1e-5), ((1, 2), 6e-6)):
        assert means[cell] == pytest.approx(level_s * sizes.mean(), rel=0.01)
        assert glances[cell] == pytest.approx(level_s * sizes.mean(), rel=0.03)


def test_where_sizes_do_not_differ_nothing_changes() -> None:
    measured, glanced = {1: Calls.of([1.0, 2.0], [7, 7])}, {1: Calls.of([1.0], [0]), 2: Calls.of([4.0], ())}
    assert Cells(measured, glanced, [(1, [7])], lambda cell: cell).means_s() == ({1: 1.5}, {1: 1.0, 2: 4.0}, {1: 0.0})


def test_one_slow_call_does_not_move_it() -> None:
    assert middle_mean(np.array([1.0] * 7 + [50.0])) == 1.0
    assert middle_mean(np.array([3.0])) == 3.0
    assert middle_mean(np.array([1.0, 2.0, 3.0, 4.0])) == 2.5


def test_the_first_call_is_left_out_of_two_or_three() -> None:
    def elements(calls: Calls) -> Floats:
        return calls.counted().elements

    assert elements(Calls.of([9.0, 1.0], [1, 2])).tolist() == [2]
    assert elements(Calls.of([9.0, 1.0, 1.0], [1, 2, 3])).tolist() == [2, 3]
    assert elements(Calls.of([9.0, 1.0, 1.0, 1.0], [1, 2, 3, 4])).tolist() == [1, 2, 3, 4], "the middle half is taken"
    assert elements(Calls.of([9.0], [1])).tolist() == [1]


def test_processes_that_differ_put_a_mean_in_doubt_unless_their_inputs_did() -> None:
    one, other = [1.0, 1.0, 1.0], [1.2, 1.2, 1.2]
    calls = Calls.of([*one, *other], [5] * 6, [0, 0, 0, 1, 1, 1])
    assert doubt(calls.times_s, calls.process) == pytest.approx(0.1 / 1.1)
    assert doubt(calls.times_s, np.zeros(6, np.int64)) == 0.0
    sizes = np.array([100.0, 140, 120, 400, 480, 440, 210, 230, 220, 300, 310, 330])
    mine = Calls.of(1e-3 * sizes, sizes, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3)
    measured, _, doubts = Cells({1: mine}, {}, [], lambda cell: cell).means_s()
    assert measured[1] == pytest.approx(1e-3 * sizes.mean())
    assert doubts[1] == pytest.approx(0.0, abs=1e-9)
    assert doubt(mine.times_s, mine.process) > 0.2
