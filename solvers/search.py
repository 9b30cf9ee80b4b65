"""Certify and refine: the program proposes, the simulation disposes.

The program's latencies are analytic; a factor per class, the scale θ_k of its limit, says how far they are to be
believed. It starts at 1. Each round asks the program for the best plan under the scales:

- *certified* (the simulation says "met" for every class): it becomes the incumbent, and θ_k rises to where the
  simulated latency says that the limit would be reached (less a margin), but not to a plan known to miss;
- *not certified*: that plan is never proposed again, and θ_k of every class that was not met falls to where the
  simulation says that the limit is kept, but not below the incumbent;
- *nothing better than the incumbent under the scales*: the plan of least believed latency among all better
  ones, whatever the scales, gets a last chance. If the simulation rejects it too, what is near the incumbent and the
  rejected plans is looked at (`vicinity`), as the program may rank latencies wrongly. If nothing better is certified
  there, the search is closed.

*Interference.* The program does not know that replicas on one machine slow one another down; the simulation does.
A plan that misses for it is tried on more machines as well (`neighbours`), the fewest that are certified, as long as
it stays better than the incumbent. If none is, the miss counts as any other: a plan with more room is asked for.

It ends because every round accepts a strictly better plan, or bars one plan for good, and there are at most
`MAX_ROUNDS`. The incumbent is then an optimum of the program under the final scales without the plans that the
simulation rejected; that is what the proof states.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from inferplan.estimators.simulation import SimulationResult
from inferplan.solvers.columns import Column
from inferplan.solvers.judge import GLANCE, HOPELESS, Judge, believed, limits_s, measured
from inferplan.solvers.milp import Solution, Solver, instance
from inferplan.solvers.neighbours import arranged, spreads
from inferplan.solvers.parts import is_parted
from inferplan.solvers.problem import Problem
from inferplan.solvers.program import ACCURACY, BETTER, COST, RATIO, Ask
from inferplan.solvers.story import describe, slowest_text, verdict_text
from inferplan.solvers.tier_flows import broken_links
from inferplan.solvers.vicinity import SEEMS, Vicinity

MAX_ROUNDS = 14
MARGIN = 0.97
REPAIRED = 4
"""Rejected plans whose vicinity is looked at, at most, whenever the program has nothing better."""
WIDEST = 5.0
"""Beyond this factor the program's latencies are not doubted any further, but where traffic comes in bursts."""
SAME = 1e-6
LATENCY_GAP = 0.01
"""Relative. Estimates err by more: of plans that differ by less, none has to be proven the fastest."""


