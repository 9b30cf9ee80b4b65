"""What is inside a torch file, looked at before torch loads it: untrusted weights must run no code.

Four kinds of files are told apart. What torch 2.13 would do with each, and what is done about it here:

- **TorchScript** (`torch.jit.save`): the pickles inside are read by torch's own unpickler in C++, which imports
  nothing of Python. The program itself is code, but it can only call torch's operators; of these the ones that
  open files by name (`aten::save`, `aten::from_file`) are refused, and so are pickles with globals that no
  TorchScript file has.
- **exported programs** (`torch.export.save`): `torch.export.load` is unsafe. It falls back to full unpickling of
  example inputs and of weights marked `use_pickle`, evaluates shape expressions with `sympy.sympify`, resolves
  node targets to any callable below `torch` (`torch.os.system`), writes names into generated Python, imports
  modules that tree specifications name, and opens shared libraries that lie in the archive. Only archives
  without any of that pass `check_exported`.
- **state dicts** (`torch.save(module.state_dict())`): read with `weights_only=True`, and only as the weights of
  a `factory`.
- anything else that `torch.save` wrote is a pickle of Python objects, and refused.

The archive is read with torch's own reader, so that what is checked is what is loaded.
"""

from __future__ import annotations

import ast
import io
import json
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NoReturn

from inferplan.profilers.runtimes.base import ModelError

Kind = Literal["torchscript", "exported"]

_INSTEAD = (
    "save it with torch.jit.save or torch.export.save, or its weights as safetensors"
    " and give the variant a 'factory' that makes the module"
)
_FILE_OPERATORS = ("save", "from_file", "load_tensor")
_WORDS = re.compile(r"\b(" + "|".join(_FILE_OPERATORS) + r")\b")
# Names that torch's C++ unpickler knows by itself, and the types of the program.
_SCRIPT_GLOBALS = re.compile(
    r"__torch__(\..*)?|torch|torch\._utils|torch\.jit\._pickle|torch\.distributed\.rpc|collections"
)
_RECORDS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/(version|serialization_id)"
    r"|\.format_version|\.storage_alignment|models/[\w.-]+\.json|extra/.*"
    r"|data/weights/(weight_\d+|[\w.-]+_weights_config\.json|[\w.-]+\.pt)"
    r"|data/constants/(tensor_\d+|[\w.-]+_constants_config\.json|[\w.-]+\.pt)"
    r"|data/sample_inputs/[\w.-]+\.pt"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")
_PLAIN = re.compile(r"[A-Za-z0-9_.+\-\[\]]*")
_SYMBOL = re.compile(r"[a-zA-Z]{1,2}\d+")
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", None)
_SCALAR_OPERATORS = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|xor|lshift|rshift"
    r"|getitem)|math\.(ceil|floor|trunc|sqrt|log2|exp|sin|cos|tan|tanh|prod)|torch\._?sym_\w+"
)
_HIGHER_ORDER = (
    "associative_scan", "cond", "flex_attention", "invoke_subgraph", "map_impl", "scan", "while_loop",
    "wrap_with_autocast", "wrap_with_set_grad_enabled",
)  # fmt: skip
_FUNCTIONS = frozenset((
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "floor", "ceiling", "Abs", "Eq", "Ne",
    "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv",
    "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv",
    "IsNonOverlappingAndDenseIndicator", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat",
    "Identity",
))  # fmt: skip
_EXPRESSION_NODES = (
    ast.Expression, ast.Call, ast.Name, ast.Load, ast.Constant, ast.keyword, ast.UnaryOp, ast.BinOp, ast.BoolOp,
    ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
)  # fmt: skip


def checked_kind(torch: Any, path: Path) -> Kind:
    """What kind of program a file holds, once it is known that loading it runs no code but the program's own.

    Raises ModelError where it is none, or where loading it would.
    """
    reader = _reader(torch, path)
    names = reader.get_all_records()
    if "archive_format" in names and reader.get_record("archive_format") == b"pt2":
        check_exported(torch, reader, path)
        return "exported"
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        check_torchscript(reader, path)
        return "torchscript"
    if "data.pkl" in names:
        raise ModelError(f"{path}: a pickle made by torch.save, which may run any code when it is loaded; {_INSTEAD}")
    raise ModelError(f"{path}: neither a TorchScript file nor an exported program; {_INSTEAD}")


