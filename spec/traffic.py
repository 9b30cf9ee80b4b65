"""What a plan says of traffic between tiers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inferplan.spec.types import Name, NonNegative, PositiveNumber, Record


class LinkLoad(Record):
    """All that crosses a link."""

    bytes_per_s: NonNegative
    bandwidth_bytes_per_s: PositiveNumber | None = None
    cost_usd_per_h: NonNegative


class Flow(Record):
    """Calls of a class from one tier to the same or another."""

    source: Name | None = Field(None, alias="from", description="Stage the calls come from; absent: requests entering.")
    target: Name | None = Field(None, alias="to", description="Stage the calls go to; absent: answers going back.")
    from_tier: Name
    to_tier: Name
    rate_rps: NonNegative = Field(description="Calls per second.")
    bytes_per_s: NonNegative
    cost_usd_per_h: NonNegative = 0.0


class Traffic(Record):
    """What goes over the network, and what it costs. Flows within a tier are free."""

    routing: Literal["proportional", "tier_aware"]
    cost_usd_per_h: NonNegative
    links: dict[Name, LinkLoad] = Field(default={}, description="Links in use.")
    flows: dict[Name, list[Flow]] = Field(description="By class.")
