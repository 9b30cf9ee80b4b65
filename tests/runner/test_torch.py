"""A replica runs a torch variant as the profiler does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inferplan.runner.verify import run_plan
from inferplan.spec.document import load_workload
from inferplan.spec.plan import LoadedPlan

SCRIPTED = """
import torch
from typing import Dict

class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Dict[str, torch.Tensor]:
        return {"y": 2 * x}

torch.jit.save(torch.jit.script(Double()), "double.pt")
"""


def test_a_torchscript_variant_is_served(deploy: Callable[..., LoadedPlan]) -> None:
    pytest.importorskip("torch")
    import subprocess
    import sys

    deployed = deploy("scale", rate_rps=40, slo_s=5)
    folder = deployed.path.parent
    # In a process of its own: torch is large, and no other test needs it in this one.
    (folder / "make.py").write_text(SCRIPTED)
    subprocess.run([sys.executable, "make.py"], cwd=folder, check=True)
    path = folder / "workload.yaml"
    path.write_text(path.read_text().replace("{model: double.onnx}", "{runtime: torch, model: double.pt}"))
    options = {name: option.model_copy(update={"runtime": "torch"}) for name, option in deployed.plan.options.items()}
    loaded = LoadedPlan(deployed.plan.model_copy(update={"options": options}), deployed.path, load_workload(path))
    report = run_plan(loaded, 2.0, seed=1, warmup_s=0.5, oversubscribe=True, start_limit_s=120)
    accuracy = report.classes["web"].accuracy
    assert accuracy is not None
    assert accuracy.compared.measured.value == 1.0
    assert report.options["double-only"].crashes == []
