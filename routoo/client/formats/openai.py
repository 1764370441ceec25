"""Speaks OpenAI's chat and plain completions, as most providers and servers do.

What an answer says was billed is read in the words of OpenAI and of those who differ from it.
Reasoning is inside `completion_tokens` at OpenAI, and beside it at xAI and Gemini, where only
`total_tokens` holds both. What a cache gave is inside `prompt_tokens` at OpenAI and DeepSeek, and
beside `input_tokens` at Anthropic.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from routoo.client.failures import error_in_success
from routoo.client.formats.error_body import details_of, read_error_body
from routoo.client.formats.openai_batches import OpenAIBatches
from routoo.client.formats.provider_words import finish_reason_of
from routoo.client.formats.wire_format import BatchFormat, ErrorDetails, EventReader, SentCall
from routoo.domain.completion import Completion, FinishReason, Usage
from routoo.domain.endpoint import LimitField
from routoo.domain.pool import CandidateModel
from routoo.domain.prompt import (
    LIMIT_KEYS,
    bound_completion_tokens,
    bound_prompt_tokens,
    requested_completion_tokens,
)
from routoo.errors import EndpointError, InvalidResponseError

_CHAT_PATH = "chat/completions"
_PLAIN_PATH = "completions"
_CONTENT_KEYS = ("tool_calls", "function_call", "audio", "images")
"""What a message may hold instead of a text."""
_NOT_A_COMPLETION = "Check that the base URL is that of an OpenAI-compatible API"


class OpenAIFormat:
    """Implements `routoo.client.formats.wire_format.WireFormat`."""

    headers: Mapping[str, str] = {"Content-Type": "application/json"}
    paths = (_CHAT_PATH, _PLAIN_PATH)

    def __init__(self) -> None:
        self.batches: BatchFormat | None = OpenAIBatches(self)

    def path_of(self, body: Mapping[str, Any]) -> str:
        """Return the path below the base URL: that of chats, or of plain prompts."""
        return _CHAT_PATH if "messages" in body else _PLAIN_PATH

    def request(self, model: CandidateModel, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request as it goes out: unchanged but for the model's name and a token limit.

        Parameters of the candidate are added where the request sets none of that name.
        The limit stands in the one field that the endpoint reads, since it may ignore another. A
        request that names none gets the candidate model's `max_completion_tokens`, because the cost
        of a call without one has no bound.
        """
        asked = model.with_parameters(body)
        sent = {name: value for name, value in asked.items() if name not in LIMIT_KEYS}
        sent["model"] = model.model_at_endpoint
        field = model.endpoint.completion_limit_field or LimitField.MAX_TOKENS
        if field is not LimitField.NONE:
            # Plain completions know the older field only.
            name = field if "messages" in body else LimitField.MAX_TOKENS
            limit = requested_completion_tokens(body)
            sent[str(name)] = model.max_completion_tokens if limit is None else limit
        return sent

    def read_completion(
        self, answer: object, call: SentCall, *, http_status: int, latency_s: float
    ) -> Completion:
        """Read an answer: the text of its first choice, why that ended, and the usage.

        Raises:
            EndpointError: The answer is an error, or something else that is not a completion.
        """
        choice = _first_choice(answer)
        text = None if choice is None else _text_of(choice)
        details = _error_in(answer, choice)
        if details is not None and choice is not None:
            text = text or ""
        if choice is None or text is None or not isinstance(answer, dict):
            raise _no_completion(details, call, http_status)
        usage = _usage_of(answer, call, http_status)
        reason = _end_of(choice, text)
        failure = None
        if details is not None:
            reason = FinishReason.ERROR
            failure = error_in_success(details, http_status, where=call.where, secret=call.secret)
        return Completion(text, answer, usage, http_status, latency_s, reason, failure)

    def read_error(self, status: int, raw: bytes) -> ErrorDetails:
        """Read an error's message, kind and wait, in the forms that compatible servers use."""
        return read_error_body(raw, status)

    def event_reader(self) -> EventReader:
        """Return what gives back each event: it is a chunk already."""
        return lambda event: (event,)


def _no_completion(details: ErrorDetails | None, call: SentCall, http_status: int) -> EndpointError:
    """Return the error that stands for an answer without a choice."""
    if details is not None:
        return error_in_success(details, http_status, where=call.where, secret=call.secret)
    return InvalidResponseError(
        "the answer is JSON but not a completion: it has no choices",
        where=call.where,
        remedy=_NOT_A_COMPLETION,
        http_status=http_status,
    )


def _error_in(answer: object, choice: Mapping[str, Any] | None) -> ErrorDetails | None:
    """Return what an answer, or its first choice, says went wrong; None where it says nothing."""
    if isinstance(answer, list):  # Gemini's errors come in a list
        answer = next((one for one in answer if isinstance(one, dict)), None)
    if not isinstance(answer, dict):
        return None
    for holder in filter(None, (answer, choice)):
        if holder.get("error"):
            return details_of(holder["error"], None, "the endpoint says no more")
    if choice is None:
        return _bare_error(answer)
    if finish_reason_of(choice.get("finish_reason")) is FinishReason.ERROR:
        return ErrorDetails(None, f"the answer ended by {choice['finish_reason']!r}")
    return None


