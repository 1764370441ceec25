"""Reads pool files: YAML becomes a validated pool, and every problem is reported with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from routoo.domain.endpoint import Endpoint, ExpectedLatency
from routoo.domain.model_prior import (
    ModelPrior,
    find_reference,
    nearest_references,
    reference_models,
)
from routoo.domain.pool import BatchChannel, CandidateModel, Pool, Tariff
from routoo.errors import ConfigError

_PRICE_KEY = "price_usd_per_mtok"
_PRICE_REMEDY = "Give the price in USD per million tokens; say 0 if it is free"
_KNOWN_KEYS = {
    record: ", ".join(record.model_fields)
    for record in (
        Pool,
        CandidateModel,
        BatchChannel,
        Endpoint,
        ExpectedLatency,
        Tariff,
        ModelPrior,
    )
}
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


def load_pool(path: Path) -> Pool:
    """Read a pool file.

    Args:
        path: A YAML file with a list `models`; numbers are taken as they are written, so a price
            of 0.1 is exactly a tenth of a dollar. A tokenizer's path begins at the file's folder.

    Returns:
        The pool, models in the file's order.

    Raises:
        ConfigError: The file can't be read or used; the message names the file, the line and the
            remedy of every problem at once.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the pool file can't be read: {error}",
            where=str(path),
            remedy="Name a UTF-8 YAML file with --pool or ROUTOO_POOL",
        ) from error
    pool = parse_pool(text, name=str(path))
    return Pool(models=tuple(_anchored(model, path.parent) for model in pool.models))


def _anchored(model: CandidateModel, folder: Path) -> CandidateModel:
    """Return a model whose tokenizer's path is absolute; a package's name stays as it is."""
    if model.tokenizer is None or model.tokenizer.isidentifier():
        return model
    return model.model_copy(update={"tokenizer": str((folder / model.tokenizer).resolve())})


def parse_pool(text: str, *, name: str = "pool.yaml") -> Pool:
    """Read a pool from YAML text; `name` stands for the file in messages.

    Raises:
        ConfigError: As for `load_pool`.
    """
    try:
        document = parse_document(text)
    except yaml.YAMLError as error:
        raise _syntax_error(error, name) from error
    except RecursionError as error:
        raise ConfigError(
            "the pool file is nested too deep", where=name, remedy="Start it with a list `models:`"
        ) from error
    if not isinstance(document.data, dict):
        raise ConfigError(
            "the pool file is no mapping", where=name, remedy="Start it with a list `models:`"
        )
    problems = [*document.problems, *_repeated_models(document)]
    try:
        pool = Pool.model_validate(document.data)
    except ValidationError as error:
        problems += _problems(error, document)
        problems = problems or [(1, f"{error.errors()[0]['msg']}. Correct or remove it")]
    problems = problems or list(_unknown_references(pool, document))
    if problems:
        raise _pool_error(name, problems)
    return pool


def _unknown_references(pool: Pool, document: Document) -> Iterator[tuple[int, str]]:
    """Yield priors that name no reference model of the general checkpoint."""
    for index, model in enumerate(pool.models):
        like = None if model.prior is None else model.prior.like
        if like is None or find_reference(like, reference_models()) is not None:
            continue
        known = ", ".join(nearest_references(like, reference_models()))
        line = document.line(("models", index, "prior", "like"))
        yield (
            line,
            (
                f"prior.like of model {model.name!r}: no such reference model (got {like!r}). "
                f"Give a score or parameters_b instead, or one of these: {known}"
            ),
        )


def _repeated_models(document: Document) -> Iterator[tuple[int, str]]:
    entries = document.data.get("models")
    seen: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        name = entry.get("name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name in seen:
            line = document.line(("models", index, "name"))
            yield line, f"candidate model {name!r} is listed twice. Give each its own name"
        seen.add(str(name))


def _syntax_error(error: yaml.YAMLError, name: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}" if mark else name
    what = getattr(error, "problem", None) or str(error)
    return ConfigError(f"not valid YAML: {what}", where=where, remedy="Correct the line")


def _pool_error(name: str, problems: list[tuple[int, str]]) -> ConfigError:
    ordered = sorted(set(problems))
    lines = [f"{name}:{line}: {text}" for line, text in ordered]
    if len(lines) == 1:
        return ConfigError(ordered[0][1], where=f"{name}:{ordered[0][0]}")
    return ConfigError(f"{len(lines)} problems in the pool file:\n" + ".\n".join(lines))


def _problems(error: ValidationError, document: Document) -> Iterator[tuple[int, str]]:
    for detail in error.errors():
        location = detail["loc"]
        if not location or (detail["type"] == "too_short" and document.data["models"]):
            continue  # a repeated name, which _repeated_models places, or an echo of bad entries
        named = document.model_name(location)
        dotted = ".".join(str(part) for part in (location[2:] if named else location))
        subject = " of ".join(part for part in (dotted, named) if part)
        line = document.line(location)
        remedy = _remedy(location, detail["type"])
        text = _PLAIN_WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
        text = f"{subject}: {text[0].lower()}{text[1:]}" if subject else text
        # A base_url may hold a password by mistake, so it is never shown.
        quiet = detail["type"] in _PLAIN_WORDS or location[-1] == "base_url"
        value = "" if quiet else f" (got {_shown(detail['input'])})"
        yield line, f"{text}{value}. {remedy}"


_PLAIN_WORDS = {
    "missing": "the key is missing",
    "extra_forbidden": "no such key",
    "too_short": "the list is empty",
}


def _shown(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        return "a mapping" if isinstance(value, dict) else "a list"
    return "nothing" if value is None else repr(str(value))


def _remedy(location: tuple[int | str, ...], kind: str) -> str:
    if _PRICE_KEY in location and kind != "extra_forbidden":
        return _PRICE_REMEDY
    if kind == "extra_forbidden":
        return f"Remove it or correct its spelling; known here are {_known_keys(location)}"
    if kind == "string_type":
        return "Put the value in quotes"
    if kind == "missing":
        return "Add it"
    if kind == "too_short":
        return "Give it at least one entry"
    return "Correct the value"


def _known_keys(location: tuple[int | str, ...]) -> str:
    if _PRICE_KEY in location[:-1]:
        return _KNOWN_KEYS[Tariff]
    if "batch_channel" in location[:-1]:
        return _KNOWN_KEYS[BatchChannel]
    if "expected_latency" in location[:-1]:
        return _KNOWN_KEYS[ExpectedLatency]
    if "prior" in location[:-1]:
        return _KNOWN_KEYS[ModelPrior]
    if "endpoint" in location[:-1]:
        return _KNOWN_KEYS[Endpoint]
    return _KNOWN_KEYS[CandidateModel if "models" in location[:-1] else Pool]
