"""Exact products: a spatial branch and bound over the shares of tiers.

Where routing is proportional the flow between two tiers is the product of two shares, which no linear program can say.
Within a box l <= Y <= u of one factor it can be fenced in: S l <= F <= S u, Σ F = S, Σ F = Y (the McCormick envelope of
a product of shares that add up to 1), which is exact where Y is at an end of its box, in particular at 0 and 1.

    1. Solve the program with these fences (a mixed-integer linear program: its value is a bound on the box).
    2. The shares it found, with flows recomputed as products, are a plan: the best of them is kept.
    3. Where the program's own flows differ from the products, cut the box of the share that differs most in two at the
       value found: both halves are exact there. Go on with the box of the least bound.

It ends when no box has a bound below the best plan, less the gap asked for: that plan is then optimal, and the least
bound is the proof. Of every product only one factor is narrowed down, so few shares are branched on; where they are 0
or 1 in the optimum, as they often are, the first box settles it. With tier-aware routing flows are free and linear.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, replace
from itertools import count, pairwise

from inferplan.solvers.goals import ACCURACY, COST, ENERGY, WEIGHTED, Goal
from inferplan.solvers.split_flows import Box, Knob
from inferplan.solvers.split_instance import Question
from inferplan.solvers.split_program import Node, Split, SplitProgram

EXACT = 1e-7
"""Flows that differ by no more than this share of a leg's calls are the same."""
FITS = 1e-6
TIE = 1e-7
NARROW = 1e-6
SPENT = (COST, ENERGY, WEIGHTED)
"""Goals that rest on the real flows, not on the program's idea of them."""


@dataclass(frozen=True)
class Found:
    """The best plan, with its value and the least it could have been (of the minimised objective)."""

    split: Split
    value: float
    bound: float
    proven: bool


class SplitSearch:
    """A program that is asked many questions. `timed_out`: the last one ran out of time without an answer."""

    def __init__(self, program: SplitProgram) -> None:
        self.program = program
        self.timed_out = False

    def best(self, question: Question, objective: Goal, deadline: float, gap: float) -> Found | None:
        """The best plan; None where there is none, or none was found in time."""
        program = self.program
        program.begin(question)
        program.set_objective(objective)
        self.timed_out = False
        order = count()
        root = program.solve({}, deadline, gap)
        boxes: list[tuple[float, int, Box, Node]] = [] if root is None else [(root.bound, next(order), {}, root)]
        self.timed_out = program.timed_out
        best: Found | None = None
        settled: list[float] = []
        complete = not program.timed_out
        while boxes:
            bound, _, box, node = heapq.heappop(boxes)
            if best is not None and bound >= best.value - gap * abs(best.value) - 1e-9:
                boxes.append((bound, next(order), box, node))
                break
            value = self._value(node, question, objective)
            if value is not None and (best is None or value < best.value):
                best = Found(node.split, value, bound, False)
            if value is not None and value <= bound + gap * abs(bound) + 1e-9:
                complete &= node.optimal
                continue
            if time.monotonic() >= deadline:
                boxes.append((bound, next(order), box, node))
                complete = False
                break
            halves = self._halves(node, box)
            if not halves:
                # Too narrow to be cut: its bound stands.
                settled.append(bound)
                complete &= value is not None and node.optimal
            for half in halves:
                found = program.solve(half, deadline, gap)
                complete &= not program.timed_out
                if found is not None:
                    heapq.heappush(boxes, (max(found.bound, bound), next(order), half, found))
        if best is None:
            self.timed_out |= not complete
            return None
        least = min([*settled, *(item[0] for item in boxes), best.value])
        return Found(best.split, best.value, least, complete)

    def _value(self, node: Node, question: Question, objective: Goal) -> float | None:
        """What the plan behind a node is worth; None where its real flows break a limit."""
        program, split = self.program, node.split
        ways = program.instance.ways
        for (t, u), load in program.flows.carried(split.choices, split.flows).items():
            width = ways.bandwidth(t, u) if ways.open(t, u) else 0.0
            if width is not None and load * program.instance.level > width * (1 + FITS):
                return None
        budget = [] if question.budget_usd_per_h is None else [(COST, question.budget_usd_per_h)]
        for goal, most in (*budget, *question.limits):
            if goal in SPENT and split.reached(goal, question.weights) > most + FITS * abs(most) + 1e-9:
                return None
        if objective in SPENT:
            return split.reached(objective, question.weights) / program.unit(objective)
        return node.value

    def _halves(self, node: Node, box: Box) -> list[Box]:
        """Two boxes that share the point found; nothing where the flows are products already."""
        knob = self._most_wrong(node)
        if knob is None:
            return []
        low, high = box.get(knob, (0.0, 1.0))
        if high - low <= NARROW:
            return []
        at = node.split.shares.get(knob, 0.0)
        margin = 0.02 * (high - low)
        if not low + margin < at < high - margin:
            at = (low + high) / 2
        return [{**box, knob: (low, at)}, {**box, knob: (at, high)}]

    def _most_wrong(self, node: Node) -> Knob | None:
        """The share of whose products the program's flows differ most, in bytes."""
        program = self.program
        wrong: dict[Knob, float] = {}
        for (k, leg), stage in program.flows.knobs.items():
            size = program.instance.leg_rps(k, leg) * program.instance.payloads.size_bytes(
                leg, node.split.choices[k, leg.source]
            )
            for (owner, other, t, u), share in node.relaxed.items():
                if (owner, other) != (k, leg):
                    continue
                off = abs(share - node.split.flows.get((k, leg, t, u), 0.0))
                if off > EXACT:
                    knob = (k, stage, u if stage == leg.target else t)
                    wrong[knob] = wrong.get(knob, 0.0) + off * (size + 1e-9)
        return max(sorted(wrong), key=lambda knob: wrong[knob]) if wrong else None


def decide(
    search: SplitSearch, question: Question, goals: tuple[Goal, ...], deadline: float, gap: float
) -> Found | None:
    """Best for the first goal; of plans as good, the best for the next, and so on. The bound is of the first."""
    first = search.best(question, goals[0], deadline, gap)
    if first is None:
        return None
    last, held = first, question
    for earlier, goal in pairwise(one for one in goals if one != ACCURACY or search.program.knows_accuracy):
        held = holding(search, held, earlier, last)
        found = search.best(held, goal, deadline, gap)
        if found is None:
            break
        last = found
    if last is first or (last.split.choices == first.split.choices and goals[1:] == (ACCURACY,)):
        return first
    if goals[1:] == (ACCURACY,):
        # Found within a tie of the first goal: of its choices the best shares and machines.
        settled = search.best(replace(question, chosen=last.split.choices), goals[0], deadline, gap)
        return first if settled is None else Found(settled.split, settled.value, first.bound, first.proven)
    return Found(last.split, first.value, first.bound, first.proven)


def holding(search: SplitSearch, question: Question, goal: Goal, found: Found, tolerance: float = TIE) -> Question:
    """The question with the further promise that a goal stays as good as found, to a relative tolerance."""
    unit = search.program.unit(goal)
    most = found.value * unit
    return replace(question, limits=(*question.limits, (goal, most + tolerance * max(abs(most), unit))))
