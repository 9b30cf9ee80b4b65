"""A small SVG of points in two dimensions, one series per colour: what a frontier looks like."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 28, 60
COLOURS = ("#1b6ca8", "#c8553d", "#3d8c5f", "#7b5ea7", "#b8862f", "#4a4e57")
"""Told apart in print and by most colour-blind readers."""
TICKS = 6


@dataclass(frozen=True)
class Series:
    """Points of one name, joined by steps in the order given."""

    name: str
    points: Sequence[tuple[float, float]]


def svg(series: Sequence[Series], x_title: str, y_title: str) -> str:
    """The picture. Points that are not finite are left out."""
    kept = [Series(one.name, [p for p in one.points if all(map(math.isfinite, p))]) for one in series]
    every = [point for one in kept for point in one.points]
    x_ticks, y_ticks = ticks([x for x, _ in every]), ticks([y for _, y in every])

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in x_ticks:
        x, y = place(tick, y_ticks[0])
        parts.append(_line(x, y, x, TOP, "#e4e4e4") + _text(x, y + 18, f"{tick:.6g}", "middle"))
    for tick in y_ticks:
        x, y = place(x_ticks[0], tick)
        parts.append(_line(x, y, WIDTH - RIGHT, y, "#e4e4e4") + _text(x - 8, y + 4, f"{tick:.6g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, x_title, "middle"))
    parts.append(_text(16, TOP - 10, y_title, "start"))
    for index, one in enumerate(kept):
        colour = COLOURS[index % len(COLOURS)]
        placed = [place(x, y) for x, y in one.points]
        parts.append(_steps(placed, colour))
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in placed]
        if len(kept) > 1:
            y = HEIGHT - BOTTOM - 14 - 18 * (len(kept) - 1 - index)
            parts.append(f'<circle cx="{WIDTH - RIGHT - 12}" cy="{y - 4}" r="4" fill="{colour}"/>')
            parts.append(_text(WIDTH - RIGHT - 22, y, one.name, "end"))
    return "\n".join([*parts, "</svg>\n"])


def ticks(values: Sequence[float]) -> list[float]:
    """At least two round numbers around values, rising in equal steps."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _steps(placed: Sequence[tuple[float, float]], colour: str) -> str:
    """What the points cover: straight across, then straight up to the next."""
    if len(placed) < 2:
        return ""
    path = f"M{placed[0][0]:.1f} {placed[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in placed[1:])
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6"/>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'
