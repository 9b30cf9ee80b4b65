"""Where things run: tiers, their device types, the links between them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from inferplan.spec.types import (
    Count,
    InstanceReference,
    Name,
    NonNegative,
    PositiveInt,
    PositiveNumber,
    Record,
    Seconds,
)


class Likeness(Record):
    """A device type that was not measured itself: as another one, slower by a factor."""

    device: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9][A-Za-z0-9_-]*$", description="tier/device")
    slowdown: PositiveNumber = 1.0


class Device(Record):
    """A type of machine of a tier."""

    kind: Literal["cpu", "gpu"] = "cpu"
    instance: InstanceReference | None = Field(
        None, description="catalogue/type: prices and sizes that are not given here come from that catalogue's entry."
    )
    purchase: Literal["on_demand", "reserved", "spot"] = Field(
        "on_demand", description="Which of the catalogue's prices; spot machines may be taken away."
    )
    term: Name | None = Field(None, description="reserved: which term, where the catalogue has several.")
    price_usd_per_h: NonNegative
    billing: Literal["whole", "share"] = Field(
        "whole", description="Whether machines are paid whole, or the share of their capacity that is used."
    )
    interruptions_per_h: NonNegative = Field(
        0.0, description="How often a machine is taken away: expected interruptions per hour of running."
    )
    start_s: Seconds = Field(0.0, description="From asking for a machine until programs start on it.")
    count: Count | None = Field(None, description="How many there are; absent means as many as wanted.")
    cores: PositiveInt = Field(description="CPU cores of one machine.")
    reserved_cores: Count = Field(0, description="Cores kept for the server itself, the system, the router.")
    memory_bytes: PositiveInt | None = None
    gpus: PositiveInt | None = Field(None, description="GPUs of one machine of kind gpu; absent: one.")
    gpu_memory_bytes: PositiveInt | None = Field(None, description="Memory of one GPU.")
    power_w: NonNegative | None = Field(None, description="Power of one machine whose every core is at work.")
    idle_power_w: NonNegative | None = Field(
        None, description="Power of one machine that does nothing; absent: power_w, whatever it does."
    )
    carbon_g_per_kwh: NonNegative | None = Field(None, description="Instead of the tier's.")
    exclusive: bool = Field(False, description="Whether a machine serves one stage only.")
    like: Likeness | None = None

    @model_validator(mode="after")
    def _some_cores_left(self) -> Device:
        if self.reserved_cores >= self.cores:
            raise ValueError(f"reserved_cores ({self.reserved_cores}) leaves none of the {self.cores} cores")
        return self

    @model_validator(mode="after")
    def _gpus_of_gpu_machines(self) -> Device:
        if self.gpus is not None and self.kind != "gpu":
            raise ValueError(f"gpus is {self.gpus}, but kind is {self.kind}: only machines of kind gpu have GPUs")
        return self

    @model_validator(mode="after")
    def _power_in_order(self) -> Device:
        if self.power_w is not None and self.idle_power_w is not None and self.idle_power_w > self.power_w:
            raise ValueError(f"idle_power_w ({self.idle_power_w:g}) is more than power_w ({self.power_w:g})")
        return self

    @property
    def gpu_count(self) -> int:
        """GPUs of one machine."""
        return (self.gpus or 1) if self.kind == "gpu" else 0


class Tier(Record):
    """A place with machines."""

    devices: dict[Name, Device] = Field(min_length=1)
    carbon_g_per_kwh: NonNegative | None = Field(
        None, description="Grams of CO2 equivalent per kWh of electricity there."
    )
    energy_price_usd_per_kwh: NonNegative = Field(
        0.0, description="Price of electricity that is not part of the machines' prices."
    )


class Link(Record):
    """A network link from one tier to another, one direction."""

    source: Name = Field(alias="from")
    target: Name = Field(alias="to")
    rtt_s: Seconds = 0.0
    bandwidth_bytes_per_s: PositiveNumber | None = None
    price_usd_per_gb: NonNegative = Field(0.0, description="Per 2^30 bytes.")
