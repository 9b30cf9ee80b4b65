"""Models that HiGHS solves, through python-mip."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from inferplan.spec.errors import InputError, UndecidedError

SUB_PROGRAMS = (
    "mip_heuristic_run_feasibility_jump",
    "mip_heuristic_run_rins",
    "mip_heuristic_run_rens",
    "mip_heuristic_run_root_reduced_cost",
)
"""Switches of HiGHS for heuristics that look for plans before branching, mostly by solving further programs."""


def new_model() -> Any:
    """An empty model to minimise.

    A model is freed by whatever happens to collect garbage. If that is cffi, inside a call that looks a function up for
    the first time, and freeing looks one up too, both wait for one lock for ever: so it is looked up here.
    """
    import mip

    model = mip.Model(solver_name="HIGHS")
    model.verbose = 0
    _ = model.solver._lib.Highs_destroy
    return model


@contextmanager
def accepting() -> Iterator[None]:
    """Within, rows that HiGHS does not take (it refuses numbers beyond 1e15) are an InputError."""
    import mip

    try:
        yield
    except mip.InterfacingError as error:
        raise InputError(
            "HiGHS refuses the exact program: some prices, powers, rates, times or accuracies of the workload and its"
            " profile are too many orders of magnitude away from the others; look for one that is wrong"
        ) from error


def branch_alone(model: Any) -> None:
    """Have a model solved without those heuristics, which in small ones take longer than they save."""
    import mip

    for switch in SUB_PROGRAMS:
        # An older HiGHS does not know all of them, and solves as well.
        with suppress(mip.InterfacingError):
            model.solver._set_bool_option_value(switch, 0)


def optimize(model: Any, max_seconds: float = math.inf) -> Any:
    """Solve a model; python-mip's status.

    HiGHS checks its answers, and sometimes finds that what presolve made of a model has an answer that the model itself
    has not ("claims optimality, but with ... infeasibilities"): it is then solved as it stands.

    Raises UndecidedError where that fails too.
    """
    import mip

    try:
        return model.optimize(max_seconds=max_seconds)
    except mip.InterfacingError:
        model.solver._set_string_option_value("presolve", "off")
    try:
        return model.optimize(max_seconds=max_seconds)
    except mip.InterfacingError as error:
        raise UndecidedError(
            "HiGHS refuses its own answer to the exact program, with and without presolve",
            ["change a number a little (--set), and tell the authors of inferplan, with workload and profile"],
        ) from error
    finally:
        model.solver._set_string_option_value("presolve", "choose")
