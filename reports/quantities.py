"""Numbers as people read them, with their unit. `None` is shown as a dash: unknown, not zero."""

from __future__ import annotations

import math

DASH = "-"


def seconds(value: float | None) -> str:
    """A duration with three significant digits: `12.3 ms`, `1.20 s`, `45.0 µs`."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "inf"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)} {unit}"
    return "0 s" if value == 0 else f"{_three(value / 1e-6)} µs"


def clock(value_s: float) -> str:
    """A waiting time for people: `45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = max(0, round(value_s))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def share(value: float | None) -> str:
    """A fraction as it is written in workloads: four decimals."""
    return DASH if value is None or math.isnan(value) else f"{value:.4f}"


def percent(value: float | None) -> str:
    """A fraction in percent."""
    return DASH if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def rate(value: float | None) -> str:
    """Per second, three significant digits."""
    return DASH if value is None or math.isnan(value) else f"{_three(value)}/s"


def money(value: float | None) -> str:
    """US dollars per hour."""
    return DASH if value is None or math.isnan(value) else f"{value:.4g} USD/h"


def size(value: float | None) -> str:
    """Bytes with a binary prefix."""
    if value is None:
        return DASH
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(value) >= factor:
            return f"{_three(value / factor)} {unit}"
    return f"{value:.0f} B"


def energy(value: float | None) -> str:
    """Joules with three significant digits: `1.20 J`, `45.0 mJ`."""
    if value is None or math.isnan(value):
        return DASH
    if value == 0:
        return "0 J"
    for factor, unit in ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ")):
        if abs(value) >= factor * 0.9995:
            return f"{_three(value / factor)} {unit}"
    return f"{_three(value / 1e-6)} µJ"


def _three(value: float) -> str:
    """Three significant digits, without exponent."""
    if value == 0:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:.{max(0, 2 - math.floor(math.log10(abs(rounded))))}f}"
