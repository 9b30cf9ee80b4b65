"""Model-less requests: what a class's requests ask for where they name no variant, only accuracy and latency."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from inferplan.spec.types import PositiveNumber, PositiveSeconds, Record


class Asked(Record):
    """What a share of the requests ask for. What is not given may be anything."""

    accuracy: float | None = Field(None, description="At least this (at most, where lower is better).")
    latency_s: PositiveSeconds | None = Field(None, description="At most this, at the percentile of the asks.")
    weight: PositiveNumber = Field(1.0, description="Share of the class's requests, relative to the others'.")

    @model_validator(mode="after")
    def _something(self) -> Asked:
        if self.accuracy is None and self.latency_s is None:
            raise ValueError("give 'accuracy', 'latency_s' or both: this asks for nothing")
        return self


class Asks(Record):
    """The expected mix of requests that name accuracy and latency alone."""

    percentile: Annotated[float, Field(gt=0, lt=100)] = Field(
        99.0, description="What is asked of latency is asked at this percentile."
    )
    mix: list[Asked] = Field(min_length=1, description="What requests ask for, each with its weight.")
