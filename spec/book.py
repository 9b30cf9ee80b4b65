"""The plan book: plans for load that moves, when to go from one to another, and what that takes.

A folder: `book.yaml`, and beside it one plan per file, each a plan like any other. Written like plans: same inputs,
same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from inferplan.spec.document import read_document, validated
from inferplan.spec.errors import InputError
from inferplan.spec.evidence import file_sha256
from inferplan.spec.plan import LoadedPlan, Plan, WorkloadSource, load_plan, write_plan
from inferplan.spec.types import Count, Name, NonNegative, PositiveInt, PositiveNumber, Record, Seconds, Sha256

BOOK_FILE = "book.yaml"
Predictor = Literal["last", "max", "holt"]
PlanFile = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}\.yaml$")]
"""A file beside book.yaml."""


class BookLevel(Record):
    """A load level that was planned for."""

    rate_rps: PositiveNumber
    least_usd_per_h: NonNegative = Field(description="Cost of the cheapest certified plan for this level.")
    plan: PlanFile = Field(description="The book's plan that serves it when the load rises to it.")


class BookPlan(Record):
    """A plan of the book, and the loads between which it runs."""

    file: PlanFile
    sha256: Sha256 = Field(description="Of the file.")
    cost_usd_per_h: NonNegative
    planned_rps: PositiveNumber = Field(description="The load it was planned and certified for.")
    carries_rps: PositiveNumber = Field(description="The highest load that the simulation certified it at.")
    up_rps: PositiveNumber | None = Field(
        None, description="Above this load the next plan takes over; absent for the last."
    )
    down_rps: PositiveNumber | None = Field(
        None, description="At this load or below the plan before takes over; absent for the first."
    )


class BookSwitch(Record):
    """What it takes to go from one plan to a neighbour."""

    source: PlanFile = Field(alias="from")
    target: PlanFile = Field(alias="to")
    load_s: Seconds = Field(description="Until the last new replica has loaded.")
    machine_usd: NonNegative = Field(description="Machine time that loading takes.")
    held_usd: NonNegative = Field(description="Machines that are given back, paid until the switch is done.")
    requests_at_risk: NonNegative = Field(
        description="At the highest load of the plan gone to: beyond what stays can carry while the rest loads."
    )
    starts: Count
    stops: Count
    unmeasured: list[Name] = Field(default=[], description="Options whose load time is not known: taken as 0.")


class BookDesign(Record):
    """What plans and thresholds were chosen for."""

    loads: Literal["day", "trace"] = Field(
        description="day: one day from the lowest level to the highest and back; trace: a recorded one."
    )
    trace_sha256: Sha256 | None = None
    interval_s: PositiveNumber = Field(description="How often the plan may be changed.")
    predictor: Predictor = Field(description="Whose predictions the thresholds are compared with.")
    window_s: PositiveNumber | None = Field(None, description="Of the window maximum.")
    request_usd: NonNegative = Field(description="What a request at risk counts.")
    hysteresis: NonNegative | None = Field(None, description="As it was asked; absent where it was derived.")
    margin: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="Share of what a plan carries that is kept free: up_rps is that much below carries_rps."
    )
    most_plans: PositiveInt | None = Field(None, description="Limit of the number of plans, where one was asked.")
    expected_usd_per_h: NonNegative = Field(description="Plans and switches, requests at risk included.")
    expected_switches_per_h: NonNegative
    least_usd_per_h: NonNegative = Field(
        description="The same loads with the cheapest plan at all times, switched free."
    )


class PlanBook(Record):
    """Plans over load levels."""

    api_version: Literal["inferplan/v1"] = Field("inferplan/v1", alias="apiVersion")
    kind: Literal["PlanBook"] = "PlanBook"
    name: Name
    workload: WorkloadSource
    profile_sha256: Sha256 = Field(description="Of the profile's rows.")
    varies: list[Name] = Field(min_length=1, description="Classes whose rates move together; rates are their sum.")
    proven: bool = Field(description="Whether the plan of every level was proven optimal.")
    plans: list[BookPlan] = Field(min_length=1, description="From the lowest load to the highest.")
    switches: list[BookSwitch] = Field(default=[], description="Between neighbours, both ways.")
    design: BookDesign
    levels: list[BookLevel] = Field(min_length=1)
    story: list[str] = []

    @model_validator(mode="after")
    def _thresholds_rise(self) -> PlanBook:
        for i, plan in enumerate(self.plans):
            first, last = i == 0, i == len(self.plans) - 1
            if (plan.down_rps is None) != first or (plan.up_rps is None) != last:
                raise ValueError(f"plans.{i}: the first plan has no down_rps, the last no up_rps, all others have both")
        for i, (low, high) in enumerate(zip(self.plans, self.plans[1:], strict=False)):
            assert low.up_rps is not None
            assert high.down_rps is not None
            if high.down_rps > low.up_rps:
                raise ValueError(f"plans.{i + 1}: down_rps is above up_rps of the plan before")
            if high.up_rps is not None and high.up_rps <= low.up_rps:
                raise ValueError(f"plans.{i + 1}: up_rps does not rise")
            if low.down_rps is not None and high.down_rps < low.down_rps:
                raise ValueError(f"plans.{i + 1}: down_rps falls")
        known = {plan.file for plan in self.plans}
        named = {s.source for s in self.switches} | {s.target for s in self.switches} | {x.plan for x in self.levels}
        if named - known:
            raise ValueError(f"names plans that the book does not have: {', '.join(sorted(named - known))}")
        return self


@dataclass(frozen=True, slots=True)
class LoadedBook:
    """A book with its plans, each with its workload."""

    book: PlanBook
    path: Path
    plans: tuple[LoadedPlan, ...]


def read_book(path: Path | str) -> PlanBook:
    """Read book.yaml alone: the file, or its folder. Raises DocumentError with every problem."""
    path = _file_of(Path(path))
    return validated(PlanBook, read_document(path), str(path))


def load_book(path: Path | str) -> LoadedBook:
    """Read a book and its plans. Raises InputError where a plan is not the one the book was made with."""
    path = _file_of(Path(path))
    book = read_book(path)
    plans = []
    for entry in book.plans:
        file = path.parent / entry.file
        loaded = load_plan(file)
        if file_sha256(file) != entry.sha256:
            raise InputError(f"{file} has changed since {path} was written: make the book again")
        plans.append(loaded)
    return LoadedBook(book, path, tuple(plans))


def check_folder(folder: Path) -> None:
    """Raise InputError where a book may not be written: the folder is none, or holds something else."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: a book is a folder; name one")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / BOOK_FILE).exists():
        raise InputError(f"{folder} is not empty and holds no book: name another folder")


def write_book(book: PlanBook, plans: Mapping[str, Plan], folder: Path) -> None:
    """Write a book in place of the one there: plans first, then `book.yaml`, then what the old book no longer has."""
    check_folder(folder)
    old = set()
    if (folder / BOOK_FILE).exists():
        old = {entry.file for entry in read_book(folder).plans}
    for name, plan in plans.items():
        write_plan(plan, folder / name)
    write_plan(book, folder / BOOK_FILE)
    for name in old - set(plans):
        (folder / name).unlink(missing_ok=True)


def _file_of(path: Path) -> Path:
    return path / BOOK_FILE if path.is_dir() else path