@dataclass
class Search:
    """State and outcome of the loop."""

    problem: Problem
    program: Solver
    judge: Judge
    ask: Ask
    gap: float
    deadline: float
    repairs: bool = True
    """Whether to look near rejected plans by simulation alone, where the program has nothing better."""
    quick: bool = False
    """Whether labels will do where they do not settle a question, and no plan is preferred for its ties."""
    any_will_do: bool = False
    """Whether to stop at the first certified plan: the question is whether there is one."""
    story: list[str] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
    incumbent: Solution | None = None
    fallback: tuple[Solution, SimulationResult] | None = None
    """Of the plans that were not certified, though their queues were stable, the one that came nearest: undecided
    rather than missed, then the least latency over its limit."""
    proof: Solution | None = None
    """The solution that bounds the incumbent's objective."""
    closed: bool = False
    rejected: list[tuple[Column, ...]] = field(default_factory=list)
    """Plans that were not certified; they are not proposed again."""
    unstable: list[tuple[Column, ...]] = field(default_factory=list)
    """Of those, the ones whose queues grow without bound: neighbours slow their replicas down too much."""
    _known_met: dict[str, float] = field(default_factory=dict)
    _known_missed: dict[str, float] = field(default_factory=dict)
    _near: list[tuple[float, Solution]] = field(default_factory=list)
    """Rejected plans with stable queues, each with its latency over its limit."""
    _vicinity: Vicinity | None = None
    _last: tuple[Ask, Solution] | None = None
    """The last question and its answer: what was learnt may ask it again."""
    _rounds: int = 0

    def run(self) -> None:
        """Look for the best certified plan."""
        self.scales = self.scales or dict.fromkeys(limits_s(self.problem), 1.0)
        while self._rounds < MAX_ROUNDS and (self._rounds == 0 or not self._late):
            if self.any_will_do and self.incumbent is not None:
                return
            proposal = self._propose(self.scales)
            if proposal is not None and (self.incumbent is None or self._better(proposal, self.incumbent)):
                self._try(proposal, "proposed")
                continue
            if self.incumbent is not None:
                self.proof = proposal
            if self.incumbent is not None and self._late:
                break
            cut = proposal is None and self.program.timed_out
            last = self._least_latency()
            cut |= last is None and self.program.timed_out and (self.incumbent is None or self._late)
            if last is not None and self._try(last, "least latency among better plans"):
                continue
            if not self._repair():
                # What there was no time for is not known to be in vain.
                self.closed = not (cut or (self._may_repair and self._late))
                break
        if self.incumbent is not None and not self.quick and not self._late:
            self._polish()

    def go_on(self, ask: Ask) -> None:
        """Look further, for another objective or with more that the program knows, with all that was learnt and the
        incumbent to begin with."""
        self.ask = ask
        self.closed, self.proof, self._last, self._rounds = False, None, None, 0
        self.run()

    def question(self, scales: Mapping[str, float]) -> Ask:
        """The workload's question under these scales, without rejected plans."""
        return replace(
            self.ask,
            scales={need.name: scales.get(need.name) for need in self.problem.classes},
            rejected=tuple(self.rejected),
        )

    @property
    def _late(self) -> bool:
        return time.monotonic() >= self.deadline

    @property
    def _may_repair(self) -> bool:
        # Near a plan whose classes are split there is more to vary than replicas and batches.
        return self.repairs and not is_parted(self.problem)

    def _left_s(self) -> float:
        return max(self.deadline - time.monotonic(), 0.05)

    def _propose(self, scales: Mapping[str, float], hurry: bool = True) -> Solution | None:
        """The best plan under the scales. In a `hurry` its ties may be left for the end (`_polish`)."""
        question = self.question(scales)
        last = self._last
        if last is not None and last[0] == question and last[1].proven and (hurry or last[1].tied):
            return last[1]
        found = self._ask(question, self.gap, hurry=hurry)
        self._last = None if found is None else (question, found)
        return found

    def _ask(self, question: Ask, gap: float, settle: bool = True, hurry: bool = False) -> Solution | None:
        known = () if self.incumbent is None else self.incumbent.columns
        left_s = self._left_s()
        found = self.program.ask(question, left_s, gap, known=known, settle=settle, hurry=hurry)
        return None if found is None else arranged(self.problem, found)

    def _least_latency(self) -> Solution | None:
        """The plan of least believed latency among those better than the incumbent."""
        if not self.scales:
            return None
        found = self._least_within(WIDEST)
        if found is not None or not any(need.uneven.uneven for need in self.problem.classes):
            return found
        # Estimates take every class for one that meets the queues of all: in bursts that one class alone has, too.
        found = self._least_within(HOPELESS)
        seems = found is not None and self._over(self.judge.judge(found, GLANCE)) <= SEEMS
        return found if seems else None

    def _least_within(self, widest: float) -> Solution | None:
        """The same, of those whose believed latency is within so many times the limit."""
        goals = (RATIO, *self.ask.goals[:2], *([ACCURACY] if self.problem.values_accuracy else []))
        question = replace(self.question(dict.fromkeys(self.scales, widest)), goals=tuple(dict.fromkeys(goals)))
        if self.incumbent is not None:
            question = replace(question, better_than=self.incumbent.worth(self.ask))
        # Where there is an incumbent this is a last chance, and no proof: any fast plan will do.
        settle = self.incumbent is None and not self.quick
        return self._ask(question, max(self.gap, LATENCY_GAP), settle=settle, hurry=not settle)

    def _better(self, new: Solution, old: Solution) -> bool:
        new_worth, old_worth = new.worth(self.ask), old.worth(self.ask)
        return new_worth < old_worth - SAME * max(abs(old_worth), 1e-12)

    def _try(self, proposal: Solution, how: str) -> bool:
        """Simulate a plan, and learn from it. Returns whether it, or the same on more machines, was certified."""
        self._rounds += 1
        result = self.judge.certain(proposal)
        met = result.verdict == "met"
        self._tell(f"{self._rounds}. {how}", proposal, result)
        if not met:
            self.rejected.append(proposal.columns)
            if result.unstable:
                self.unstable.append(proposal.columns)
            else:
                self._near.append((self._over(result), proposal))
                if self.fallback is None or self._farness(result) < self._farness(self.fallback[1]):
                    self.fallback = (proposal, result)
            apart = self._apart(proposal)
            if apart is not None:
                proposal, result, met = apart, self.judge.certain(apart), True
                self._tell("   the same on more machines", proposal, result)
        if met:
            self.incumbent = proposal
        self._learn(proposal, result)
        return met

    def _over(self, result: SimulationResult) -> float:
        """The largest latency over its limit."""
        if result.unstable:
            return math.inf
        return max(measured(result, limits_s(self.problem)).values(), default=0.0)

    def _farness(self, result: SimulationResult) -> tuple[bool, float]:
        """How far from certified a plan is: less is nearer."""
        return result.verdict == "missed", self._over(result)

    def _tell(self, how: str, plan: Solution, result: SimulationResult) -> None:
        met = result.verdict == "met"
        says = f"{'accepted' if met else 'rejected'}: {verdict_text(result, limits_s(self.problem))}"
        self.story.append(f"{how}: {describe(self.problem, plan)}: {says}{slowest_text(self.judge.slowdowns(plan))}")

    def _learn(self, plan: Solution, result: SimulationResult) -> None:
        """Move the scales to where the simulation says that the limits are."""
        if result.unstable:
            return
        says, met = believed(self.problem, plan), result.verdict == "met"
        for name, ratio in measured(result, limits_s(self.problem)).items():
            reached = says[name] / ratio * MARGIN if ratio > 0 else WIDEST
            if met:
                self._known_met[name] = max(says[name], self._known_met.get(name, 0.0))
                raised = max(self.scales[name], min(reached, WIDEST))
                self.scales[name] = max(min(raised, self._known_missed.get(name, WIDEST)), self._known_met[name])
            elif result.streams[name].verdict != "met":
                self._known_missed[name] = min(says[name], self._known_missed.get(name, WIDEST))
                self.scales[name] = max(min(self.scales[name], reached), self._known_met.get(name, 0.0))

    def _repair(self) -> bool:
        """Look near the incumbent, and near the rejected plans that would be better and came nearest. Returns whether a
        better plan was certified there."""
        if not self._may_repair:
            return False
        self._vicinity = self._vicinity or Vicinity(self.problem, self.judge, self.deadline)
        near = [plan for _, plan in sorted(self._near, key=lambda item: item[0]) if self._admissible(plan)]
        for base in [*([self.incumbent] if self.incumbent is not None else []), *near[:REPAIRED]]:
            if self._late:
                return False
            found = self._vicinity.repaired(base, self._admissible)
            if found is not None:
                self.incumbent = found
                result = self.judge.certain(found)
                self._tell("   near a plan that was looked at", found, result)
                self._learn(found, result)
                return True
        return False

    def _admissible(self, plan: Solution) -> bool:
        """Whether a plan is better than the incumbent, and keeps everything but, perhaps, its latencies."""
        counts, budget = self.ask.counts, self.ask.budget_usd_per_h
        if any(
            (most := counts[name]) is not None and len(packing.machines) > most
            for name, packing in plan.packings.items()
        ):
            return False
        if budget is not None and plan.cost_usd_per_h > budget * (1 + SAME):
            return False
        # Queues of two tiers that become one may send calls where there is no link, or a full one.
        if broken_links(instance(self.problem, plan), plan.columns):
            return False
        return self._keeps_limits(plan) and (self.incumbent is None or self._better(plan, self.incumbent))

    def _apart(self, plan: Solution) -> Solution | None:
        """A rejected plan on the fewest more machines that certify it; None where that does not help, or is no
        better than the incumbent."""
        if not self.judge.slowdowns(plan):
            return None
        most = math.inf if self.ask.budget_usd_per_h is None else self.ask.budget_usd_per_h
        if self.incumbent is not None and self.ask.objective == COST:
            most = min(most, self.incumbent.cost_usd_per_h * (1 - BETTER))
        found = [
            wider
            for wider in spreads(self.problem, plan, self.ask.counts, most)
            if self._keeps_limits(wider) and (self.incumbent is None or self._better(wider, self.incumbent))
        ]
        # The further apart, the faster: the last one decides whether any is certified, bisection which is the first.
        if not found or self.judge.certain(found[-1]).verdict == "missed":
            return None
        low, high = 0, len(found) - 1
        while low < high and not self._late:
            middle = (low + high) // 2
            if self.judge.certain(found[middle]).verdict == "met":
                high = middle
            else:
                low = middle + 1
        return found[high] if self.judge.certain(found[high]).verdict == "met" else None

    def _keeps_limits(self, plan: Solution) -> bool:
        """Whether a plan is as good in what earlier goals reached; more machines may cost and draw more."""
        reached = [(plan.reached(goal, self.ask.weights), most) for goal, most in self.ask.limits]
        return all(value <= most + SAME * max(abs(most), 1e-12) for value, most in reached)

    def _polish(self) -> None:
        """Of plans as good as the incumbent, take the one that the ties prefer, if it is certified too."""
        assert self.incumbent is not None
        proposal = self.proof
        if proposal is None or not proposal.tied:
            proposal = self._propose(self.scales, hurry=False)
            self.proof = proposal or self.proof
        if proposal is None or set(proposal.columns) == set(self.incumbent.columns):
            return
        if not self._better(self.incumbent, proposal):
            self._try(proposal, "as good, and preferred where plans tie")
