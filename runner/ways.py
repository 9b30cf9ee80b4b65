"""Which way a request goes, where the requests of a class go different ways: drawn once, and kept at every stage."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import accumulate, chain

from inferplan.spec.plan import ClassPlan, Mixture

Way = Mapping[str, str]
"""Per stage, the option."""


class Ways:
    """Draws ways by their shares. Of a class of jobs, whose requests come one job after the other, the first so many
    requests of every job go the first way, and so on."""

    def __init__(self, classes: Mapping[str, ClassPlan], seed: int) -> None:
        self._random = random.Random(seed)
        self._mixtures = {name: traffic.mixtures for name, traffic in classes.items() if traffic.mixtures}
        self._upto = {name: list(accumulate(m.share for m in found)) for name, found in self._mixtures.items()}
        self._jobs = {
            name: list(chain.from_iterable([mixture.routes] * (mixture.requests or 0) for mixture in found))
            for name, found in self._mixtures.items()
            if _of_jobs(found)
        }
        self._next = dict.fromkeys(self._jobs, 0)

    def begin(self, traffic: str) -> Way | None:
        """The way of the next request of a class; None where its requests all go one way."""
        if traffic in self._jobs:
            job, place = self._jobs[traffic], self._next[traffic]
            self._next[traffic] = (place + 1) % len(job)
            return job[place]
        if traffic not in self._mixtures:
            return None
        chosen: Mixture = self._random.choices(self._mixtures[traffic], cum_weights=self._upto[traffic])[0]
        return chosen.routes


def _of_jobs(mixtures: list[Mixture]) -> bool:
    return all(mixture.requests is not None for mixture in mixtures)
