"""Parses YAML with exact numbers, and keeps the line of every value.

PyYAML speaks YAML 1.1, where `0.1` is a binary float, `010` is eight, `1:30` is ninety and a key
that comes twice silently wins. Here a number is the decimal that the file shows, and a key that
comes twice is a problem.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml

YamlPath = tuple[int | str, ...]

_NUMBER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)?(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain data, the line of each value, and problems seen while reading."""

    data: Any
    lines: dict[YamlPath, int]
    """Line, from 1, by the value's path."""
    problems: list[tuple[int, str]] = field(default_factory=list)

    def line(self, path: YamlPath) -> int:
        """Return the line of a value, or of the nearest value around it that exists."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def model_name(self, path: YamlPath) -> str:
        """Return what messages call the model that a path lies in, empty where it lies in none."""
        match path:
            case ("models", int(position), *_):
                entry = self.data["models"][position]
                name = entry.get("name") if isinstance(entry, dict) else None
                known = isinstance(name, str)
                return f"model {name!r}" if known else f"model {position + 1} of the list"
        return ""


class _Loader(yaml.SafeLoader):
    """A safe loader whose plain numbers are exact decimals or whole numbers."""


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> object:
    text = str(loader.construct_scalar(node))
    if not text.strip() or not _NUMBER.fullmatch(text):
        return text  # octal, base 60, infinity: left for the validation to refuse as it stands
    value = Decimal(text.replace("_", ""))
    return int(value) if re.fullmatch(r"[-+]?[0-9_]+", text) else value


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct_number)


def parse_document(text: str) -> Document:
    """Parse one YAML document.

    Raises:
        yaml.YAMLError: The text is not YAML, or not one document.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return Document(None, {})
        problems = list(_repeated_keys(node))
        lines = dict(_lines(node, ()))
        return Document(loader.construct_document(node), lines, problems)
    finally:
        loader.dispose()


def _lines(node: yaml.Node, path: YamlPath) -> Iterator[tuple[YamlPath, int]]:
    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*path, str(key.value)))
            yield (*path, str(key.value)), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*path, index))


def _repeated_keys(node: yaml.Node) -> Iterator[tuple[int, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                line = key.start_mark.line + 1
                yield line, f"{key.value}: the key comes twice here. Keep one"
            seen.add(str(key.value))
            yield from _repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
