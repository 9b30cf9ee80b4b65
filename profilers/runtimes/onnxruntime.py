"""ONNX Runtime: CPU, OpenVINO, CUDA and TensorRT providers, as far as the installed package has them.

Threads: `intra_op = threads`, `inter_op = 1`, sequential execution, no spinning. Idle threads that spin gain
a little on an empty machine and cost everything beside another replica: two replicas of a small ResNet with
two threads each on two cores took 20 ms a call with spinning and 3 ms without (docs/measurement.md).
OpenVINO has threads of its own, and is told their number.

Providers that do not work are dropped by the library without an error, and a GPU build lists CUDA where there is
no GPU: only what the loaded session says counts. It says nothing of single operators that fell back to the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inferplan.profilers.runtimes.base import ModelError, ModelSource, Session
from inferplan.spec.errors import MissingExtraError
from inferplan.spec.modelfiles import external_names
from inferplan.spec.stagecode import ModelInfo, TensorInfo, Tensors

# Ours -> theirs, each with those that take over the operators it cannot run.
_THEIRS = {
    "cpu": ["CPUExecutionProvider"],
    "openvino": ["OpenVINOExecutionProvider", "CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_OURS = {theirs[0]: ours for ours, theirs in _THEIRS.items()}
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_INSTALL = {"openvino": "pip install onnxruntime-openvino in place of onnxruntime"}
_OPTIMIZATION = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}
_ERRORS_ONLY = 3


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("cpu", "running ONNX models") from error
    return onnxruntime


class OnnxSession:
    """A model loaded by ONNX Runtime."""

    def __init__(self, session: Any, provider: str, version: str, info: ModelInfo) -> None:
        self.info = info
        self.provider = provider
        self.version = version
        self._session = session
        self._outputs = [output.name for output in info.outputs]

    def run(self, inputs: Tensors) -> Tensors:
        """One call of the model."""
        return dict(zip(self._outputs, self._session.run(self._outputs, inputs), strict=True))

    def close(self) -> None:
        """Free the model's memory."""
        self._session = None


class OnnxRuntime:
    """Loads ONNX files."""

    name = "onnxruntime"

    def version(self) -> str:
        """Version of the installed onnxruntime or onnxruntime-gpu."""
        return str(_library().__version__)

    def providers(self) -> tuple[str, ...]:
        """Those compiled in. A GPU build lists CUDA and TensorRT on machines without a GPU, too."""
        return tuple(_OURS[name] for name in _library().get_available_providers() if name in _OURS)

    def load(self, source: ModelSource, provider: str, threads: int) -> Session:
        """Load an ONNX file. Raises ModelError."""
        library = _library()
        model = source.file
        if model is None:
            raise ModelError("runtime onnxruntime needs a model file")
        if source.factory is not None:
            raise ModelError("runtime onnxruntime takes no factory")
        if provider not in _THEIRS:
            raise ModelError(f"there is no provider {provider!r}; there are: {', '.join(_THEIRS)}")
        if provider not in self.providers():
            how = _INSTALL.get(provider, "pip install 'inferplan[gpu]'")
            raise ModelError(f"the installed onnxruntime has no provider {provider} ({how})")
        _check_files(model)
        options = _session_options(library, source.options, threads)
        try:
            session = library.InferenceSession(str(model), options, providers=_providers(provider, threads))
        except Exception as error:
            raise ModelError(f"{model}: onnxruntime cannot load it: {_first_line(error)}") from error
        # A provider that does not work is dropped without an error: only what the session says counts.
        real = next((_OURS[name] for name in session.get_providers() if name in _OURS), "none")
        if real != provider:
            raise ModelError(f"{model}: asked for provider {provider}, but onnxruntime runs it on {real}")
        info = ModelInfo(
            tuple(_tensor(item, model) for item in session.get_inputs()),
            tuple(_tensor(item, model) for item in session.get_outputs()),
            dict(session.get_modelmeta().custom_metadata_map),
        )
        return OnnxSession(session, real, str(library.__version__), info)


def _session_options(library: Any, wanted: Mapping[str, Any], threads: int) -> Any:
    level = str(wanted.get("graph_optimization", "all"))
    if level not in _OPTIMIZATION:
        raise ModelError(f"there is no graph_optimization {level!r}; there are: {', '.join(_OPTIMIZATION)}")
    options = library.SessionOptions()
    options.graph_optimization_level = getattr(library.GraphOptimizationLevel, _OPTIMIZATION[level])
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(provider: str, threads: int) -> list[Any]:
    first, *others = _THEIRS[provider]
    if provider != "openvino":
        return [first, *others]
    return [(first, {"device_type": "CPU", "num_of_threads": str(threads)}), *others]


def _check_files(model: Path) -> None:
    """Raises ModelError where weights beside the model are missing, or where their names lead out of its folder."""
    folder = model.parent.resolve()
    for name in sorted(external_names(model)):
        try:
            file = (folder / name).resolve()
            inside, there = file.is_relative_to(folder), file.is_file()
        except (OSError, ValueError):
            inside, there = False, False
        if not inside:
            raise ModelError(f"{model}: its weights are to be read from {name!r}, outside of the model's folder")
        if not there:
            raise ModelError(f"{model}: the file with its weights is missing: {file}")


def _tensor(item: Any, model: Path) -> TensorInfo:
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise ModelError(
            f"{model}: {item.name} is a {item.type}; only tensors of numbers, booleans, strings can be fed"
        )
    if not item.shape:  # a scalar, or a tensor of unknown rank: the library does not tell them apart
        return TensorInfo(item.name, dtype, None)
    shape = tuple(size if isinstance(size, int) else None for size in item.shape)
    return TensorInfo(item.name, dtype, shape, tuple(size if isinstance(size, str) else "" for size in item.shape))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
