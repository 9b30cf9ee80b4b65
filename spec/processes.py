"""The arrival process of a traffic class, as a workload declares it; `inferplan.spec.arrivals` draws from it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from inferplan.spec.types import PositiveNumber, PositiveSeconds, Record


class Arrivals(Record):
    """The arrival process of a traffic class, at the class's mean rate."""

    process: Literal["poisson", "deterministic", "gamma", "mmpp", "diurnal"] = "poisson"
    cv: PositiveNumber | None = Field(None, description="gamma: coefficient of variation of the gaps.")
    burst_factor: PositiveNumber | None = Field(None, description="mmpp: rate in a burst over the mean rate.")
    burst_s: PositiveSeconds | None = Field(None, description="mmpp: mean length of a burst.")
    burst_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="mmpp: share of time in bursts; by default so much that half of all requests arrive in bursts.",
    )
    period_s: PositiveSeconds | None = Field(None, description="diurnal: length of a day.")
    peak_factor: PositiveNumber | None = Field(None, description="diurnal: peak rate over the mean rate.")

    @model_validator(mode="after")
    def _parameters_fit(self) -> Arrivals:
        wanted = {
            "gamma": {"cv"},
            "mmpp": {"burst_factor", "burst_s"},
            "diurnal": {"period_s", "peak_factor"},
        }
        needed = wanted.get(self.process, set())
        given = {name for name in type(self).model_fields if name != "process" and getattr(self, name) is not None}
        allowed = needed | ({"burst_share"} if self.process == "mmpp" else set())
        if needed - given:
            raise ValueError(f"process {self.process} needs {', '.join(sorted(needed - given))}")
        if given - allowed:
            raise ValueError(f"process {self.process} has no {', '.join(sorted(given - allowed))}")
        return self

    @model_validator(mode="after")
    def _rates_are_possible(self) -> Arrivals:
        for name in ("burst_factor", "peak_factor"):
            factor = getattr(self, name)
            if factor is not None and factor <= 1:
                raise ValueError(f"{name} is a multiple of the mean rate above 1, got {factor:g}")
        if self.burst_factor is not None and (self.burst_share or 0.0) * self.burst_factor > 1:
            raise ValueError(
                f"bursts of {self.burst_factor:g} times the mean rate cannot take a share of {self.burst_share:g} of"
                f" the time: at most 1 / burst_factor = {1 / self.burst_factor:.4g}"
            )
        return self
