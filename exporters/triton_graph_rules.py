"""Rules that hold a configuration against the interface of the real ONNX graph.

They follow what Triton's ONNX Runtime backend checks when it loads a model: every input of the graph must be
configured; inputs may be freer in the graph than in the configuration; outputs must agree exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from inferplan.exporters.findings import Finding
from inferplan.exporters.onnx_graph import FREE, GraphTensor, OnnxGraph, read_graph
from inferplan.exporters.pbtxt import TextPath
from inferplan.exporters.triton_repository import (
    DEFAULT_FILENAMES,
    ConfigFile,
    Repository,
    RepositoryModel,
    contained,
    regular_file,
    word,
)
from inferplan.spec.errors import InputError, MissingExtraError


def check_graphs(model: RepositoryModel, file: ConfigFile, repository: Repository) -> Iterator[Finding]:
    """Hold one configuration against the ONNX file of every version it serves."""
    if file.backend != "onnxruntime":
        return
    filename = file.config.default_model_filename or DEFAULT_FILENAMES["onnxruntime"]
    for version in model.served_versions(file.config):
        path = model.folder / str(version) / filename
        if path.is_dir():
            path = path / "model.onnx"
        if not contained(path, repository.root) or not regular_file(path):
            continue  # reported as missing
        try:
            graph = _graph(path)
        except MissingExtraError:
            raise  # says nothing about the model
        except InputError as error:
            message = error.message.removeprefix(f"{path}: ")
            yield file.finding("graph-unreadable", f"version {version}: {message}")
            continue
        yield from _inputs(file, graph)
        yield from _outputs(file, graph)


def _graph(path: Path) -> OnnxGraph:
    status = path.stat()
    return _cached_graph(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _cached_graph(path: Path, modified_ns: int, size: int) -> OnnxGraph:
    return read_graph(path)


def _inputs(file: ConfigFile, graph: OnnxGraph) -> Iterator[Finding]:
    config = file.config
    known = {tensor.name: tensor for tensor in graph.inputs}
    sequence = config.sequence_batching
    fed = {tensor.name for tensor in config.input}
    fed.update(name for batch in config.batch_input for name in batch.target_name)
    fed.update(control.name for control in sequence.control_input)
    fed.update(state.input_name for state in sequence.state)
    for name in sorted(set(known) - fed):
        yield file.finding("graph-input-missing", f"the graph's input {name!r} is not written", ("input",))
    for index, tensor in enumerate(config.input):
        path: TextPath = ("input", index)
        if tensor.name in known:
            yield from _tensor(file, path, tensor, known[tensor.name], exact=False)
        elif tensor.name not in graph.overridable:
            yield file.finding(
                "graph-input-unknown",
                f"input {tensor.name!r} is not in the graph, which has {_names(graph.inputs)}",
                (*path, "name"),
            )


def _outputs(file: ConfigFile, graph: OnnxGraph) -> Iterator[Finding]:
    config = file.config
    known = {tensor.name: tensor for tensor in graph.outputs}
    scattered = {name for batch in config.batch_output for name in batch.target_name}
    taken = {tensor.name for tensor in config.output} | {s.output_name for s in config.sequence_batching.state}
    for name in sorted(set(known) - taken):
        yield file.finding("graph-output-missing", f"the graph's output {name!r} is not written", ("output",))
    for index, tensor in enumerate(config.output):
        path: TextPath = ("output", index)
        if tensor.name not in known:
            yield file.finding(
                "graph-output-unknown",
                f"output {tensor.name!r} is not in the graph, which has {_names(graph.outputs)}",
                (*path, "name"),
            )
        elif tensor.name not in scattered:
            yield from _tensor(file, path, tensor, known[tensor.name], exact=True)


def _tensor(file: ConfigFile, path: TextPath, tensor: Any, real: GraphTensor, *, exact: bool) -> Iterator[Finding]:
    configured = word(tensor, "data_type")
    if configured != real.data_type:
        yield file.finding(
            "graph-type", f"{tensor.name!r} is {configured}; in the graph {real.data_type}", (*path, "data_type")
        )
    if real.dims is None or (path[0] == "input" and tensor.allow_ragged_batch):
        return
    dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
    if not real.dims:
        if any(dim != 1 for dim in dims) and not file.config.max_batch_size:
            yield file.finding("graph-dims", f"{tensor.name!r} is a scalar in the graph", (*path, "dims"))
        return
    wanted = list(real.dims)
    if file.config.max_batch_size > 0:
        if wanted[0] != FREE:
            yield file.finding(
                "graph-batch",
                f"{tensor.name!r} cannot be batched: in the graph its first dimension is {wanted[0]}",
                (*path, "dims"),
            )
            return
        wanted = wanted[1:]
    fits = len(dims) == len(wanted) and all(
        have == want or (want == FREE and not exact) for have, want in zip(dims, wanted, strict=True)
    )
    if not fits:
        batch = " after the batch" if file.config.max_batch_size > 0 else ""
        yield file.finding(
            "graph-dims", f"{tensor.name!r} has dims {dims}; the graph has {wanted}{batch}", (*path, "dims")
        )


def _names(tensors: tuple[GraphTensor, ...]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors) or "none"
