"""Loading weights runs no code: files that would make torch do so are refused, and what they bring stays undone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inferplan.profilers.runtimes.base import ModelError, ModelSource
from inferplan.profilers.runtimes.registry import runtime
from inferplan.spec.usercode import load_function

Archive = dict[str, bytes]
Change = Callable[[Archive], None]


class Evil:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def load(path: Path) -> None:
    runtime("torch").load(ModelSource(path), "cpu", 1)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """What the pickles below would make."""
    return tmp_path / "made-by-a-pickle"


def rewritten(torch: Any, path: Path, change: Change) -> Path:
    """A copy of a torch archive with its records changed."""
    reader = torch._C.PyTorchFileReader(str(path))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    change(records)
    new = path.with_name("changed" + path.suffix)
    with zipfile.ZipFile(new, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"changed/{name}", content)
    return new


@pytest.fixture
def script(torch: Any, nets: Any, tmp_path: Path) -> Path:
    torch.jit.save(torch.jit.trace(nets["make_net"]().eval(), torch.ones(2, 4), strict=False), tmp_path / "net.pt")
    return tmp_path / "net.pt"


@pytest.fixture(scope="module")
def program_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = torch.nn.Parameter(torch.ones(3))

        def forward(self, x: Any, y: Any) -> Any:
            return {"z": torch.cat([x + self.shift, y], 1), "n": x.reshape(-1, 1)}

    path = tmp_path_factory.mktemp("program") / "net.pt2"
    batch = torch.export.Dim("batch", min=1)
    shapes = {"x": {0: batch}, "y": {0: batch}}
    given = (torch.ones(2, 3), torch.ones(2, 3))
    torch.export.save(torch.export.export(Twice(), given, dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def program(program_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(program_once, tmp_path))


def test_a_pickled_module_is_refused(torch: Any, trap: Path, tmp_path: Path) -> None:
    torch.save(Evil(trap), tmp_path / "module.pt")
    torch.save(Evil(trap), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Evil(trap)))
    for name in ("module.pt", "old.pt", "plain.pt"):
        with pytest.raises(ModelError, match=r"may run any code when it is loaded; save it with torch.jit.save"):
            load(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize("old", [False, True])
def test_a_pickle_in_place_of_weights_is_refused(torch: Any, trap: Path, tmp_path: Path, old: bool) -> None:
    torch.save({"inner.weight": Evil(trap)}, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"no state dict of plain tensors.*would run code"):
        runtime("torch").load(ModelSource(tmp_path / "w.pth", "nets:make_net", tmp_path), "cpu", 1)
    assert not trap.exists()


def test_what_is_no_model_is_refused(torch: Any, script: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "cut.pt").write_bytes(script.read_bytes()[:1000])
    for name in ("text.pt", "empty.pt", "cut.pt"):
        with pytest.raises(ModelError, match="neither a TorchScript file nor an exported program, or a damaged one"):
            load(tmp_path / name)
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "absent.pt")


@pytest.mark.parametrize("record", ["data.pkl", "constants.pkl"])
def test_a_torchscript_file_with_a_pickle_of_python_is_refused(
    torch: Any, script: Path, trap: Path, record: str
) -> None:
    for protocol in (2, 4):  # their globals are written differently
        evil = rewritten(torch, script, lambda all_: all_.update({record: pickle.dumps(Evil(trap), protocol)}))  # noqa: B023
        with pytest.raises(ModelError, match=rf"its {record} refers to"):
            load(evil)
    assert not trap.exists()


def test_torchs_own_reader_of_torchscript_imports_nothing(torch: Any, script: Path, trap: Path) -> None:
    """What the check rests on: without it, the pickle is not run either."""
    evil = rewritten(torch, script, lambda records: records.update({"data.pkl": pickle.dumps(Evil(trap), 2)}))
    with pytest.raises(RuntimeError):
        torch.jit.load(str(evil))
    assert not trap.exists()


def test_a_torchscript_program_that_opens_files_is_refused(torch: Any, tmp_path: Path) -> None:
    bodies = {"save": "torch.save(x, 'f')", "from_file": "x = x + torch.from_file('f', True, 4)"}
    for name, body in bodies.items():
        (tmp_path / f"opens_by_{name}.py").write_text(
            "import torch\n"
            "class Opens(torch.nn.Module):\n"
            "    def forward(self, x):\n"
            f"        {body}\n"
            "        return x\n"
        )
        module = load_function(f"opens_by_{name}:Opens", tmp_path)()
        torch.jit.save(torch.jit.script(module), tmp_path / f"{name}.pt")
        with pytest.raises(ModelError, match=f"uses '{name}', which opens files by name"):
            load(tmp_path / f"{name}.pt")


def test_plain_programs_pass(torch: Any, script: Path, program: Path) -> None:
    load(script)
    load(program)
    load(rewritten(torch, program, lambda records: None))


def edit(record: str, change: Callable[[Any], None]) -> Change:
    """A change to the JSON of a record."""

    def apply(records: Archive) -> None:
        data = json.loads(records[record])
        change(data)
        records[record] = json.dumps(data).encode()

    return apply


def graph(change: Callable[[Any], None]) -> Change:
    return edit("models/model.json", lambda data: change(data["graph_module"]["graph"]))


def evil_pickle(torch: Any, trap: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(({"x": Evil(trap)}, {}), buffer)
    return buffer.getvalue()


def swap(records: Archive, old: bytes, new: bytes) -> None:
    content = records["models/model.json"]
    assert old in content
    records["models/model.json"] = content.replace(old, new)


def test_example_inputs_that_are_a_pickle_of_python_are_refused(torch: Any, program: Path, trap: Path) -> None:
    def change(records: Archive) -> None:
        records["data/sample_inputs/model.pt"] = evil_pickle(torch, trap)

    evil = rewritten(torch, program, change)
    with pytest.raises(ModelError, match=r"sample_inputs/model.pt holds more than tensors"):
        load(evil)
    assert not trap.exists()
    # Were it not refused, torch would run it.
    with contextlib.suppress(Exception):
        torch.export.load(str(evil))
    assert trap.exists()


def test_weights_that_are_a_pickle_are_refused(torch: Any, program: Path, trap: Path) -> None:
    record = "data/weights/model_weights_config.json"

    def pickled(data: Any) -> None:
        for payload in data["config"].values():
            payload["use_pickle"] = True

    def change(records: Archive) -> None:
        edit(record, pickled)(records)
        records["data/weights/weight_0"] = evil_pickle(torch, trap)

    with pytest.raises(ModelError, match="is a pickle of a Python object"):
        load(rewritten(torch, program, change))
    legacy = rewritten(torch, program, lambda r: r.update({"data/weights/model.pt": evil_pickle(torch, trap)}))
    with pytest.raises(ModelError, match="holds more than tensors"):
        load(legacy)
    assert not trap.exists()


@pytest.mark.parametrize(
    "name", ["data/aotinductor/model/x.so", "data/constants/opaque_obj_0", "data/constants/custom_obj_0", "code/x.py"]
)
def test_compiled_code_and_objects_are_refused(torch: Any, program: Path, name: str) -> None:
    with pytest.raises(ModelError, match="compiled code and Python objects are not loaded"):
        load(rewritten(torch, program, lambda records: records.update({name: b"x"})))


@pytest.mark.parametrize(
    "target",
    ["torch.os.system", "torch.hub.load", "_operator.attrgetter", "math.__loader__.load_module",
     "torch.ops.aten.from_file.default", "torch.ops.aten.save.default", "torch.ops.higher_order.print", "#x",
     "torch.ops.aten.__init__.__globals__", "torch.ops.load_library"],
)  # fmt: skip
def test_calls_of_anything_but_operators_are_refused(torch: Any, program: Path, target: str) -> None:
    def change(data: Any) -> None:
        data["nodes"][0]["target"] = target

    with pytest.raises(ModelError, match="its operator"):
        load(rewritten(torch, program, graph(change)))


@pytest.mark.parametrize(
    "expression",
    ["__import__('os').mkdir('{}')", "Symbol('s0').func.__globals__", "exec('1')", "[i for i in (1,)]",
     "Symbol('s 0')", "("],
)  # fmt: skip
def test_expressions_that_are_more_than_sizes_are_refused(
    torch: Any, program: Path, trap: Path, expression: str
) -> None:
    def change(data: Any) -> None:
        data["tensor_values"]["x"]["sizes"][0] = {"as_expr": {"expr_str": expression.format(trap), "hint": None}}

    with pytest.raises(ModelError, match="its expression"):
        load(rewritten(torch, program, graph(change)))
    assert not trap.exists()


@pytest.mark.parametrize("guard", ["__import__('os')", "L['x'].__class__", "L.size()['a b']", "L['x'].size(exec('1'))"])
def test_guards_that_are_more_than_comparisons_are_refused(torch: Any, program: Path, guard: str) -> None:
    def change(data: Any) -> None:
        assert data["guards_code"] == ["L['y'].size()[0] == L['x'].size()[0]"]
        data["guards_code"] = [guard]

    with pytest.raises(ModelError, match="its expression"):
        load(rewritten(torch, program, edit("models/model.json", change)))


def test_names_that_could_become_code_are_refused(torch: Any, program: Path) -> None:
    evil = rewritten(torch, program, lambda records: swap(records, b'"x"', b'"x=exec(1)\\n#"'))
    with pytest.raises(ModelError, match="its name"):
        load(evil)


def test_structures_of_classes_are_refused(torch: Any, program: Path) -> None:
    evil = rewritten(torch, program, lambda records: swap(records, b"builtins.dict", b"collections.defaultdict"))
    with pytest.raises(ModelError, match=r"are a collections.defaultdict; export it with tensors in tuples"):
        load(evil)


def test_damaged_json_is_refused(torch: Any, program: Path) -> None:
    with pytest.raises(ModelError, match="is no JSON"):
        load(rewritten(torch, program, lambda records: records.update({"models/model.json": b"{"})))
