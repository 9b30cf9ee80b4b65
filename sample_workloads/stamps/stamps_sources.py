"""From the files of the Debian package to stamps: which are taken, their class, their family, the split."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from stamps_data import CLASSES, SAMPLES, SIDE, Stamps

ROOT = "usr/share/tuxpaint/stamps/"
FOLDERS: Mapping[str, str] = {
    "animals/mammals": "mammals",
    "animals/marsupials": "mammals",
    "animals/birds": "birds",
    "animals/insects": "small-animals",
    "animals/fish": "small-animals",
    "animals/shellfish": "small-animals",
    "animals/amphibians": "small-animals",
    "animals/lizards": "small-animals",
    "food": "food",
    "clothes": "clothes",
    "plants": "plants",
    "town/houses": "buildings",
    "town/monuments": "buildings",
    "town/cartoon": "buildings",
    "town/roadsigns": "signs-flags",
    "town/flags": "signs-flags",
    "household": "household",
    "vehicles": "vehicles",
    "military/vehicles": "vehicles",
}
"""Folders whose stamps are taken -> their class. The makers of the set chose the folders."""
SPOKEN = "_desc_fr.ogg"
"""The caption spoken in French: the language that most stamps are recorded in."""
FRENCH = "fr.utf8="
RATE_HZ = 16_000
SILENCE = 0.03
"""What is softer than this share of the loudest sample, before the first louder one, is cut off."""
LOUDEST = 16_384
"""Every recording's loudest sample, of 32,767."""

# Words that say nothing of what a stamp shows, or that stamps of quite different things share.
COMMON = frozenset(
    re.findall(
        "[a-z]+",
        """a an the and or of to in on for with by from its it is at as this that these they so then if when me my your
        you where which will very means also called was last used first other people must have has should can could be
        do go carries carry one two pair bunch cluster string head piece slice sliced whole some small little big large
        huge tiny old baby male female toy cartoon happy pretty colorful side view red green blue yellow white black
        brown pink purple grey gray silver golden gold dark light""",
    )
)


class Source(NamedTuple):
    """A stamp with all three modalities, as its files have it.

    `name` is their path without ends, `spoken` what the recording says.
    """

    name: str
    kind: str
    caption: str
    spoken: str
    png: bytes
    ogg: bytes


def gather(members: Iterable[tuple[str, bytes]]) -> list[Source]:
    """The stamps of the classes that have a picture, a caption and a recording, sorted by name."""
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path, content in members:
        for end in (SPOKEN, ".png", ".txt"):
            if path.startswith(ROOT) and path.endswith(end):
                name = path.removeprefix(ROOT).removesuffix(end)
                if kind_of(name) is not None:
                    found[name][end] = content
                break
    sources: list[Source] = []
    for name, files in sorted(found.items()):
        kind = kind_of(name)
        if len(files) == 3 and kind is not None:
            # The first line is English, the others are translations.
            caption, *others = files[".txt"].decode("utf-8", "replace").splitlines()
            spoken = next((line.removeprefix(FRENCH) for line in others if line.startswith(FRENCH)), "")
            sources.append(Source(name, kind, caption.strip(), spoken.strip(), files[".png"], files[SPOKEN]))
    return sources


def kind_of(name: str) -> str | None:
    """The class of a stamp by the folder it is in, or None."""
    parents = PurePosixPath(name).parents
    return next((FOLDERS[str(parent)] for parent in parents if str(parent) in FOLDERS), None)


def words(name: str, caption: str) -> set[str]:
    """Words of a caption and a file name that tell what a stamp shows, without a plural s."""
    text = f"{PurePosixPath(name).name} {caption}".lower()
    found = (word for word in re.findall("[a-z]+", text) if len(word) > 1)
    return {word[:-1] if re.search("[^s]s$", word) else word for word in found} - COMMON


def families(sources: Sequence[Source]) -> list[list[int]]:
    """Positions of the sources in families: stamps of one class with such a word, or a whole caption of either
    language, in common, and what they connect.

    The red apple and the apple core, three gnus, all towers: a net that knows one knows the others.
    """
    leader = list(range(len(sources)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    holders: dict[tuple[str, str], int] = {}
    for index, source in enumerate(sources):
        said = {"says " + text for text in (source.caption, source.spoken) if text}
        for word in words(source.name, source.caption) | said:
            holder = holders.setdefault((source.kind, word), index)
            one, other = sorted((find(holder), find(index)))
            leader[other] = one
    grouped: dict[int, list[int]] = defaultdict(list)
    for index in range(len(sources)):
        grouped[find(index)].append(index)
    return list(grouped.values())


def split(sources: Sequence[Source], seed: int) -> tuple[list[int], list[int]]:
    """Positions (to train on, to test on): about half of each class, every family on one side as a whole."""
    # RandomState: its stream is frozen, so every numpy gives the same split.
    dice = np.random.RandomState(seed)
    by_kind: dict[str, list[list[int]]] = defaultdict(list)
    for family in families(sources):
        by_kind[sources[family[0]].kind].append(family)
    train: list[int] = []
    test: list[int] = []
    for kind in CLASSES:
        mixed = [by_kind[kind][position] for position in dice.permutation(len(by_kind[kind]))]
        counts = [0, 0]
        for family in sorted(mixed, key=len, reverse=True):
            side = int(counts[1] < counts[0])
            counts[side] += len(family)
            (test if side else train).extend(family)
    return sorted(train), sorted(test)


def picture(png: bytes) -> NDArray[np.uint8]:
    """What is seen of a stamp on a white square: uint8 [260, 260, 3]."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox() or (0, 0, *image.size))
    side = max(image.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def speech(ogg: bytes) -> NDArray[np.int16]:
    """The first 2.5 s from where a recording becomes audible: int16 [40000], 16 kHz, mono, one loudness for all."""
    import soundfile
    from scipy.signal import resample_poly

    samples, rate_hz = soundfile.read(io.BytesIO(ogg), dtype="float32", always_2d=True)
    divisor = int(np.gcd(rate_hz, RATE_HZ))
    wave = resample_poly(samples.mean(1), RATE_HZ // divisor, rate_hz // divisor)
    loudness = np.abs(wave)
    clip = wave[int((loudness > SILENCE * loudness.max()).argmax()) :][:SAMPLES]
    scaled = np.rint(clip * (LOUDEST / max(float(np.abs(clip).max()), 1e-6)))
    return np.pad(scaled, (0, SAMPLES - len(clip))).astype(np.int16)


def decode(sources: Sequence[Source]) -> Stamps:
    """Files to arrays."""
    numbers = np.zeros(len(sources), np.int64)
    for number, family in enumerate(families(sources)):
        numbers[family] = number
    return Stamps(
        np.stack([picture(source.png) for source in sources]),
        np.array([source.caption for source in sources]),
        np.stack([speech(source.ogg) for source in sources]),
        np.array([CLASSES.index(source.kind) for source in sources], np.int64),
        numbers,
        np.array([source.name for source in sources]),
    )
