"""Which runtime packages are installed, told from their metadata: nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata

_PACKAGES = {
    "onnxruntime": (
        "onnxruntime",
        "onnxruntime-gpu",
        "onnxruntime-openvino",
        "onnxruntime-directml",
        "onnxruntime-qnn",
        "onnxruntime-rocm",
    ),
    "torch": ("torch",),
}


@dataclass(frozen=True, slots=True)
class InstalledPackage:
    """A package that brings a runtime."""

    distribution: str
    version: str


def runtime_versions() -> dict[str, tuple[InstalledPackage, ...]]:
    """Packages by the name of the runtime they bring; none where it is not installed.

    The packages of onnxruntime all own the module `onnxruntime`: where there are two, one has overwritten the
    other. Which providers work is asked of `runtime(name).providers()` in a measuring process, which imports them.
    """
    return {
        name: tuple(
            InstalledPackage(package, version) for package in packages if (version := _version(package)) is not None
        )
        for name, packages in _PACKAGES.items()
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
