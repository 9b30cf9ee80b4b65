"""Rules a single configuration can be held to without looking at the model's graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inferplan.exporters.findings import Finding
from inferplan.exporters.pbtxt import TextPath
from inferplan.exporters.triton_repository import (
    DEFAULT_FILENAMES,
    PLATFORM_BACKENDS,
    ConfigFile,
    Repository,
    RepositoryModel,
    contained,
    printable,
    regular_file,
    word,
)
from inferplan.exporters.triton_schema import SERVER_VERSION, unknown_fields

_ACCELERATORS = {"gpu": ("tensorrt", "cuda"), "cpu": ("openvino",)}
_THREAD_PARAMETERS = ("intra_op_thread_count", "inter_op_thread_count")


def check_config(model: RepositoryModel, file: ConfigFile, repository: Repository) -> Iterator[Finding]:
    """Every rule that one configuration and its folder decide."""
    for path in unknown_fields(file.config):
        yield file.finding("schema-skew", f"Triton {SERVER_VERSION} does not know the field {path[-1]}", path)
    yield from _identity(model, file)
    yield from _versions(model, file, repository)
    yield from _tensors(file)
    if file.backend == "ensemble" or file.config.HasField("ensemble_scheduling"):
        return
    yield from _instances(file)
    yield from _batching(file)
    yield from _runtime(file)
    yield from _warmup(model, file, repository)


def _identity(model: RepositoryModel, file: ConfigFile) -> Iterator[Finding]:
    config = file.config
    if not config.name:
        yield file.finding("name-missing", "the model has no name")
    elif config.name != model.name:
        yield file.finding(
            "name-mismatch", f"named {config.name!r}, but its folder is {printable(model.name)!r}", ("name",)
        )
    if not file.backend and not config.HasField("ensemble_scheduling"):
        yield file.finding("backend-missing", "neither backend nor a known platform is named", ("platform",))
    elif file.guessed_backend and file.backend == file.guessed_backend and not config.backend and not config.platform:
        yield file.finding("backend-guessed", f"the server takes {file.backend!r}, by the name of the model file")
    by_platform = PLATFORM_BACKENDS.get(config.platform)
    if config.backend and by_platform and by_platform != config.backend:
        yield file.finding(
            "backend-platform", f"platform {config.platform!r} belongs to backend {by_platform!r}", ("backend",)
        )
    if config.max_batch_size < 0:
        yield file.finding("batch-negative", f"max_batch_size is {config.max_batch_size}", ("max_batch_size",))


def _versions(model: RepositoryModel, file: ConfigFile, repository: Repository) -> Iterator[Finding]:
    config = file.config
    if config.version_policy.WhichOneof("policy_choice") == "specific":
        wanted = config.version_policy.specific.versions
        missing = sorted(set(wanted) - set(model.versions))
        if missing or not wanted:
            named = ", ".join(map(str, missing)) or "none"
            yield file.finding("version-policy", f"versions named but absent: {named}", ("version_policy",))
    filename = config.default_model_filename or DEFAULT_FILENAMES.get(file.backend, "")
    if not filename or file.backend == "ensemble":
        return
    for version in model.served_versions(config):
        path = model.folder / str(version) / filename
        if not path.exists() or not contained(path, repository.root):
            shown = printable(f"{version}/{filename}")
            yield file.finding("model-file-missing", f"there is no {shown}", ("default_model_filename",))


def _tensors(file: ConfigFile) -> Iterator[Finding]:
    config = file.config
    for side in ("input", "output"):
        tensors = getattr(config, side)
        if not tensors:
            yield file.finding("io-missing", f"no {side} is written")
        seen: set[str] = set()
        for index, tensor in enumerate(tensors):
            path: TextPath = (side, index)
            if not tensor.name or tensor.name in seen:
                yield file.finding("io-name", f"{side} {index} has the name {tensor.name!r}, empty or taken", path)
            seen.add(tensor.name)
            if tensor.data_type == 0:
                yield file.finding("io-type", f"{side} {tensor.name!r} has no data_type", path)
            if not tensor.dims or any(dim < 1 and dim != -1 for dim in tensor.dims):
                yield file.finding("io-dims", f"{side} {tensor.name!r} has dims {list(tensor.dims)}", (*path, "dims"))


def _instances(file: ConfigFile) -> Iterator[Finding]:
    if not file.config.instance_group:
        yield file.finding("instance-missing", "no instance_group is written")
    for index, group in enumerate(file.config.instance_group):
        path: TextPath = ("instance_group", index)
        kind = word(group, "kind")
        if not kind.startswith("KIND_"):
            yield file.finding("instance-kind", f"there is no kind {kind}", path)
        if kind == "KIND_AUTO":
            yield file.finding("instance-kind", "the kind is left to the server", path)
        if not file.text.written((*path, "count")):
            yield file.finding("instance-count-missing", "the count is left to the server", path)
        elif group.count < 1:
            yield file.finding(
                "instance-count",
                f"count is {group.count}; the server takes it silently as its default",
                (*path, "count"),
            )
        if group.gpus and kind in ("KIND_CPU", "KIND_MODEL"):
            yield file.finding("instance-cpu-gpus", f"{kind} lists GPUs {list(group.gpus)}", (*path, "gpus"))
        if kind == "KIND_GPU" and not group.gpus:
            yield file.finding("instance-gpus-missing", "KIND_GPU lists no GPUs", path)


def _batching(file: ConfigFile) -> Iterator[Finding]:
    config = file.config
    if not config.HasField("dynamic_batching"):
        return
    path: TextPath = ("dynamic_batching",)
    preferred = list(config.dynamic_batching.preferred_batch_size)
    if preferred and file.backend != "tensorrt":
        yield file.finding(
            "preferred-batch",
            f"preferred_batch_size {preferred} makes batches wait for just these sizes; only TensorRT profiles gain",
            (*path, "preferred_batch_size"),
        )
    if any(size < 1 or size > config.max_batch_size for size in preferred):
        yield file.finding(
            "preferred-batch-range",
            f"preferred_batch_size {preferred} is not within 1 to max_batch_size {config.max_batch_size}",
            (*path, "preferred_batch_size"),
        )
    if config.max_batch_size == 0:
        yield file.finding("batching-without-batch", "dynamic_batching with max_batch_size 0 does nothing", path)


def _runtime(file: ConfigFile) -> Iterator[Finding]:
    if file.backend != "onnxruntime":
        return
    config = file.config
    for name in _THREAD_PARAMETERS:
        if name in config.parameters:
            value = config.parameters[name].string_value
            if not (value.isascii() and value.isdigit()):
                yield file.finding("ort-threads-value", f"{name} is {value!r}", ("parameters", name))
        elif name == "intra_op_thread_count":
            yield file.finding("ort-threads-missing", "every instance starts as many threads as the machine has cores")
    accelerators = config.optimization.execution_accelerators
    for side, known in _ACCELERATORS.items():
        field = f"{side}_execution_accelerator"
        for index, accelerator in enumerate(getattr(accelerators, field)):
            if accelerator.name not in known:
                yield file.finding(
                    "accelerator-unknown",
                    f"onnxruntime has no {side.upper()} accelerator {accelerator.name!r}",
                    ("optimization", "execution_accelerators", field, index, "name"),
                )


def _warmup(model: RepositoryModel, file: ConfigFile, repository: Repository) -> Iterator[Finding]:
    config = file.config
    inputs = {tensor.name: tensor for tensor in config.input}
    # Controls of the sequence batcher are inputs too, which warm-up may but need not set.
    controls = {control.name for control in config.sequence_batching.control_input}
    needed = {name for name, tensor in inputs.items() if not tensor.optional}
    for index, sample in enumerate(config.model_warmup):
        path: TextPath = ("model_warmup", index)
        if sample.batch_size == 0:
            yield file.finding("warmup-ignored", f"sample {sample.name!r} has batch_size 0: it is skipped", path)
        elif sample.batch_size > max(1, config.max_batch_size):
            yield file.finding(
                "warmup-batch",
                f"sample {sample.name!r} has batch_size {sample.batch_size}, above max_batch_size"
                f" {config.max_batch_size}",
                (*path, "batch_size"),
            )
        given = set(sample.inputs)
        for name in sorted(needed - given):
            yield file.finding("warmup-input", f"sample {sample.name!r} lacks the input {name!r}", path)
        for name in sorted(given - set(inputs) - controls):
            yield file.finding("warmup-input", f"sample {sample.name!r} has an unknown input {name!r}", path)
        for name in sorted(given & set(inputs)):
            for rule, message in _warmup_input(sample.inputs[name], inputs[name], model, repository):
                yield file.finding(rule, f"sample {sample.name!r}, input {name!r}: {message}", (*path, "inputs", name))


def _warmup_input(
    sample: Any, tensor: Any, model: RepositoryModel, repository: Repository
) -> Iterator[tuple[str, str]]:
    """Breaches (rule, message) of one input of one warm-up sample."""
    if sample.data_type != tensor.data_type:
        yield "warmup-type", "its data_type is not the input's"
    dims, wanted = list(sample.dims), list(tensor.dims)
    fits = len(dims) == len(wanted) and all(w in (-1, d) for d, w in zip(dims, wanted, strict=True))
    if not fits or any(dim < 1 for dim in dims):
        yield "warmup-dims", f"dims {dims} do not fit {wanted} (the batch is not among them)"
    data = sample.WhichOneof("input_data_type")
    if data is None:
        yield "warmup-input", "it says nothing about the data"
    if data == "input_data_file":
        path = model.folder / "warmup" / sample.input_data_file
        if not contained(path, repository.root) or not regular_file(path):
            yield "warmup-file", f"there is no file warmup/{printable(sample.input_data_file)}"
