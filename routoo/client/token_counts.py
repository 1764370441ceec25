"""Counts tokens with a model's own tokenizer, for answers that don't report what was billed."""

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from tokenizers import Tokenizer

from routoo.domain.completion import Usage
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import (
    bound_completion_tokens,
    bound_prompt_tokens,
    part_tokens,
    prompt_text,
    template_tokens,
)
from routoo.errors import ConfigError

_FILE = "tokenizer.json"
_REMEDY = (
    f"Name a {_FILE}, its folder, or an installed package that holds one; "
    "every dispatcher must find it there"
)


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """Counts tokens with one tokenizer; no count is above the bound that was reserved."""

    tokenizer: Tokenizer

    def usage(
        self, written: Iterable[str], body: Mapping[str, Any], model: CandidateModel
    ) -> Usage:
        """Return what a call probably took, marked as estimated.

        Tokens that the answer does not show, such as hidden reasoning, are not counted.

        Args:
            written: Every text of the answer that the model wrote.
            body: The request as the caller gave it.
            model: The candidate model that was asked.
        """
        prompt = self._count(prompt_text(body)) + template_tokens(body) + part_tokens(body, model)
        if "tools" in body:
            prompt += self._count(orjson.dumps(body["tools"]).decode())
        completion = sum(map(self._count, written))
        return Usage(
            min(prompt, bound_prompt_tokens(body, model)),
            min(completion, bound_completion_tokens(body, model)),
            estimated=True,
        )

    def _count(self, text: str) -> int:
        sayable = text.encode("utf-8", errors="replace").decode()
        return len(self.tokenizer.encode(sayable, add_special_tokens=False).ids)


class TokenCounters:
    """The token counters of models, each tokenizer read once."""

    def __init__(self) -> None:
        self._found: dict[str, TokenCounter] = {}

    def of(self, model: CandidateModel) -> TokenCounter | None:
        """Return a model's counter; None where it names no tokenizer.

        Raises:
            ConfigError: There is no such tokenizer, or it can't be read.
        """
        named = model.tokenizer
        if named is None:
            return None
        if named not in self._found:
            self._found[named] = TokenCounter(_load(named, of=model.name))
        return self._found[named]

    def load(self, models: Iterable[CandidateModel]) -> None:
        """Read the tokenizers of some models.

        Raises:
            ConfigError: As for `of`.
        """
        for model in models:
            self.of(model)


def _load(named: str, *, of: str) -> Tokenizer:
    path = _find(named)
    where = f"tokenizer of model {of!r}: {path or named}"
    if path is None or not path.is_file():
        raise ConfigError("there is no such tokenizer", where=where, remedy=_REMEDY)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(
            f"the tokenizer can't be read: {error}", where=where, remedy=_REMEDY
        ) from error
    # Files carry what their model was trained with: a limit would cut the count, padding raise it.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _find(named: str) -> Path | None:
    if not named.isidentifier():
        path = Path(named)
        return path / _FILE if path.is_dir() else path
    spec = importlib.util.find_spec(named)
    folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
    files = (folder / part / _FILE for folder in folders for part in ("", "model"))
    return next((file for file in files if file.is_file()), None)