def _reader(torch: Any, path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    try:
        return torch._C.PyTorchFileReader(str(path))
    except RuntimeError as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80" and start[1:] <= b"\x05":
            what = "a pickle, which may run any code when it is loaded"
        else:
            what = "neither a TorchScript file nor an exported program, or a damaged one"
        raise ModelError(f"{path}: {what}; {_INSTEAD}") from error


def check_torchscript(reader: Any, path: Path) -> None:
    """Raises ModelError where a TorchScript archive holds what none needs: foreign globals, file operators."""
    for name in reader.get_all_records():
        if name.endswith(".pkl"):
            foreign = sorted(item for item in _globals(reader.get_record(name)) if not _known(item))
            if foreign:
                raise ModelError(f"{path}: its {name} refers to {', '.join(foreign)}, which no TorchScript file needs")
        if name.endswith(".py"):
            found = _WORDS.search(reader.get_record(name).decode(errors="replace"))
            if found:
                raise ModelError(f"{path}: its program uses '{found[0]}', which opens files by name")


def _known(item: str) -> bool:
    return _SCRIPT_GLOBALS.fullmatch(item.split(" ")[0]) is not None


def _globals(content: bytes) -> Iterator[str]:
    """`module name` of everything that a pickle would import; `?` where that is worked out while it is read."""
    try:
        for code, argument, _ in pickletools.genops(content):
            if code.name in ("GLOBAL", "INST"):
                yield str(argument)
            elif code.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
                yield "?"
    except Exception:  # torch's own unpickler has the last word on what is no pickle
        return


def check_exported(torch: Any, reader: Any, path: Path) -> None:
    """Raises ModelError where an exported program's archive holds anything that loading or calling would run."""
    names = reader.get_all_records()
    for name in names:
        if _RECORDS.fullmatch(name) is None:
            raise ModelError(f"{path}: it holds {name}: compiled code and Python objects are not loaded")
    for name in names:
        if name.endswith("_config.json"):
            _check_payloads(_json(reader, name, path), name, path)
        elif name.startswith("models/"):
            check = _ProgramCheck(torch, path)
            check.value(_json(reader, name, path))
        elif name.endswith(".pt"):
            _check_plain_pickle(torch, reader.get_record(name), name, path)


def _json(reader: Any, name: str, path: Path) -> Any:
    try:
        return json.loads(reader.get_record(name))
    except ValueError as error:
        raise ModelError(f"{path}: its {name} is no JSON") from error


def _check_payloads(config: Any, name: str, path: Path) -> None:
    for weight, payload in config.get("config", {}).items():
        if payload.get("use_pickle") or _PAYLOAD.fullmatch(str(payload.get("path_name"))) is None:
            raise ModelError(f"{path}: {weight} in its {name} is a pickle of a Python object; only plain tensors load")


def _check_plain_pickle(torch: Any, content: bytes, name: str, path: Path) -> None:
    """Tensors and plain containers alone: then torch's fall-back to full unpickling is never reached."""
    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:
        raise ModelError(f"{path}: its {name} holds more than tensors: loading it would unpickle code") from error


class _ProgramCheck:
    """Walks the JSON of an exported program."""

    def __init__(self, torch: Any, path: Path) -> None:
        self._torch = torch
        self._path = path

    def value(self, value: Any, key: str = "") -> None:
        """Check a value that stands under `key`."""
        if isinstance(value, dict):
            for name, inner in value.items():
                self._text(name)
                if name == "metadata" and "target" in value:
                    continue  # notes of a node: kept as texts, never evaluated
                self.value(inner, name)
        elif isinstance(value, list):
            for inner in value:
                self.value(inner, key)
        elif isinstance(value, str):
            self._named(key, value)

    def _named(self, key: str, text: str) -> None:
        if key == "expr_str":
            self._expression(text)
        elif key == "guards_code":
            self._expression(text, guard=True)
        elif key in ("target", "as_operator"):
            self._operator(text)
        elif key in ("in_spec", "out_spec"):
            self._tree(text)
        elif key not in ("as_string", "as_strings"):  # constants, written into the program as quoted literals
            self._text(text)

    def _text(self, text: str) -> None:
        if _PLAIN.fullmatch(text) is None:
            self._refuse("name", text)

    def _operator(self, target: str) -> None:
        if _SCALAR_OPERATORS.fullmatch(target):
            return
        parts = target.split(".")
        fits = len(parts) == 5 and parts[:2] == ["torch", "ops"] and all(part.isidentifier() for part in parts)
        if fits and parts[3] not in _FILE_OPERATORS:
            operators = getattr(getattr(self._torch.ops, parts[2]), parts[3], None)
            # An operator of a library that is not installed resolves to nothing; loading it then says so.
            if operators is None or isinstance(getattr(operators, parts[4], None), self._torch._ops.OpOverload):
                return
        if len(parts) == 4 and parts[:3] == ["torch", "ops", "higher_order"] and parts[3] in _HIGHER_ORDER:
            return
        self._refuse("operator", target)

    def _expression(self, text: str, guard: bool = False) -> None:
        """A shape expression: numbers, symbols, and functions of them (sympy would evaluate anything); or a guard:
        a comparison of what `L['input'].size()[0]` and the like give (torch makes a Python function of it)."""
        try:
            nodes = list(ast.walk(ast.parse(text, mode="eval")))
        except (SyntaxError, ValueError, RecursionError):
            self._refuse("expression", text)
        for node in nodes:
            if not (_plain_node(node) or (guard and _guard_node(node))):
                self._refuse("expression", text)

    def _tree(self, text: str) -> None:
        """The structure of inputs or outputs. Classes other than plain containers would be imported."""
        if not text:
            return
        try:
            _, tree = json.loads(text)
            waiting = [tree]
            while waiting:
                node = waiting.pop()
                if node["type"] not in _CONTAINERS:
                    raise ModelError(
                        f"{self._path}: its inputs or outputs are a {node['type']};"
                        " export it with tensors in tuples, lists or dicts"
                    )
                if node["context"] is not None:
                    self.value(json.loads(node["context"]))
                waiting += node["children_spec"]
        except (ValueError, KeyError, TypeError):
            self._refuse("structure", text)

    def _refuse(self, what: str, text: str) -> NoReturn:
        raise ModelError(f"{self._path}: its {what} {text[:100]!r} is none that a plain exported program has")


def _plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS
    if isinstance(node, ast.Name):
        return node.id in _FUNCTIONS or _SYMBOL.fullmatch(node.id) is not None
    if isinstance(node, ast.Constant):
        return not isinstance(node.value, str) or _SYMBOL.fullmatch(node.value) is not None
    return isinstance(node, _EXPRESSION_NODES)


def _guard_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute) and not node.args and not node.keywords
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "stride", "storage_offset")
    if isinstance(node, ast.Name):
        return node.id == "L"
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and node.value.isidentifier()
    return isinstance(node, ast.Subscript)
