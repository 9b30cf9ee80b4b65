"""Pages of text whose truth is exact, because they are rendered here, from a seed.

Lines of 10 to 30 pixels in several fonts and colours on a shaded, grainy ground; three in ten stand
upside-down; some pages are blurred, all go through JPEG. The words are those of the licence texts that
travel with the models, so that the pages need no further data and are the same everywhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ocr_boxes import Box
from ocr_data import Line, Page
from PIL import Image, ImageDraw, ImageFilter, ImageFont

PAGE_WIDTH, PAGE_HEIGHT = 640, 480
FONT_SIZES = (10, 12, 14, 16, 20, 24, 30)
FLIPPED_SHARE = 0.3
MARGIN = 2
"""Pixels of ground around the ink that belong to a line's box."""


@dataclass(frozen=True, slots=True)
class Typography:
    """What pages are set from: the files of the fonts and the words, both in a fixed order."""

    fonts: tuple[Path, ...]
    words: tuple[str, ...]

    @staticmethod
    def of(prepared: Path) -> Typography:
        """The fonts, and the different words of the licence texts, of a prepared folder."""
        texts = sorted((prepared / "licenses").rglob("*"))
        text = "\n".join(path.read_text(encoding="utf-8") for path in texts if path.is_file())
        plain = re.sub(r"[^A-Za-z0-9 .,:;()\-\n]", " ", text)
        words = sorted({word for word in plain.split() if 1 < len(word) < 14 and word.strip(".,:;()-")})
        return Typography(tuple(sorted((prepared / "fonts").glob("*.ttf"))), tuple(words))


def render_pages(typography: Typography, count: int, seed: int) -> list[Page]:
    """`count` pages of 640x480; the same typography, seed and Pillow give the same pages."""
    draw = random.Random(seed)
    noise = np.random.default_rng(seed)
    return [_page(typography, draw, noise) for _ in range(count)]


def page_files(pages: Sequence[Page]) -> dict[str, bytes]:
    """File name -> content: a PNG for each page, and `truth.json`."""
    files: dict[str, bytes] = {}
    entries = []
    for index, page in enumerate(pages):
        name = f"page-{index:02d}.png"
        stream = io.BytesIO()
        Image.fromarray(page.picture).save(stream, "PNG")
        files[name] = stream.getvalue()
        lines = [{"box": list(line.box), "flipped": line.flipped, "text": line.text} for line in page.lines]
        entries.append({"file": name, "lines": lines})
    files["truth.json"] = (json.dumps({"pages": entries}, indent=1) + "\n").encode()
    return files


def digest(pages: Sequence[Page]) -> str:
    """sha-256 over the pixels and the truth of the pages."""
    state = hashlib.sha256()
    for page in pages:
        state.update(page.picture.tobytes())
        state.update(repr([(line.box, line.text, line.flipped) for line in page.lines]).encode())
    return state.hexdigest()


def _page(typography: Typography, draw: random.Random, noise: np.random.Generator) -> Page:
    image = _ground(draw, noise)
    lines = []
    top = draw.randint(6, 20)
    while top < PAGE_HEIGHT - 30:
        line = _line(typography, draw, image, top)
        if line is None:
            break
        lines.append(line)
        top = line.box[3] - MARGIN + draw.randint(10, 34)
    return Page(_worn(image, draw), tuple(lines))


def _ground(draw: random.Random, noise: np.random.Generator) -> Image.Image:
    """A bright ground of one colour with a slope of light and some grain."""
    colour = np.array([draw.randint(150, 255) for _ in range(3)], float)
    slope_x = np.linspace(-1, 1, PAGE_WIDTH)[None, :, None] * draw.uniform(-25, 25)
    slope_y = np.linspace(-1, 1, PAGE_HEIGHT)[:, None, None] * draw.uniform(-25, 25)
    grain = noise.normal(0, draw.uniform(0, 8), (PAGE_HEIGHT, PAGE_WIDTH, 3))
    return Image.fromarray(np.clip(colour + slope_x + slope_y + grain, 0, 255).astype(np.uint8))


def _line(typography: Typography, draw: random.Random, page: Image.Image, top: int) -> Line | None:
    """Set one line with its ink at `top`; None where it does not fit above the page's end."""
    # The basic layout engine is part of every Pillow build; the better one is not.
    font = ImageFont.truetype(
        str(draw.choice(typography.fonts)), draw.choice(FONT_SIZES), layout_engine=ImageFont.Layout.BASIC
    )
    text = _text(typography.words, draw)
    ink = font.getbbox(text)
    while ink[2] - ink[0] > PAGE_WIDTH - 40:
        text = text.rpartition(" ")[0]
        ink = font.getbbox(text)
    width, height = int(ink[2] - ink[0]), int(ink[3] - ink[1])
    if top + height + 3 * MARGIN > PAGE_HEIGHT:
        return None
    left = draw.randint(10, max(11, PAGE_WIDTH - width - 12))
    box: Box = (left - MARGIN, top - MARGIN, left + width + MARGIN, top + height + MARGIN)
    flipped = draw.random() < FLIPPED_SHARE
    tile = page.crop(box)
    ImageDraw.Draw(tile).text((MARGIN - ink[0], MARGIN - ink[1]), text, font=font, fill=_ink(draw))
    page.paste(tile.rotate(180) if flipped else tile, box)
    return Line(box, text, flipped)


def _text(words: Sequence[str], draw: random.Random) -> str:
    """Two to six words, or one and an amount."""
    if draw.random() < 0.25:
        return f"{draw.choice(words)} {draw.randint(1, 999)}.{draw.randint(0, 99):02d}"
    return " ".join(draw.choice(words) for _ in range(draw.randint(2, 6)))


def _ink(draw: random.Random) -> tuple[int, int, int]:
    """A dark colour; one in five is paler."""
    light = draw.randint(0, 110) if draw.random() < 0.8 else draw.randint(60, 140)
    red, green, blue = (min(255, max(0, light + draw.randint(-40, 40))) for _ in range(3))
    return red, green, blue


def _worn(image: Image.Image, draw: random.Random) -> NDArray[np.uint8]:
    """Half of the pages are blurred; all go through JPEG of a quality between 35 and 92."""
    if draw.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(draw.uniform(0.3, 1.1)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=draw.randint(35, 92))
    return np.asarray(Image.open(stream).convert("RGB"))
