"""The price catalogue: what machines can be bought, with their sizes and prices, each with its date and source.

A device of a workload that names an `instance` takes from its entry whatever it does not give itself. That happens
before the workload is validated, so everything behind sees a device with its price and sizes, and the hash of the
workload covers the catalogue.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from inferplan.spec.document import Document, Position, closest, read_document, validated
from inferplan.spec.errors import DocumentError, Problem
from inferplan.spec.types import (
    Count,
    InstanceType,
    Name,
    NonNegative,
    PositiveInt,
    PositiveNumber,
    Record,
    Seconds,
)

Path_ = tuple[str | int, ...]


class SpotPrice(Record):
    """The price of a machine that may be taken away."""

    price_per_h: NonNegative
    interruptions_per_h: NonNegative | None = Field(
        None, description="Expected interruptions per hour of running; a device that is bought so must know them."
    )


class Instance(Record):
    """A type of machine that can be bought. Prices are per hour, in the catalogue's currency."""

    provider: Name
    region: str = Field(min_length=1, max_length=64)
    cores: PositiveInt = Field(description="CPU cores as they are sold (vCPUs) of one machine.")
    memory_bytes: PositiveInt | None = None
    gpus: Count = 0
    gpu_name: str | None = None
    gpu_memory_bytes: PositiveInt | None = Field(None, description="Of one GPU.")
    on_demand_per_h: NonNegative | None = None
    reserved_per_h: dict[Name, NonNegative] = Field(default={}, description="By term, e.g. 1y.")
    spot: SpotPrice | None = None
    start_s: Seconds | None = Field(None, description="From asking for a machine until programs start on it.")
    power_w: NonNegative | None = Field(None, description="Power of one machine whose every core is at work.")
    idle_power_w: NonNegative | None = None
    carbon_g_per_kwh: NonNegative | None = Field(None, description="Of the region's electricity.")
    source: str = Field(min_length=1, description="Where the figures come from.")
    date: str | None = Field(None, description="Of these figures, where it is not the catalogue's.")

    @field_validator("date")
    @classmethod
    def _a_date(cls, value: str | None) -> str | None:
        return value if value is None else _date(value)

    @model_validator(mode="after")
    def _some_price(self) -> Instance:
        if self.on_demand_per_h is None and not self.reserved_per_h and self.spot is None:
            raise ValueError("give at least one of 'on_demand_per_h', 'reserved_per_h', 'spot'")
        if self.gpus == 0 and self.gpu_memory_bytes is not None:
            raise ValueError("a machine without GPUs has no GPU memory")
        return self


class Catalogue(Record):
    """Prices as of a date."""

    api_version: Literal["inferplan/v1"] = Field(alias="apiVersion")
    kind: Literal["Catalogue"]
    name: Name
    description: str = ""
    date: str = Field(description="YYYY-MM-DD: as of when the prices are known.")
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    usd_per_unit: PositiveNumber | None = Field(None, description="US dollars per unit of the currency.")
    valid_days: PositiveInt = Field(90, description="Older than this, a note says so.")
    instances: dict[InstanceType, Instance] = Field(min_length=1)

    @field_validator("date")
    @classmethod
    def _a_date(cls, value: str) -> str:
        return _date(value)

    @model_validator(mode="after")
    def _known_in_dollars(self) -> Catalogue:
        if self.currency != "USD" and self.usd_per_unit is None:
            raise ValueError(f"prices in {self.currency} need usd_per_unit (US dollars per {self.currency})")
        return self

    def dated(self, instance: str) -> str:
        """As of when an entry's figures are known."""
        return self.instances[instance].date or self.date


def _date(value: str) -> str:
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise ValueError(f"expected a date as YYYY-MM-DD, got {value!r}") from None
    return value


def read_catalogue(path: Path) -> Catalogue:
    """Read a catalogue. Raises DocumentError with every problem, InputError where the file cannot be read."""
    return validated(Catalogue, read_document(path), str(path))


def stale_notes(catalogues: tuple[Catalogue, ...], used: tuple[str, ...], today: datetime.date) -> list[str]:
    """A line for every entry in use (`catalogue/type`) whose figures are older than its catalogue says they last."""
    lines = []
    for catalogue in catalogues:
        for name in sorted(catalogue.instances):
            age = (today - datetime.date.fromisoformat(catalogue.dated(name))).days
            if f"{catalogue.name}/{name}" in used and age > catalogue.valid_days:
                lines.append(
                    f"prices of {catalogue.name}/{name} are of {catalogue.dated(name)}, {age} days old: check them"
                )
    return lines