def _bare_error(answer: Mapping[str, Any]) -> ErrorDetails | None:
    """Return what an answer without choices says, if it is an error without an envelope."""
    is_error = answer.get("object") == "error" or answer.get("type") == "error"
    details = details_of(answer, None, "the endpoint says no more")
    return details if is_error or details.status or details.kind else None


def _first_choice(answer: object) -> Mapping[str, Any] | None:
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else None


def _text_of(choice: Mapping[str, Any]) -> str | None:
    """Return a choice's text; None where it holds none in a known form."""
    message = choice.get("message")
    if isinstance(message, dict):
        return _content_text(message.get("content"))
    text = choice.get("text")
    return text if isinstance(text, str) else None


def _content_text(content: object) -> str | None:
    if content is None:
        return ""  # a tool call or a refusal: a completion all the same
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _end_of(choice: Mapping[str, Any], text: str) -> FinishReason | None:
    """Return why an answer ended; one that holds nothing is told from one that does."""
    reason = finish_reason_of(choice.get("finish_reason"))
    if text.strip() or reason is FinishReason.CONTENT_FILTER:
        return reason
    message = choice.get("message")
    if isinstance(message, dict):
        if message.get("refusal"):
            return FinishReason.CONTENT_FILTER
        if any(message.get(key) for key in _CONTENT_KEYS) or _has_other_parts(message):
            return reason
    return FinishReason.TRUNCATED if reason is FinishReason.LENGTH else FinishReason.EMPTY


def _has_other_parts(message: Mapping[str, Any]) -> bool:
    """Return whether a message's content holds parts that are no text, such as images."""
    content = message.get("content")
    parts = content if isinstance(content, list) else ()
    return any(isinstance(one, dict) and one.get("type", "text") != "text" for one in parts)


def _usage_of(answer: Mapping[str, Any], call: SentCall, http_status: int) -> Usage:
    """Return the tokens that an answer reports; where it reports none, an estimate, so marked."""
    usage = read_usage(answer.get("usage"), where=call.where, http_status=http_status)
    if usage is not None:
        return usage
    if call.counter is not None:
        return call.counter.usage(_written_texts(answer), call.body, call.model)
    prompt = bound_prompt_tokens(call.body, call.model)
    return Usage(prompt, bound_completion_tokens(call.body, call.model), estimated=True)


def _written_texts(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield every text of an answer that a model wrote token by token."""
    for choice in answer.get("choices") or ():
        message = choice.get("message")
        if not isinstance(message, Mapping):
            yield str(choice.get("text") or "")
            continue
        for key in ("content", "reasoning_content", "refusal"):
            yield _as_text(message.get(key))
        yield _as_text(message.get("tool_calls"))


def _as_text(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()


MOST_TOKENS = 2**31 - 1
"""No call takes more; larger counts are no counts, and don't fit the database."""

_MOST_QUOTED = 40
_PROMPT_COUNTS = ("prompt_tokens", "input_tokens")
_COMPLETION_COUNTS = ("completion_tokens", "output_tokens")
_CACHED_COUNTS = (
    "prompt_tokens_details.cached_tokens",  # OpenAI, and most others
    "input_tokens_details.cached_tokens",
    "prompt_cache_hit_tokens",  # DeepSeek
    "cached_tokens",  # Moonshot
)
_CACHE_READ, _CACHE_WRITTEN = "cache_read_input_tokens", "cache_creation_input_tokens"
_REASONING_COUNTS = (
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
        return _billed(reported)
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
    shown = str(value)[:_MOST_QUOTED] if isinstance(value, int | float | str) else "no number"
    msg = f"{name} is {shown}"
    raise ValueError(msg)


def _billed(reported: Mapping[str, Any]) -> Usage | None:
    prompt = _first_count(reported, _PROMPT_COUNTS)
    completion = _first_count(reported, _COMPLETION_COUNTS)
    total = bounded_count(reported.get("total_tokens"), "total_tokens")
    if prompt is None or completion is None:
        return None
    read = _first_count(reported, (_CACHE_READ,)) or 0
    written = _first_count(reported, (_CACHE_WRITTEN,)) or 0
    beside = read + written
    if _is_beside(reported, prompt + completion, beside, prompt, total):
        prompt += beside
    prompt += _first_count(reported, (_CITED,)) or 0
    reasoning = max(_counts_of(reported, _REASONING_COUNTS), default=0)
    if reasoning > completion:  # so it can't be inside
        completion += reasoning
    if total is not None:
        completion = max(completion, total - prompt)
    if prompt + completion > MOST_TOKENS:
        msg = f"{prompt + completion} tokens in all"
        raise ValueError(msg)
    cached = min(prompt, max(read, *_counts_of(reported, _CACHED_COUNTS), 0))
    return Usage(
        prompt,
        completion,
        cached_prompt_tokens=cached,
        cache_write_tokens=min(written, prompt - cached),
    )


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
    return _PROMPT_COUNTS[0] not in reported or cache > prompt


def _first_count(reported: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next(iter(_counts_of(reported, names)), None)


def _counts_of(reported: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[int]:
    """Yield the counts that are reported under some names; a dot leads into an object."""
    for name in names:
        outer, _, inner = name.rpartition(".")
        holder = reported.get(outer) if outer else reported
        value = holder.get(inner) if isinstance(holder, Mapping) else None
        count = bounded_count(value, name)
        if count is not None:
            yield count
