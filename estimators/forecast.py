"""How much traffic comes next, told from what came: one step ahead, from loads per interval.

- *last*: as much as in the last interval.
- *max*: the most of the last `window` intervals.
- *holt*: exponential smoothing with a damped trend (Holt-Winters without a season), in state-space form, by
  statsmodels: its parameters are fitted once, by maximum likelihood, on loads seen before, and every prediction is
  from the loads before it alone. statsmodels because it fits, filters and is tested by many; it is an extra, `book`.

Nothing is known before the first interval: its own load stands for the prediction, with every predictor.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from inferplan.spec.book import Predictor
from inferplan.spec.document import closest
from inferplan.spec.errors import InputError, MissingExtraError

Floats = NDArray[np.float64]
PREDICTORS: tuple[Predictor, ...] = get_args(Predictor)
FEWEST = 10
"""Loads that a smoothing with trend is fitted on at least."""


def predictor(name: str) -> Predictor:
    """The predictor of a name. Raises InputError where there is none, MissingExtraError where it is not installed."""
    for known in PREDICTORS:
        if known == name:
            if known == "holt" and find_spec("statsmodels") is None:
                raise MissingExtraError("book", "the predictor holt")
            return known
    near = closest(name, PREDICTORS)
    hint = f"; did you mean {near}?" if near else ""
    raise InputError(f"--predictors: no predictor {name!r}{hint} There are: {', '.join(PREDICTORS)}")


def predictions(name: Predictor, loads: Floats, *, window: int, before: Floats) -> Floats:
    """[n] predictions of `loads` [n], each from those before it. `before` are loads seen earlier, to fit on."""
    if len(loads) == 0:
        return loads
    if name == "holt":
        return np.concatenate([loads[:1], _holt(loads, before)[1:]])
    reach = window if name == "max" else 1
    padded = np.concatenate([np.full(reach - 1, -np.inf), loads[:-1]])
    most = np.lib.stride_tricks.sliding_window_view(padded, reach).max(axis=1) if len(loads) > 1 else loads[:0]
    return np.concatenate([loads[:1], most])


def _holt(loads: Floats, before: Floats) -> Floats:
    """[n] one step ahead; where hardly anything was seen before, fitted on the loads themselves."""
    seen = before if len(before) >= FEWEST else loads
    if len(seen) < FEWEST or np.ptp(seen) == 0:
        return np.concatenate([loads[:1], loads[:-1]])
    with warnings.catch_warnings():
        # A fit that stops early still predicts; what it is worth, the replay shows.
        warnings.simplefilter("ignore")
        fitted = _smoothing(seen).fit(disp=0)
        ahead = _smoothing(loads).smooth(fitted.params).predict()
    return np.maximum(np.asarray(ahead, dtype=np.float64), 0.0)


def _smoothing(loads: Floats) -> Any:
    """The model of loads, which begins at the first of them: other ways to begin look ahead."""
    from statsmodels.tsa.statespace.exponential_smoothing import ExponentialSmoothing

    return ExponentialSmoothing(
        loads,
        trend=True,
        damped_trend=True,
        initialization_method="known",
        initial_level=float(loads[0]),
        initial_trend=0.0,
    )
