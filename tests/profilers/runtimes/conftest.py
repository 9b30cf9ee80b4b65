"""Small torch modules, made and saved on the spot. Without torch, tests that ask for them are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

NETS = '''
import torch

class Net(torch.nn.Module):
    """x (batch, 4) -> two outputs by name."""
    def __init__(self, width: int = 3):
        super().__init__()
        torch.manual_seed(0)
        self.inner = torch.nn.Linear(4, width)
        self.register_buffer("shift", torch.arange(4.0))

    def forward(self, x):
        return {"y": torch.relu(self.inner(x + self.shift)), "twice": 2 * x}


class Text(torch.nn.Module):
    """Token ids and their mask (batch, length) -> mean of the embeddings; `scale` may be left out."""
    def __init__(self, words: int = 7):
        super().__init__()
        torch.manual_seed(1)
        self.table = torch.nn.Embedding(words, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor, scale: Optional[torch.Tensor] = None):
        weights = mask.unsqueeze(-1).to(torch.float32)
        mean = (self.table(ids) * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        if scale is not None:
            mean = mean * scale
        return mean, weights.sum(1)


def make_net(width=3):
    return Net(width)

def make_text(words):
    return Text(words)

def make_nothing():
    return "a net"
'''.replace("import torch\n", "from typing import Optional\n\nimport torch\n", 1)


@pytest.fixture
def nets(tmp_path: Path) -> Any:
    """The module with the nets above, also as `nets.py` in the test's folder."""
    pytest.importorskip("torch")
    from inferplan.spec.usercode import load_function

    (tmp_path / "nets.py").write_text(NETS)
    return load_function("nets:make_net", tmp_path).__globals__


@pytest.fixture
def torch(nets: Any) -> Any:
    """The library, with one thread afterwards as before."""
    import torch

    threads = torch.get_num_threads()
    yield torch
    torch.set_num_threads(threads)
