"""Rules of ensembles: which fields they may have, and how their tensors connect the members."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inferplan.exporters.findings import Finding
from inferplan.exporters.onnx_graph import FREE
from inferplan.exporters.pbtxt import TextPath
from inferplan.exporters.triton_repository import ConfigFile, Repository, word

_STEPS: TextPath = ("ensemble_scheduling", "step")


ANY = "TYPE_INVALID"
"""The type of a tensor that says none, or that nobody knows."""


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a tensor: who says what its type and shape are, and where."""

    owner: str
    data_type: str
    dims: tuple[int, ...]
    batched: bool
    path: TextPath

    @property
    def full(self) -> tuple[int, ...]:
        return (FREE, *self.dims) if self.batched else self.dims

    def agrees(self, other: _End) -> bool:
        return _compatible(self.dims, other.dims) or _compatible(self.full, other.full)


def check_ensemble(file: ConfigFile, repository: Repository) -> Iterator[Finding]:
    """Every rule of ensembles; nothing where the configuration is of another kind."""
    config = file.config
    scheduled = config.HasField("ensemble_scheduling")
    if not scheduled and config.platform != "ensemble":
        return
    if not scheduled or config.platform != "ensemble" or config.backend:
        yield file.finding("ensemble-platform", "an ensemble is a platform with steps and no backend", ("platform",))
    for rule, field in (("instances", "instance_group"), ("optimization", "optimization"), ("warmup", "model_warmup")):
        if file.text.written((field,)):
            yield file.finding(f"ensemble-{rule}", f"an ensemble cannot have {field}", (field,))
    if not config.ensemble_scheduling.step:
        yield file.finding("ensemble-steps", "there is no step", ("ensemble_scheduling",))
        return
    wiring = _Wiring(file)
    for index, step in enumerate(config.ensemble_scheduling.step):
        yield from _step(file, repository, wiring, index, step)
    yield from wiring.breaches()


def _step(file: ConfigFile, repository: Repository, wiring: _Wiring, index: int, step: Any) -> Iterator[Finding]:
    path: TextPath = (*_STEPS, index)
    found = repository.models.get(step.model_name)
    member = found.main if found else None
    if found is None or (step.model_version > 0 and step.model_version not in found.versions):
        version = f" version {step.model_version}" if step.model_version > 0 else ""
        yield file.finding("ensemble-member", f"there is no model {step.model_name!r}{version}", path)
    if member is None:
        wiring.link(index, step, None)
        return
    own, theirs = file.config.max_batch_size, member.config.max_batch_size
    if theirs and theirs < own:
        yield file.finding(
            "ensemble-batch",
            f"max_batch_size is {own}; member {step.model_name!r} takes {theirs}",
            ("max_batch_size",),
        )
    for side in ("input", "output"):
        names = {tensor.name for tensor in getattr(member.config, side)}
        for key in sorted(set(getattr(step, f"{side}_map")) - names):
            yield file.finding(
                "ensemble-map",
                f"member {step.model_name!r} has no {side} {key!r}; it has {', '.join(sorted(names)) or 'none'}",
                (*path, f"{side}_map", key),
            )
    for tensor in member.config.input:
        if tensor.name not in step.input_map and not tensor.optional:
            yield file.finding(
                "ensemble-input-unmapped", f"input {tensor.name!r} of {step.model_name!r} is not mapped", path
            )
    wiring.link(index, step, member)


class _Wiring:
    """The tensors of an ensemble: who produces, who consumes."""

    def __init__(self, file: ConfigFile) -> None:
        self._file = file
        self._producers: dict[str, list[_End]] = {}
        self._consumers: dict[str, list[_End]] = {}
        # Step -> tensors it needs, tensors it makes.
        self._needs: list[tuple[set[str], set[str]]] = []
        config = file.config
        for index, tensor in enumerate(config.input):
            self._producers.setdefault(tensor.name, []).append(
                _end("the ensemble's input", tensor, config, ("input", index))
            )
        for index, tensor in enumerate(config.output):
            self._consumers.setdefault(tensor.name, []).append(
                _end("the ensemble's output", tensor, config, ("output", index))
            )

    def link(self, index: int, step: Any, member: ConfigFile | None) -> None:
        """Add a step. Where its member is unknown, its tensors are taken to be of any type and shape."""
        for side, ends in (("input", self._consumers), ("output", self._producers)):
            mapping = getattr(step, f"{side}_map")
            tensors = {tensor.name: tensor for tensor in getattr(member.config, side)} if member else {}
            for key in sorted(mapping):
                path: TextPath = (*_STEPS, index, f"{side}_map", key)
                owner = f"{side} {key!r} of {step.model_name!r}"
                known = tensors.get(key)
                end = _end(owner, known, member.config, path) if known is not None and member else None
                ends.setdefault(mapping[key], []).append(end or _End(owner, ANY, (), False, path))
        self._needs.append((set(step.input_map.values()), set(step.output_map.values())))

    def breaches(self) -> Iterator[Finding]:
        file = self._file
        for name, producers in sorted(self._producers.items()):
            for extra in producers[1:]:
                yield file.finding(
                    "ensemble-produced-twice", f"tensor {name!r} has several producers: {extra.owner} too", extra.path
                )
            if name not in self._consumers:
                yield file.finding(
                    "ensemble-unused",
                    f"tensor {name!r} ({producers[0].owner}) is consumed by nothing",
                    producers[0].path,
                )
        for name, consumers in sorted(self._consumers.items()):
            produced = self._producers.get(name, [])
            if not produced:
                yield file.finding("ensemble-unproduced", f"nothing produces tensor {name!r}", consumers[0].path)
            # Consumers are held against the producer; where there is none, against one another.
            first, *others = (*produced[:1], *consumers)
            for other in others:
                yield from self._agreement(name, first, other)
        yield from self._cycle()

    def _agreement(self, name: str, one: _End, other: _End) -> Iterator[Finding]:
        if ANY in (one.data_type, other.data_type):
            return
        if one.data_type != other.data_type:
            yield self._file.finding(
                "ensemble-type",
                f"tensor {name!r} is {one.data_type} by {one.owner}, {other.data_type} by {other.owner}",
                other.path,
            )
        elif not one.agrees(other):
            yield self._file.finding(
                "ensemble-dims",
                f"tensor {name!r} is {list(one.full)} by {one.owner}, {list(other.full)} by {other.owner}",
                other.path,
            )

    def _cycle(self) -> Iterator[Finding]:
        """Steps that can never run although all they need is produced by some step."""
        ready = {name for name in self._consumers if name not in self._producers}
        ready.update(tensor.name for tensor in self._file.config.input)
        waiting = dict(enumerate(self._needs))
        while True:
            runnable = [index for index, (needs, _) in waiting.items() if needs <= ready]
            if not runnable:
                break
            for index in runnable:
                ready |= waiting.pop(index)[1]
        if waiting:
            names = ", ".join(repr(self._file.config.ensemble_scheduling.step[i].model_name) for i in waiting)
            yield self._file.finding("ensemble-cycle", f"steps wait for one another: {names}", (*_STEPS, min(waiting)))


def _end(owner: str, tensor: Any, config: Any, path: TextPath) -> _End:
    return _End(owner, word(tensor, "data_type"), tuple(tensor.dims), config.max_batch_size > 0, path)


def _compatible(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(a == b or FREE in (a, b) for a, b in zip(one, other, strict=True))
