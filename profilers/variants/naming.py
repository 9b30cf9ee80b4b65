"""Names of made variants: their parent's and the recipe's mark, unique in the stage, safe as file names."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

MOST = 64


def fresh_name(parent: str, suffix: str, taken: Collection[str]) -> str:
    """`parent` + `suffix`, shortened where it is too long, numbered where another variant has that name."""
    number = 1
    while True:
        mark = suffix if number == 1 else f"{suffix}-{number}"
        name = _fitted(parent, mark)
        if name not in taken:
            return name
        number += 1


def _fitted(parent: str, mark: str) -> str:
    name = parent + mark
    if len(name) <= MOST:
        return name
    # What is cut off is told apart by a hash of it all.
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    mark = mark[: MOST // 2]
    return f"{parent[: MOST - len(mark) - len(digest) - 1]}-{digest}{mark}"
