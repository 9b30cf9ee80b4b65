"""What a plan costs and draws, and what it sends between tiers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from inferplan.spec.types import Name, NonNegative, PositiveNumber, Record


class Costs(Record):
    """What the cost is made of, where it is not machines alone."""

    machines_usd_per_h: NonNegative
    restarts_usd_per_h: NonNegative = Field(0.0, description="Paid while interrupted machines start and load again.")
    energy_usd_per_h: NonNegative = Field(0.0, description="Electricity that is not part of the machines' prices.")
    network_usd_per_h: NonNegative = Field(0.0, description="Traffic over links.")


class TierEnergy(Record):
    """Power and emissions of one tier."""

    power_w: NonNegative
    carbon_g_per_h: NonNegative | None = Field(None, description="CO2 equivalent; absent where it is not known.")


class Energy(Record):
    """What the plan draws, where the power of its machines is known."""

    power_w: NonNegative = Field(description="All machines, at the planned load.")
    energy_kwh_per_h: NonNegative
    energy_j_per_request: NonNegative = Field(description="Of all classes together.")
    carbon_g_per_h: NonNegative | None = Field(None, description="CO2 equivalent; absent where some is not known.")
    tiers: dict[Name, TierEnergy]


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


class Term(Record):
    """A part of a weighted objective: weight x value / unit. Accuracy counts negatively."""

    weight: PositiveNumber
    value: float = Field(description="USD/h, watts, or the mean accuracy weighted by rates.")
    unit: PositiveNumber = Field(description="The best that this goal reaches by itself.")
