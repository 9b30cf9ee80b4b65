"""Warming up replicas: every batch size a few times, before anything is counted.

The first batches of a size take up to four times as long as later ones: runtimes plan and claim memory by shape, in the
first batch and the second. At low load a run would meet most sizes for the first time while it measures. Replicas warm
up by themselves where inputs of their model can be made up (`worker`); these are real requests, on all the way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from inferplan.runner.batcher import WARMING_ROUNDS, warming_sizes
from inferplan.runner.frames import Blob
from inferplan.runner.pool import Failure
from inferplan.runner.router import Answers, Done
from inferplan.spec.plan import Plan


class Submits(Protocol):
    """What takes requests: a router."""

    def submit_all(self, traffic: str, items: Sequence[Blob], dones: Sequence[Done]) -> None:
        """Start requests that arrive together."""


async def warm_up(router: Submits, plan: Plan, blobs: Sequence[Blob], most_s: float) -> None:
    """Serve every class in batches of every size, the largest first, as far as there is time. Failures are left to be
    seen when they count; what is under way when time is up goes on."""
    loop = asyncio.get_running_loop()
    end = loop.time() + most_s
    for size in warming_sizes(max((option.max_batch for option in plan.options.values()), default=1)):
        for name, traffic in plan.classes.items():
            options = [plan.options[choice.option] for choices in traffic.routes.values() for choice in choices]
            if size > max(option.max_batch for option in options):
                continue
            for _ in range(WARMING_ROUNDS):
                if loop.time() >= end:
                    return
                copies = max(option.replicas for option in options)
                await _served(router, name, [blobs[index % len(blobs)] for index in range(size)], copies, end)


async def _served(router: Submits, traffic: str, items: Sequence[Blob], copies: int, end: float) -> None:
    """So many batches at one instant, one for every replica; until they are answered or time is up."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    left = copies * len(items)

    def done(result: Answers | Failure) -> None:
        nonlocal left
        left -= 1
        if not left and not over.done():
            over.set_result(None)

    for _ in range(copies):
        router.submit_all(traffic, items, [done] * len(items))
    await asyncio.wait([over], timeout=max(end - loop.time(), 0.0))
