"""The pinned package that the recordings come from."""

from __future__ import annotations

from preparation import Package, PinnedFile

RECORDINGS = "recordings/watch_dataset.npy"

PACKAGES = (
    Package(
        "seglearn==1.2.5",
        "seglearn-1.2.5-py3-none-any.whl",
        (
            PinnedFile(
                "seglearn/data/watch_dataset.npy",
                RECORDINGS,
                "eb122f23cdf06ef6bd6c6c5312958ec5cf9d038e2e6d457b8081662c75a42537",
            ),
            PinnedFile(
                "seglearn-1.2.5.dist-info/LICENSE",
                "licenses/seglearn/LICENSE",
                "8d11b67e67edca1053becb6d4b6c4f43a69b374780903f648c8e04e95bda9b8e",
            ),
        ),
    ),
)
