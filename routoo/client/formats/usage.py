"""Reads what an answer says was billed, in the words of OpenAI and of those who differ from it.

Reasoning is inside `completion_tokens` at OpenAI, and beside it at xAI and Gemini, where only
`total_tokens` holds both. What a cache gave is inside `prompt_tokens` at OpenAI and DeepSeek, and
beside `input_tokens` at Anthropic.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from routoo.domain.completion import Usage
from routoo.errors import InvalidResponseError

MOST_TOKENS = 2**31 - 1
"""No call takes more; larger counts are no counts, and don't fit the database."""

_MOST_SHOWN = 40
_PROMPT = ("prompt_tokens", "input_tokens")
_COMPLETION = ("completion_tokens", "output_tokens")
_CACHED = (
    "prompt_tokens_details.cached_tokens",  # OpenAI, and most others
    "input_tokens_details.cached_tokens",
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Moonshot
)
_CACHE_READ, _CACHE_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_REASONING = (
    "completion_tokens_details.reasoning_tokens",
    "output_tokens_details.reasoning_tokens",
    "reasoning_tokens",  # Perplexity
)
_CITED = "citation_tokens"
"""Perplexity's: what it read to answer, at the price of a prompt."""


def read_usage(reported: object, *, where: str, http_status: int) -> Usage | None:
    """Return what an answer reports as billed; None where it doesn't report both counts.

    Args:
        reported: The answer's `usage`.
        where: The endpoint's URL for messages.
        http_status: Of the answer.

    Raises:
        InvalidResponseError: A count is no number of tokens.
    """
    if not isinstance(reported, Mapping):
        return None
    try:
        return _read(reported)
    except ValueError as error:
        raise InvalidResponseError(
            f"the answer's usage can't be true: {error}", where=where, http_status=http_status
        ) from error


def bounded_count(value: object, name: str) -> int | None:
    """Return a count of tokens from outside; None where there is none.

    Raises:
        ValueError: It is no whole number from 0 to `MOST_TOKENS`.
    """
    if value is None:
        return None
    number = -1 if isinstance(value, bool) or not isinstance(value, int | float) else value
    if 0 <= number <= MOST_TOKENS and number == int(number):
        return int(number)
    shown = str(value)[:_MOST_SHOWN] if isinstance(value, int | float | str) else "no number"
    msg = f"{name} is {shown}"
    raise ValueError(msg)


def _read(reported: Mapping[str, Any]) -> Usage | None:
    prompt, completion = _first(reported, _PROMPT), _first(reported, _COMPLETION)
    total = bounded_count(reported.get("total_tokens"), "total_tokens")
    if prompt is None or completion is None:
        return None
    read = _first(reported, (_CACHE_READ,)) or 0
    beside = read + (_first(reported, (_CACHE_WRITTEN,)) or 0)
    if _is_beside(reported, prompt + completion, beside, prompt, total):
        prompt += beside
    prompt += _first(reported, (_CITED,)) or 0
    reasoning = max(_counts(reported, _REASONING), default=0)
    if reasoning > completion:  # so it can't be inside
        completion += reasoning
    if total is not None:
        completion = max(completion, total - prompt)
    if prompt + completion > MOST_TOKENS:
        msg = f"{prompt + completion} tokens in all"
        raise ValueError(msg)
    cached = min(prompt, max(read, *_counts(reported, _CACHED), 0))
    return Usage(prompt, completion, cached_prompt_tokens=cached)


def _is_beside(
    reported: Mapping[str, Any], both: int, cache: int, prompt: int, total: int | None
) -> bool:
    """Return whether what was read from and written to a cache is not in the prompt's count.

    Args:
        reported: The usage.
        both: Prompt and completion together, as reported.
        cache: Tokens read from the cache and written to it.
        prompt: As reported.
        total: Tokens in all, where reported.
    """
    if total is not None:
        return total >= both + cache
    return _PROMPT[0] not in reported or cache > prompt


def _first(reported: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next(iter(_counts(reported, names)), None)


def _counts(reported: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[int]:
    """Yield the counts that are reported under some names; a dot leads into an object."""
    for name in names:
        outer, _, inner = name.rpartition(".")
        holder = reported.get(outer) if outer else reported
        value = holder.get(inner) if isinstance(holder, Mapping) else None
        count = bounded_count(value, name)
        if count is not None:
            yield count
