"""How replicas stand on machines, where classes spread over devices: packing, and what the loss of machines leaves.

*Lost machines.* With k spares of d, an option on d has a layout l: at most j of its replicas on a machine, so that no
more than k j of its n_ol are gone, whatever k machines of d are; or all of them count as gone. u_ol ∈ {0,1} says which:

    (layout)    n_o = Σ_l n_ol,   Σ_l u_ol <= 1,   k j u_ol <= n_ol <= N u_ol,   n_ol <= j m_d
    (left)      Σ_k Λ_ks X_ksvt <= ρ Σ_{o: s,v,t} μ_o (n_o - [d_o = d] gone_o)        for every d with spares
                gone_o = Σ_l k j u_ol, or n_ol where all count as gone

Every option on d counts as losing the most it can, all at the same time, which is never less than what really happens.
The options of a choice in a tier take over from one another. Machines of different types are not lost together.

*Packing.* After each solve the replicas are packed exactly. Where they need u machines of d and fewer were bought, m_d
>= u - Σ_o Σ_{j <= n*_ol} (1 - g_olj) is added, g_olj ∈ {0,1} and g_olj = 1 where n_ol >= j, l being the layout in use:
taking one replica away saves no more than the machine it could have had to itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inferplan.estimators.cost import fitting
from inferplan.solvers.options import Option
from inferplan.solvers.packing import Item, Packing, pack
from inferplan.solvers.placing import most_together, strangers
from inferplan.solvers.split_instance import SplitInstance


@dataclass(frozen=True)
class Layout:
    """Replicas of an option, at most so many on one machine (None: as many as fit). No more than `lost` of them are
    gone whatever machines are; None: all of them count as gone."""

    option: Option
    most: int | None
    lost: int | None


def layouts(instance: SplitInstance, option: Option) -> list[Layout]:
    """How the replicas of an option may stand: one of these is used."""
    assert option.need is not None
    spares = instance.problem.assurance.spares.get(option.device, 0)
    most = most_together(option)
    if not spares:
        return [Layout(option, most, 0)]
    fit = fitting(instance.problem.devices[option.device].capacity, option.need)
    some = [Layout(option, few, spares * few) for few in range(1, min(fit, most or fit) + 1)]
    return [*some, Layout(option, most, None)]


class Laid:
    """Variables and rows of replicas in a program. By option: expressions of its `replicas`, and of how many of them
    are `gone` when machines of its device are lost."""

    def __init__(self, instance: SplitInstance, model: Any) -> None:
        self.instance = instance
        self.replicas: dict[str, Any] = {}
        self.gone: dict[str, Any] = {}
        self._model = model
        self._laid: dict[str, list[tuple[Layout, Any]]] = {}
        self._steps: dict[tuple[str, int, int], Any] = {}
        for option in instance.options:
            self._add(option)

    def _add(self, option: Option) -> None:
        import mip

        model, most = self._model, self.instance.most[option.name]
        laid = [
            (layout, model.add_var(var_type=mip.INTEGER, lb=0, ub=most)) for layout in layouts(self.instance, option)
        ]
        self._laid[option.name], gone = laid, []
        if len(laid) > 1:
            used = [model.add_var(var_type=mip.BINARY) for _ in laid]
            model += mip.xsum(used) <= 1
            for (layout, n), u in zip(laid, used, strict=True):
                model += n - most * u <= 0
                if layout.lost is not None:
                    model += n - layout.lost * u >= 0
                gone.append(1.0 * n if layout.lost is None else float(layout.lost) * u)
        self.replicas[option.name] = laid[0][1] if len(laid) == 1 else mip.xsum(n for _, n in laid)
        self.gone[option.name] = mip.xsum(gone)

    def spread(self, options: Sequence[Option], machines: Any) -> None:
        """On one machine no more of an option than its layout allows."""
        for layout, n in (pair for option in options for pair in self._laid[option.name]):
            if layout.most is not None:
                self._model += n - layout.most * machines <= 0

    def limit(self, option: Option, most: int) -> None:
        """No more replicas of an option than so many."""
        for _, n in self._laid[option.name]:
            n.ub = most

    def used(self) -> list[tuple[str, Layout, int]]:
        """Options in use, with their layout and replicas, of a solved program."""
        return [
            (name, layout, count)
            for name, laid in self._laid.items()
            for layout, n in laid
            if (count := round(n.x))
        ]  # fmt: skip

    def packings(self) -> dict[tuple[str, str], Packing]:
        """The replicas on as few machines as hold them, by (device, stage); no stage where machines are shared."""
        items: dict[tuple[str, str], list[Item]] = {}
        for name, layout, count in self.used():
            option = layout.option
            assert option.need is not None
            stage = option.stage if option.device in self.instance.exclusive else ""
            items.setdefault((option.device, stage), []).append(Item(name, option.need, count, layout.most))
        devices = self.instance.problem.devices
        apart = strangers({o.name: o for o in self.instance.options})
        return {key: pack(found, devices[key[0]].capacity, apart) for key, found in sorted(items.items())}

    def cut(self, packings: Mapping[tuple[str, str], Packing], machines: Mapping[tuple[str, str], Any]) -> bool:
        """Add a cut wherever replicas need more machines than were bought."""
        import mip

        cut = False
        for (device, stage), packing in packings.items():
            needed = len(packing.machines)
            if needed <= round(machines[device, stage].x):
                continue
            cut = True
            missing = [
                1 - self._step(name, layout, j)
                for name, layout, count in self.used()
                if layout.option.device == device and stage in ("", layout.option.stage)
                for j in range(1, count + 1)
            ]
            self._model += machines[device, stage] + mip.xsum(missing) >= needed
        return cut

    def _step(self, name: str, layout: Layout, j: int) -> Any:
        """A binary that is 1 where there are j replicas or more, laid out so."""
        import mip

        at, n = next((i, n) for i, (one, n) in enumerate(self._laid[name]) if one == layout)
        if (name, at, j) not in self._steps:
            step = self._steps[name, at, j] = self._model.add_var(var_type=mip.BINARY)
            self._model += n - (j - 1) <= max(self.instance.most[name] - j + 1, 1) * step
        return self._steps[name, at, j]
