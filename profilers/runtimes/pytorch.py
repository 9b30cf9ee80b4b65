"""PyTorch: TorchScript files, exported programs, and modules that a factory makes; on CPU and CUDA.

| `model` | `factory` | what is run |
|---|---|---|
| written by `torch.jit.save` | | the TorchScript program |
| written by `torch.export.save` | | the exported program |
| safetensors, or a state dict | `module:function` | the module that the function makes, with these weights |
| | `module:function` | the module that the function makes |

The function is called with those of the variant's `params` that its signature names (all of them where it takes
`**kwargs`). Weights never run code: see `torch_archives`.

Inputs are named as `forward` names its arguments; those with a default may be left out. What a program does not
say of its inputs (TorchScript and modules: type and shape) has the type "" and the shape None. A tensor that is
given back is called `output_0`; those of a tuple or list `output_0`, `output_1`, ...; those of a dict have its
keys; further levels are joined by `_`. bfloat16, which numpy lacks, comes back as float32.

Threads: `torch.set_num_threads(threads)`, one thread between operators, inference mode, and OpenMP threads that
sleep while they wait (`OMP_WAIT_POLICY=PASSIVE`, unless it is set): a linear layer on two threads, called every few
milliseconds on two busy cores, took 2.4 ms of CPU time a call and 4.5 ms (p50) so, 9 and 18 ms with spinning.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inferplan.profilers.runtimes.base import ModelError, ModelSource, Session
from inferplan.profilers.runtimes.torch_archives import checked_kind
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.stagecode import ModelInfo, TensorInfo, Tensors
from inferplan.spec.usercode import load_function

PROVIDERS = ("cpu", "cuda")
_OLDEST = (2, 6)
"""Before it, `weights_only=True` could be got round (CVE-2025-32434)."""


def _library() -> Any:
    # Threads that spin while they wait would take the cores of other replicas; OpenMP reads this when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Not an import statement: type checkers would read all of torch for what is of type Any here.
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise MissingExtraError("torch", "running torch models") from error
    if tuple(int(part) for part in str(torch.__version__).split(".")[:2]) < _OLDEST:
        raise InputError(
            f"torch {torch.__version__} may run code from weights: {'.'.join(map(str, _OLDEST))} or newer is needed"
        )
    return torch


@dataclass(frozen=True, slots=True)
class Program:
    """Something to call with tensors by name, and what it says of itself."""

    call: Callable[[Mapping[str, Any]], Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...] = ()
    any_name: bool = False
    module: Any = None
    """The torch.nn.Module that `call` runs."""


class TorchSession:
    """A model loaded by torch."""

    def __init__(self, torch: Any, program: Program, provider: str, autocast: str) -> None:
        self.info = ModelInfo(program.inputs, program.outputs)
        self.provider = provider
        self.version = str(torch.__version__)
        self._torch = torch
        self._program: Program | None = program
        self._autocast = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(autocast)
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) if tensor.dtype else None for tensor in program.inputs}
        self._needed = {tensor.name for tensor in program.inputs if not tensor.optional}

    def run(self, inputs: Tensors) -> Tensors:
        """One call of the model. Raises ModelError where names or types are not the model's."""
        program, torch = self.program, self._torch
        if inputs.keys() != self._needed:
            self._check_names(inputs.keys(), program.any_name)
        with torch.inference_mode(), self._precision():
            result = program.call({name: self._tensor(name, array) for name, array in inputs.items()})
            return {name: self._array(tensor) for name, tensor in flattened(torch, result)}

    @property
    def program(self) -> Program:
        """What is run, for those who export it."""
        if self._program is None:
            raise RuntimeError("the session is closed")
        return self._program

    def close(self) -> None:
        """Free the model's memory."""
        self._program = None
        if self.provider == "cuda":
            self._torch.cuda.empty_cache()

    def _precision(self) -> Any:
        if self._autocast is None:
            return contextlib.nullcontext()
        return self._torch.autocast(self.provider, self._autocast)

    def _check_names(self, given: Set[str], any_name: bool) -> None:
        missing = sorted(self._needed - given)
        unknown = [] if any_name else sorted(given - self._dtypes.keys())
        problems = [f"needs {name}" for name in missing] + [f"has no input {name}" for name in unknown]
        if problems:
            raise ModelError(f"the model {', '.join(problems)}; its inputs: {', '.join(self._dtypes)}")

    def _tensor(self, name: str, array: NDArray[Any]) -> Any:
        wanted = self._dtypes.get(name)
        if wanted is not None and array.dtype != wanted:
            raise ModelError(f"input {name} is {array.dtype}; the model takes {wanted}")
        # Torch neither takes arrays that may not be written nor ones that go backwards.
        ready = array if array.flags.writeable and array.flags.c_contiguous else np.array(array, order="C")
        try:
            tensor = self._torch.from_numpy(ready)
        except TypeError as error:
            raise ModelError(f"input {name}: torch takes no arrays of {array.dtype}") from error
        return tensor if self.provider == "cpu" else tensor.to(self.provider)

    def _array(self, tensor: Any) -> NDArray[Any]:
        plain = tensor.float() if tensor.dtype is self._torch.bfloat16 else tensor
        array: NDArray[Any] = plain.cpu().numpy()
        return array


