"""How a class's requests are routed: options with their shares, and ways through the whole pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from inferplan.spec.types import Name, PositiveInt, Record


class Estimate(Record):
    """A predicted number with its interval, where there is one."""

    value: float
    lower: float | None = None
    upper: float | None = None


class Choice(Record):
    """A share of a class's calls of a stage that goes to an option."""

    option: Name
    share: float = Field(gt=0, le=1)


class Mixture(Record):
    """A part of a class's requests: each of them goes this way through the whole pipeline."""

    share: float = Field(gt=0, le=1, description="Of the class's requests.")
    requests: PositiveInt | None = Field(None, description="Of a class of jobs: requests of every job.")
    routes: dict[Name, Name] = Field(description="Per stage, the option.")
    accuracy: Estimate | None = Field(None, description="Of these requests, in the workload's metric.")


def mixture_findings(
    mixtures: Sequence[Mixture], job_requests: int | None, routes: Mapping[str, Sequence[Choice]]
) -> Iterator[str]:
    """What is wrong with the ways of a class, given its routes, and the requests of its jobs where it has them."""
    for index, mixture in enumerate(mixtures):
        if set(mixture.routes) != set(routes):
            yield f"way {index} has no option for some stage"
            return
        for stage, option in mixture.routes.items():
            if option not in {choice.option for choice in routes[stage]}:
                yield f"way {index}: the class has no route through {option!r} at stage {stage}"
        if (mixture.requests is None) != (job_requests is None):
            yield "'requests' belongs to classes of jobs"
    if mixtures and not math.isclose(sum(mixture.share for mixture in mixtures), 1.0, abs_tol=1e-6):
        yield "shares must add up to 1"
    if mixtures and job_requests is not None and sum(mixture.requests or 0 for mixture in mixtures) != job_requests:
        yield f"their requests must add up to {job_requests}"
