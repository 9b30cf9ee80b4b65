"""The files that travel with a pipeline: its code, the neighbours it imports, the data its params name."""

from __future__ import annotations

from pathlib import Path

import pytest

from inferplan.exporters.stage_files import stage_files
from inferplan.spec.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "code/stages.py": "import numpy, helper.deep\nfrom other import f\nimport json, cv2\nfrom scipy.io import x",
        "code/helper/__init__.py": "",
        "code/helper/deep.py": "",
        "code/other.py": "def f():\n    import late",
        "code/late.py": "import stages",
        "code/unused.py": "",
        "other.py": "raise SystemExit",
        "data/table.txt": "1",
    }
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    return tmp_path / "root"


def test_code_its_neighbours_and_named_data_are_found_without_running_anything(root: Path) -> None:
    params = [{"table": "data/table.txt", "size": 3}, {"nested": [{"name": "data/table.txt"}, "gone.txt", "data"]}]
    found = stage_files(["code/stages:Read", None, "code/stages:Other"], params, root)
    assert [path.as_posix() for path in found.files] == [
        "code/helper/__init__.py",
        "code/helper/deep.py",
        "code/late.py",
        "code/other.py",
        "code/stages.py",
        "data/table.txt",
    ]
    assert found.packages == ("cv2", "scipy")


def test_params_that_lead_out_of_the_folder_name_nothing(root: Path) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "link").symlink_to(root.parent / "secret")
    params = [{"a": "../secret", "b": str(root.parent / "secret"), "c": "link", "d": "data/../../secret", "e": "\x00"}]
    assert stage_files([], params, root).files == ()


def test_code_that_leads_out_of_the_folder_is_refused(root: Path) -> None:
    (root.parent / "evil.py").write_text("")
    (root / "linked.py").symlink_to(root.parent / "evil.py")
    with pytest.raises(InputError, match="leads out of the workload's folder"):
        stage_files(["linked:Read"], [], root)
    with pytest.raises(InputError, match="expected module:Class"):
        stage_files(["../evil:Read"], [], root)


def test_code_that_is_not_python_is_refused(root: Path) -> None:
    (root / "broken.py").write_text("class :")
    with pytest.raises(InputError, match="is not valid Python"):
        stage_files(["broken:Read"], [], root)
