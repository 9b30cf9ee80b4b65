"""Which rows of a profile are of what the workload has today, told by hashes alone: nothing is run or loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from inferplan.spec.errors import InputError
from inferplan.spec.evidence import code_sha256
from inferplan.spec.modelfiles import model_sha256
from inferplan.spec.rows import AccuracyRow, PointKey
from inferplan.spec.stage import Choice
from inferplan.spec.tables import AnyRow
from inferplan.spec.workload import Workload


@dataclass(frozen=True, slots=True)
class ChoiceState:
    """What the rows of a choice rest on today; `missing` says why that cannot be told."""

    model_sha256: str
    code_sha256: str
    options: str
    missing: str = ""


@dataclass(frozen=True)
class Freshness:
    """Judges rows against a workload as it is now."""

    workload: Workload

    @cached_property
    def states(self) -> dict[tuple[str, str], ChoiceState]:
        """State of every choice, by stage and name."""
        stages = self.workload.pipeline.stages
        return {(stage, name): self._state(stage, name) for stage in stages for name in stages[stage].choices()}

    def missing(self) -> list[str]:
        """Choices whose files cannot be read, each with the reason."""
        return [f"{stage}={name}: {state.missing}" for (stage, name), state in self.states.items() if state.missing]

    def stale(self, row: AnyRow) -> str:
        """Why a row is not of today's workload; empty where it is, as far as hashes of models and code can tell.

        Accuracies and flows rest on data as well, which is not looked at here: they are stale only where what
        they are of is gone.
        """
        if isinstance(row, AccuracyRow) and row.scope == "pipeline":
            named = row.stages()
            same = set(named) == set(self.workload.pipeline.stages)
            return "" if same and all(item in self.states for item in named.items()) else "no such combination"
        key = getattr(row, "key", None)
        if isinstance(key, PointKey):
            return self._stale_key(key)
        stage = row.stage if isinstance(row, AccuracyRow) else getattr(row, "source", "")
        name = Choice(getattr(row, "variant", ""), _parts(getattr(row, "modalities", ""))).name
        return "" if (stage, name) in self.states else "no such choice"

    def _stale_key(self, key: PointKey) -> str:
        state = self.states.get((key.stage, Choice(key.variant, _parts(key.modalities)).name))
        if state is None:
            return "no such choice"
        if state.missing or key.runtime == "skip":
            return ""
        if key.device not in self.workload.devices():
            return "no such device"
        if key.model_sha256 != state.model_sha256:
            return "another model file"
        imported = key.device_fingerprint.startswith(IMPORTED)
        if not imported and key.code_sha256 != state.code_sha256:
            return "other stage code"
        return "" if imported or key.options == state.options else "other runtime options"

    def _state(self, stage_name: str, name: str) -> ChoiceState:
        stage = self.workload.pipeline.stages[stage_name]
        variant = stage.variants[Choice.parse(name).variant]
        options = json.dumps(variant.options.changed(), sort_keys=True)
        try:
            code = code_sha256(stage.code, variant.params, self.workload.root)
            return ChoiceState(model_sha256(self.workload, stage_name, name), code, options)
        except InputError as error:
            return ChoiceState("", "", options, error.message)


IMPORTED = "imported:"
"""How the device fingerprint of imported rows begins: they are of a machine that nobody here looked at."""


def _parts(modalities: str) -> tuple[str, ...]:
    return tuple(modalities.split("+")) if modalities else ()