def flattened(torch: Any, result: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The tensors that a program gave back, by the names of outputs. Raises ModelError for anything else."""
    if isinstance(result, torch.Tensor):
        yield name or "output_0", result
    elif isinstance(result, Mapping):
        for key, part in result.items():
            yield from flattened(torch, part, f"{name}_{key}" if name else str(key))
    elif isinstance(result, (tuple, list)):
        for index, part in enumerate(result):
            yield from flattened(torch, part, f"{name or 'output'}_{index}")
    elif result is not None:
        raise ModelError(f"the model gives back {name or 'a value'} of type {type(result).__name__}, not a tensor")


class TorchRuntime:
    """Loads what torch runs."""

    name = "torch"

    def version(self) -> str:
        """Version of the installed torch, with its build: `2.13.0+cpu`."""
        return str(_library().__version__)

    def providers(self) -> tuple[str, ...]:
        """`cuda` only where torch finds a device it can use."""
        return PROVIDERS if _library().cuda.is_available() else PROVIDERS[:1]

    def load(self, source: ModelSource, provider: str, threads: int) -> Session:
        """Load a program, or make a module and load its weights. Raises ModelError, InputError (factory)."""
        torch = _library()
        if provider not in PROVIDERS:
            raise ModelError(f"runtime torch has no provider {provider!r}; it has: {', '.join(PROVIDERS)}")
        if provider == "cuda" and not torch.cuda.is_available():
            raise ModelError("torch finds no CUDA device here that it can use")
        set_threads(torch, threads)
        compiled = bool(source.options.get("compile", False))
        if compiled:
            _prepare_compiler(torch, provider)
        loader = _Loader(torch, provider, compiled)
        if source.factory is not None:
            program = loader.module(source)
        elif source.file is not None:
            program = loader.file(source.file)
        else:
            raise ModelError("runtime torch needs a model file or a factory")
        return TorchSession(torch, program, provider, str(source.options.get("autocast", "none")))


def set_threads(torch: Any, threads: int) -> None:
    """`threads` inside one operator, one between operators. The first load in a process fixes the latter."""
    torch.set_num_threads(threads)
    if torch.get_num_interop_threads() != 1:
        with contextlib.suppress(RuntimeError):  # too late: operators have run side by side already
            torch.set_num_interop_threads(1)


def _prepare_compiler(torch: Any, provider: str) -> None:
    compiler = os.environ.get("CXX") or "g++"
    if provider == "cpu" and shutil.which(compiler) is None:
        raise ModelError(f"options.compile needs a C++ compiler: {compiler} is not installed")
    # Its own pool of processes would outlive the compilation and count as this model's memory.
    settings: Any = importlib.import_module("torch._inductor.config")
    settings.compile_threads = 1


class _Loader:
    """Makes programs on one provider."""

    def __init__(self, torch: Any, provider: str, compiled: bool) -> None:
        self._torch = torch
        self._device = provider
        self._compiled = compiled

    def file(self, path: Path) -> Program:
        """A TorchScript file or an exported program."""
        exported = checked_kind(self._torch, path) == "exported"
        if self._compiled and not exported:
            raise ModelError(
                f"{path}: torch.compile takes no TorchScript; export it with torch.export, or use a factory"
            )
        try:
            return self._exported(path) if exported else self._script(path)
        except InputError:
            raise
        except Exception as error:
            raise ModelError(f"{path}: torch cannot load it: {_first_line(error)}") from error

    def _script(self, path: Path) -> Program:
        module = self._torch.jit.load(str(path), map_location=self._device).eval()
        return _script_program(module, str(path))

    def _exported(self, path: Path) -> Program:
        try:
            archives = importlib.import_module("torch.export.pt2_archive")
        except ImportError as error:
            raise ModelError(f"{path}: torch {self._torch.__version__} is too old for exported programs") from error
        programs = archives._package.load_pt2(str(path)).exported_programs
        if len(programs) != 1:
            raise ModelError(f"{path}: it holds {len(programs)} exported programs; one is needed")
        program = next(iter(programs.values()))
        if self._device != "cpu":
            program = importlib.import_module("torch.export.passes").move_to_device_pass(program, self._device)
        module = program.module()
        inputs, bind = _exported_inputs(program, path)
        run = self._ready(module)

        def call(tensors: Mapping[str, Any]) -> Any:
            positional, named = bind(tensors)
            return run(*positional, **named)

        return Program(call, inputs, _exported_outputs(program), module=module)

    def module(self, source: ModelSource) -> Program:
        """What the factory makes, with the weights of the file where there is one."""
        reference = str(source.factory)
        owner = f"factory {reference}"
        function = load_function(reference, source.root)
        module = function(**_arguments(function, source.params, owner))
        if not isinstance(module, self._torch.nn.Module):
            raise ModelError(f"{owner}: it gives back a {type(module).__name__}, not a torch.nn.Module")
        if source.file is not None:
            self._load_weights(module, source.file)
        module = module.eval().requires_grad_(False).to(self._device)
        if isinstance(module, self._torch.jit.ScriptModule):
            if self._compiled:
                raise ModelError(f"{owner}: torch.compile takes no TorchScript")
            return _script_program(module, owner)
        inputs, any_name = _eager_inputs(module, owner)
        run = self._ready(module)
        return Program(lambda tensors: run(**tensors), inputs, (), any_name, module)

    def _ready(self, module: Any) -> Callable[..., Any]:
        ready: Callable[..., Any] = self._torch.compile(module) if self._compiled else module
        return ready

    def _load_weights(self, module: Any, path: Path) -> None:
        if not path.is_file():
            raise ModelError(f"{path}: there is no such file")
        try:
            if path.suffix == ".safetensors":
                _safetensors().load_model(module, str(path), strict=True, device="cpu")
            else:
                module.load_state_dict(self._state_dict(path), strict=True)
        except InputError:
            raise
        except Exception as error:
            raise ModelError(f"{path}: its weights do not fit the factory's module: {_lines(error)}") from error

    def _state_dict(self, path: Path) -> Mapping[str, Any]:
        torch = self._torch
        try:
            found = torch.load(str(path), map_location="cpu", weights_only=True)
        except Exception as error:
            raise ModelError(
                f"{path}: no state dict of plain tensors, or a damaged one (torch.load with weights_only=True:"
                f" {_first_line(error)}); loading anything else would run code that it brings"
            ) from error
        if isinstance(found, Mapping) and set(found) == {"state_dict"}:
            found = found["state_dict"]
        if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
            raise ModelError(f"{path}: it is no state dict (tensors by name)")
        return found


def _safetensors() -> Any:
    try:
        return importlib.import_module("safetensors.torch")
    except ImportError as error:
        raise MissingExtraError("torch", "loading safetensors") from error


def _arguments(function: Callable[..., Any], params: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Those params that the factory's signature names; all of them where it takes `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(params)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    missing = [p.name for p in named if p.default is p.empty and p.name not in params]
    if missing:
        raise ModelError(f"{owner}: it needs {', '.join(missing)}; give them in the variant's 'params'")
    return {p.name: params[p.name] for p in named if p.name in params}


def _script_program(module: Any, owner: str) -> Program:
    inputs = []
    for argument in module.forward.schema.arguments[1:]:
        optional = argument.has_default_value()
        if str(argument.type) in ("Tensor", "Optional[Tensor]"):
            inputs.append(TensorInfo(argument.name, "", None, optional=optional))
        elif not optional:
            raise ModelError(f"{owner}: its input {argument.name} is a {argument.type}; only tensors can be fed")
    return Program(lambda tensors: module(**tensors), tuple(inputs), module=module)


def _eager_inputs(module: Any, owner: str) -> tuple[tuple[TensorInfo, ...], bool]:
    """Arguments of `forward`, and whether it takes any other name, too."""
    parameters = inspect.signature(module.forward).parameters.values()
    inputs = tuple(
        TensorInfo(p.name, "", None, optional=p.default is not p.empty)
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    )
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not inputs and not any_name:
        raise ModelError(f"{owner}: the forward of its module names no inputs")
    return inputs, any_name


Bind = Callable[[Mapping[str, Any]], tuple[Sequence[Any], Mapping[str, Any]]]


def _exported_inputs(program: Any, path: Path) -> tuple[tuple[TensorInfo, ...], Bind]:
    """The tensors an exported program takes, and how they become its arguments (constants are filled in)."""
    positional, named = program.call_spec.in_spec.children()
    if any(not child.is_leaf() for child in (*positional.children(), *named.children())):
        raise ModelError(f"{path}: it takes lists or dicts of tensors; export a module whose inputs are tensors")
    specs = [spec.arg for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    given = program.module_call_graph[0].signature.forward_arg_names
    count = positional.num_children
    names = list(given) if given and len(given) == len(specs) else [spec.name for spec in specs]
    names[count:] = [str(key) for key in named.context]
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    constants = {name: spec.value for name, spec in zip(names, specs, strict=True) if hasattr(spec, "value")}
    inputs = tuple(
        _fake_tensor(name, values[spec.name]) for name, spec in zip(names, specs, strict=True) if name not in constants
    )

    def bind(tensors: Mapping[str, Any]) -> tuple[Sequence[Any], Mapping[str, Any]]:
        pick = {**constants, **tensors}
        return [pick[name] for name in names[:count]], {name: pick[name] for name in names[count:]}

    return inputs, bind


def _exported_outputs(program: Any) -> tuple[TensorInfo, ...]:
    """Outputs of a program that gives back a tensor, or a flat tuple, list or dict; else none are known yet."""
    specs = [spec.arg for spec in program.graph_signature.output_specs if spec.kind.name == "USER_OUTPUT"]
    tree = program.call_spec.out_spec
    if tree.is_leaf():
        names = ["output_0"]
    elif all(child.is_leaf() for child in tree.children()):
        keys = tree.context if isinstance(tree.context, list) else None
        names = [str(key) for key in keys] if keys else [f"output_{index}" for index in range(tree.num_children)]
    else:
        return ()
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    if len(names) != len(specs) or any(not hasattr(values.get(spec.name), "shape") for spec in specs):
        return ()
    return tuple(_fake_tensor(name, values[spec.name]) for name, spec in zip(names, specs, strict=True))


def _fake_tensor(name: str, value: Any) -> TensorInfo:
    """What tracing knows of a tensor: free dimensions have the name of their symbol."""
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    names = tuple("" if isinstance(size, int) else str(size) for size in value.shape)
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorInfo(name, "float32" if dtype == "bfloat16" else dtype, shape, names)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__


def _lines(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
