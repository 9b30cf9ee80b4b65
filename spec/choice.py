"""What may be chosen for a stage. Apart from the workload's models, so that measuring processes need not load them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def subset_name(modalities: Iterable[str]) -> str:
    """A modality subset as profiles and plans write it: names sorted and joined by '+'."""
    return "+".join(sorted(modalities))


@dataclass(frozen=True, slots=True, order=True)
class Choice:
    """What may be chosen for a stage: a variant with one of its modality subsets, or with none to choose from."""

    variant: str
    modalities: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`variant`, or `variant@a+b`: how combinations, plans and tables name it."""
        return f"{self.variant}@{self.subset}" if self.modalities else self.variant

    @property
    def subset(self) -> str:
        """The modality subset as profiles write it; empty where there is none."""
        return subset_name(self.modalities)

    @classmethod
    def parse(cls, name: str) -> Choice:
        """The inverse of `name`."""
        variant, _, subset = name.partition("@")
        return cls(variant, tuple(sorted(subset.split("+"))) if subset else ())
