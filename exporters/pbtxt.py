"""Where things stand in a protobuf text file: a field's path -> line and column.

protobuf's own parser reports places for syntax errors only; a linter needs them for every field. The text
has been parsed by protobuf before it comes here, so this scan need not check it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TextPath = tuple[str | int, ...]
"""Field names, each followed by an index (repeated fields) or a key (maps) where one is meant."""

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]* | (?P<token> "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | [-+.\w]+ | . )""", re.VERBOSE | re.DOTALL
)


@dataclass(slots=True)
class TextNode:
    """A field in the text: where it starts, its scalar as written, and the fields inside it by name."""

    line: int
    column: int
    scalar: str = ""
    fields: dict[str, list[TextNode]] = field(default_factory=dict)

    def find(self, path: TextPath) -> TextNode:
        """The node at `path`, or the nearest one above it that is written."""
        return self._walk(path)[0]

    def written(self, path: TextPath) -> bool:
        """Whether the text states a field, rather than leaving it to its default."""
        *above, last = path
        node, whole = self._walk(tuple(above))
        return whole and last in node.fields

    def _walk(self, path: TextPath) -> tuple[TextNode, bool]:
        """The node at `path` or the nearest above it, and whether the whole path is there."""
        node = self
        siblings: list[TextNode] = []
        for part in path:
            chosen = node._child(part, siblings)
            if chosen is None:
                return node, False
            if isinstance(part, str) and part in node.fields:
                siblings = node.fields[part]
            node = chosen
        return node, True

    def _child(self, part: str | int, siblings: list[TextNode]) -> TextNode | None:
        if isinstance(part, int):
            return siblings[part] if part < len(siblings) else None
        if part in self.fields:
            return self.fields[part][0]
        for sibling in siblings:
            keys = sibling.fields.get("key", [])
            if keys and keys[0].scalar[1:-1] == part:
                return sibling
        return None


def scan(text: str) -> TextNode:
    """Every field of a text that protobuf has accepted, with its place."""
    root = TextNode(0, 0)
    _Scanner(text).message(root, closers=())
    return root


class _Scanner:
    def __init__(self, text: str) -> None:
        starts = [0] + [match.end() for match in re.finditer("\n", text)]
        self._tokens: list[tuple[str, int, int]] = []
        line = 0
        for match in _TOKEN.finditer(text):
            if match["token"] is None:
                continue
            while line + 1 < len(starts) and starts[line + 1] <= match.start():
                line += 1
            self._tokens.append((match["token"], line + 1, match.start() - starts[line] + 1))
        self._at = 0

    def message(self, node: TextNode, closers: tuple[str, ...]) -> None:
        while self._at < len(self._tokens):
            token, line, column = self._tokens[self._at]
            self._at += 1
            if token in closers:
                return
            if token in (",", ";"):
                continue
            self._skip(":")
            for value in self._values(line, column):
                node.fields.setdefault(token, []).append(value)

    def _values(self, line: int, column: int) -> list[TextNode]:
        if not self._skip("["):
            return [self._value(line, column)]
        values: list[TextNode] = []
        while self._at < len(self._tokens) and not self._skip("]"):
            if not self._skip(","):
                _, line, column = self._tokens[self._at]
                values.append(self._value(line, column))
        return values

    def _value(self, line: int, column: int) -> TextNode:
        node = TextNode(line, column)
        if self._skip("{") or self._skip("<"):
            self.message(node, closers=("}", ">"))
            return node
        self._skip("-")
        node.scalar = self._tokens[self._at][0]
        self._at += 1
        while self._at < len(self._tokens) and self._tokens[self._at][0][0] in "\"'":
            self._at += 1
        return node

    def _skip(self, token: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at][0] == token
        self._at += found
        return found


class Word(str):
    """A bare word in protobuf text: an enum value, `true`, `false`."""

    __slots__ = ()


Value = str | int | Word | list["Value"] | dict[str, "Value"]


def render(fields: dict[str, Value], indent: int = 0) -> str:
    """Protobuf text of a message: same fields, same bytes. Strings are escaped, whatever they hold.

    A list of messages or strings repeats, a list of numbers or words is one bracketed list (`gpus: [ ]` when empty).
    """
    pad = "  " * indent
    lines = []
    for name, value in fields.items():
        if isinstance(value, dict):
            lines.append(f"{pad}{name} {{\n{render(value, indent + 1)}{pad}}}\n")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            inner = "  " * (indent + 1)
            items = ",\n".join(f"{inner}{{\n{render(item, indent + 2)}{inner}}}" for item in value)  # type: ignore[arg-type]
            lines.append(f"{pad}{name} [\n{items}\n{pad}]\n")
        elif isinstance(value, list):
            lines.append(f"{pad}{name}: [ {', '.join(map(_scalar, value))} ]\n".replace("[  ]", "[ ]"))
        else:
            lines.append(f"{pad}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Value) -> str:
    if isinstance(value, Word | int):
        return str(value)
    if not isinstance(value, str):
        raise TypeError(f"not a scalar: {value!r}")
    quoted = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in value.encode()
    )
    return f'"{quoted}"'