def fill_from_catalogues(document: Document, folder: Path) -> tuple[Catalogue, ...]:
    """Read the catalogues that a workload's document names and give its devices what they take from them.

    Changes `document`. Returns the catalogues. Raises DocumentError where one is wrong or has no such entry.
    """
    listed = document.data.get("catalogues", [])
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        return ()  # Validation says what is wrong.
    catalogues: dict[str, tuple[Catalogue, Document]] = {}
    problems: list[Problem] = []
    for index, name in enumerate(listed):
        path = folder / name
        if not path.is_file():
            problems.append(document.problem(("catalogues", index), f"there is no file {path}"))
            continue
        read = read_document(path)
        catalogue = validated(Catalogue, read, str(path))
        if catalogue.name in catalogues:
            problems.append(document.problem(("catalogues", index), f"a second catalogue named {catalogue.name}"))
        catalogues[catalogue.name] = (catalogue, read)
        document.sources.update(read.sources)
    for at, tier, device in _devices(document.data):
        problems += _fill(document, at, tier, device, catalogues)
    if problems:
        raise DocumentError(f"the workload is wrong ({len(problems)} problem{'s' * (len(problems) != 1)})", problems)
    return tuple(catalogue for catalogue, _ in catalogues.values())


def _devices(data: Any) -> Iterator[tuple[Path_, dict[str, Any], dict[str, Any]]]:
    """Devices that name an instance, with their place and their tier; what is malformed is left to validation."""
    tiers = data.get("tiers")
    for name, tier in tiers.items() if isinstance(tiers, dict) else ():
        devices = tier.get("devices") if isinstance(tier, dict) else None
        for key, device in devices.items() if isinstance(devices, dict) else ():
            if isinstance(device, dict) and "/" in str(device.get("instance", "")):
                yield ("tiers", name, "devices", key), tier, device


def _fill(
    document: Document,
    at: Path_,
    tier: dict[str, Any],
    device: dict[str, Any],
    catalogues: dict[str, tuple[Catalogue, Document]],
) -> list[Problem]:
    where = (*at, "instance")
    name, _, kind = device["instance"].partition("/")
    if name not in catalogues:
        known = ", ".join(catalogues) or "none: list their files under 'catalogues'"
        return [document.problem(where, f"there is no catalogue {name!r}; there are: {known}")]
    catalogue, read = catalogues[name]
    if kind not in catalogue.instances:
        near = closest(kind, catalogue.instances)
        return [
            document.problem(where, f"catalogue {name} has no {kind!r}" + (f"; did you mean {near!r}?" if near else ""))
        ]
    entry = catalogue.instances[kind]
    values: dict[str, Any] = {
        "kind": "gpu" if entry.gpus else "cpu",
        "cores": entry.cores,
        "memory_bytes": entry.memory_bytes,
        "gpus": entry.gpus if entry.gpus > 1 and device.get("kind", "gpu") == "gpu" else None,
        "gpu_memory_bytes": entry.gpu_memory_bytes,
        "start_s": entry.start_s,
        "power_w": entry.power_w,
        "idle_power_w": entry.idle_power_w if "power_w" not in device else None,
        "carbon_g_per_kwh": entry.carbon_g_per_kwh if "carbon_g_per_kwh" not in tier else None,
    }
    problems: list[Problem] = []
    if "price_usd_per_h" not in device:
        price, why = _price(entry, device.get("purchase", "on_demand"), device.get("term"))
        values["price_usd_per_h"] = None if price is None else price * (catalogue.usd_per_unit or 1.0)
        if why:
            problems.append(document.problem((*at, "purchase") if "purchase" in device else where, f"{kind} {why}"))
    if device.get("purchase") == "spot":
        values["interruptions_per_h"] = entry.spot.interruptions_per_h if entry.spot else None
    for field, value in values.items():
        if value is not None and field not in device:
            device[field] = value
            place = read.position(("instances", kind))
            document.positions[(*at, field)] = Position(place.file, place.line, place.column)
    return problems


def _price(entry: Instance, purchase: object, term: object) -> tuple[float | None, str]:
    """The price of one way to buy, or why there is none; a way that does not exist is left to validation."""
    if purchase == "spot":
        return (entry.spot.price_per_h, "") if entry.spot else (None, "has no spot price in the catalogue")
    if purchase == "reserved":
        terms = entry.reserved_per_h
        if term is None and len(terms) == 1:
            return next(iter(terms.values())), ""
        if isinstance(term, str) and term in terms:
            return terms[term], ""
        if not terms:
            return None, "has no reserved price in the catalogue"
        return None, f"is reserved for {', '.join(sorted(terms))}: name one of them as 'term'"
    if purchase == "on_demand" and entry.on_demand_per_h is None:
        return None, "has no on-demand price in the catalogue"
    return entry.on_demand_per_h, ""
