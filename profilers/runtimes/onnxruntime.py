"""ONNX Runtime: CPU, CUDA and TensorRT providers.

Threads: `intra_op = threads`, `inter_op = 1`, sequential execution, no spinning. Idle threads that spin gain
a little on an empty machine and cost everything beside another replica: two replicas of a small ResNet with
two threads each on two cores took 20 ms a call with spinning and 3 ms without (docs/measurement.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inferplan.profilers.runtimes.base import ModelError, ModelSource, Session
from inferplan.spec.errors import MissingExtraError
from inferplan.spec.stagecode import ModelInfo, TensorInfo, Tensors

# Ours -> theirs, each with those that take over the operators it cannot run.
_THEIRS = {
    "cpu": ["CPUExecutionProvider"],
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
        if provider not in _THEIRS:
            raise ModelError(f"there is no provider {provider!r}; there are: {', '.join(_THEIRS)}")
        if provider not in self.providers():
            raise ModelError(f"the installed onnxruntime has no provider {provider} (pip install 'inferplan[gpu]')")
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = library.InferenceSession(str(model), options, providers=_THEIRS[provider])
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


def _tensor(item: Any, model: Path) -> TensorInfo:
    dtype = _DTYPES.get(item.type)
    if dtype is None:
        raise ModelError(
            f"{model}: {item.name} is a {item.type}; only tensors of numbers, booleans, strings can be fed"
        )
    return TensorInfo(item.name, dtype, tuple(size if isinstance(size, int) else None for size in item.shape))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__
