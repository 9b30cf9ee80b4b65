"""Which providers each runtime is measured with."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from inferplan.profilers.provision import (
    installed_versions,
    providers,
    require_runtimes,
    thread_counts,
    used_runtimes,
)
from inferplan.spec.document import LoadedWorkload
from inferplan.spec.errors import InputError, MissingExtraError
from inferplan.spec.workload import ProfileSettings

MakeWorkload = Callable[..., LoadedWorkload]
HERE = {"onnxruntime": ["cpu", "openvino", "cuda", "tensorrt"], "torch": ["cpu", "cuda"]}
MIXED = {
    "o": {"model": "double.onnx"},
    "t": {"model": "double.onnx", "runtime": "torch"},
    "n": {"runtime": "skip"},
}


def workload(make_workload: MakeWorkload, kind: str, names: list[str], variants: Any = None) -> LoadedWorkload:
    box = {"price_usd_per_h": 1.0, "cores": 4, "kind": kind}
    return make_workload(variants or MIXED, profile={"providers": names}, tiers={"edge": {"devices": {"box": box}}})


@pytest.mark.parametrize(
    ("kind", "listed", "expected", "notes"),
    [
        ("cpu", [], {"onnxruntime": ("cpu",), "torch": ("cpu",), "skip": ("cpu",)}, 0),
        ("cpu", ["openvino", "cpu"], {"onnxruntime": ("cpu", "openvino"), "torch": ("cpu",), "skip": ("cpu",)}, 1),
        ("gpu", [], {"onnxruntime": ("cuda", "tensorrt"), "torch": ("cuda",), "skip": ("cuda",)}, 0),
        ("gpu", ["cuda", "cpu"], {"onnxruntime": ("cuda",), "torch": ("cuda",), "skip": ("cuda",)}, 1),
    ],
)
def test_each_runtime_has_its_own(
    make_workload: MakeWorkload, kind: str, listed: list[str], expected: dict[str, tuple[str, ...]], notes: int
) -> None:
    found = providers(workload(make_workload, kind, listed).workload, "edge/box", lambda runtime: HERE[runtime])
    assert found.by_runtime == expected
    assert len(found.notes) == notes
    assert found.common == expected["skip"][0]


def test_a_runtime_without_any_is_an_error(make_workload: MakeWorkload) -> None:
    loaded = workload(make_workload, "cpu", ["openvino"])
    with pytest.raises(InputError, match="runtime torch has none of the providers openvino"):
        providers(loaded.workload, "edge/box", lambda runtime: HERE[runtime])
    only = workload(make_workload, "cpu", ["openvino"], {"o": MIXED["o"]})
    assert providers(only.workload, "edge/box", lambda runtime: HERE[runtime]).common == "openvino"


def test_the_runtimes_in_use(make_workload: MakeWorkload, monkeypatch: pytest.MonkeyPatch) -> None:
    assert used_runtimes(make_workload(MIXED).workload) == ["onnxruntime", "skip", "torch"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_runtimes(["skip"])
    for runtime, extra in (("torch", "torch"), ("onnxruntime", "cpu")):
        with pytest.raises(MissingExtraError) as caught:
            require_runtimes([runtime])
        assert caught.value.extra == extra


def test_versions_are_those_of_the_packages_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"onnxruntime-openvino": "1.20", "onnxruntime": "1.23", "torch": "2.9"}

    def version(name: str) -> str:
        if name not in there:
            raise importlib.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert installed_versions("onnxruntime") == ("1.23", "1.20")
    assert (installed_versions("torch"), installed_versions("skip")) == (("2.9",), ("",))


def test_threads_beyond_the_cores() -> None:
    assert thread_counts(ProfileSettings(threads=[4, 1, 2, 2]), 2) == ([1, 2], [4])
    with pytest.raises(InputError, match="all exceed the 2 cores"):
        thread_counts(ProfileSettings(threads=[4, 8]), 2)
