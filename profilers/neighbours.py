"""Which choices are measured beside which others, where the device has room for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from inferplan.profilers.interference import Blocks, Neighbourhood
from inferplan.profilers.jobs import InterferenceJob, LeftOut, PointJob
from inferplan.spec.workload import ProfileSettings

_LAST_LEVEL = 10**6
"""After every point, however many thread counts there are."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many threads may be at work side by side: the device's cores less the reserved ones, as far as this
    machine has them to use."""

    device: str
    cores: int
    reserved_cores: int
    usable: int

    @property
    def threads(self) -> int:
        """Threads side by side."""
        return min(self.cores - self.reserved_cores, self.usable)

    def __str__(self) -> str:
        return (
            f"{self.device} has {self.cores} cores of which {self.reserved_cores} are reserved, and there are"
            f" {self.usable} to use here"
        )


def interference_jobs(
    points: Sequence[PointJob], settings: ProfileSettings, room: Room
) -> tuple[list[InterferenceJob], list[LeftOut]]:
    """What to measure side by side of `points`, and what there is no room for.

    `same`: every choice beside one to instances - 1 copies of itself; `pairs`: beside every other choice as
    well. Of every choice the smallest batch with the fewest threads stands for the others; where the tolerance
    is 0, every point is measured beside its own copies. Skip variants are no neighbours: they take no time.
    """
    if settings.neighbours == "none" or settings.instances < 2:
        return [], []
    points = [point for point in points if point.task.key.runtime != "skip"]
    smallest = [
        min(of_choice, key=lambda point: (point.task.key.threads, point.task.key.batch))
        for of_choice in _by_choice(points)
    ]
    jobs: list[InterferenceJob] = []
    for rank, point in enumerate(points if settings.tolerance == 0 else smallest):
        threads = point.task.key.threads
        most = min(settings.instances, room.threads // threads)
        jobs += [_job(point, [point] * copies, (_LAST_LEVEL, 0, copies, rank), settings) for copies in range(1, most)]
    if settings.neighbours == "pairs":
        for rank, (subject, other) in enumerate(itertools.permutations(smallest, 2)):
            if subject.task.key.threads + other.task.key.threads <= room.threads:
                jobs.append(_job(subject, [other], (_LAST_LEVEL, 1, 1, rank), settings))
    return jobs, list(_left_out(smallest, settings, room))


def _by_choice(points: Sequence[PointJob]) -> list[list[PointJob]]:
    groups: dict[tuple[str, str], list[PointJob]] = {}
    for point in points:
        groups.setdefault((point.task.key.stage, point.task.spec.choice), []).append(point)
    return list(groups.values())


def _job(
    subject: PointJob, neighbours: Sequence[PointJob], level: tuple[int, ...], settings: ProfileSettings
) -> InterferenceJob:
    blocks = Blocks.of(subject.service_s, settings.max_time_s)
    starting_s = sum(point.overhead_s for point in (subject, *neighbours)) / settings.processes
    # A neighbour's batch under way must end before a block without it begins.
    ending_s = blocks.pairs * max(point.service_s for point in neighbours)
    where = Neighbourhood(subject.task, tuple(point.task for point in neighbours))
    return InterferenceJob(where, blocks, level, starting_s + blocks.estimate_s + ending_s)


def _left_out(smallest: Sequence[PointJob], settings: ProfileSettings, room: Room) -> Iterator[LeftOut]:
    """One line where not even two replicas have room, one where fewer than wanted do."""
    if not smallest:
        return
    threads = min(point.task.key.threads for point in smallest)
    fitting = room.threads // threads
    if fitting < settings.instances:
        what = "replicas side by side" if fitting < 2 else f"more than {fitting} replicas side by side"
        yield LeftOut(what, str(room))
