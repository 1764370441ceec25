"""Reads errors in any of the shapes that providers give them, and what they say of waiting.

The shapes: `{"error": {...}}`, `{"error": "text"}`, `{"message": ...}`, `{"detail": ...}`, a list
of any of these (Gemini), an error of the provider behind a gateway inside another one, also as
JSON in a text (OpenRouter's `metadata.raw`, LiteLLM's messages), or a page that is no JSON.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from routoo.client.formats.provider_words import any_of, kind_of
from routoo.client.formats.wire_format import ErrorDetails, ErrorKind

_REFUSAL_STATUSES = {400, 404, 405, 422, 500, 501}
"""Statuses of such errors: of providers, and of servers that hand the field on as an argument."""
_FIELD = r"max_(?:completion_)?tokens\b"
_NOUNS = r"(?:\W+(?:request|param(?:eter)?|argument|keyword|field|name|property|key|supplied)s?)*"
_UNKNOWN = r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|extraneous|deprecated|removed)"
_NOT_TAKEN = (
    r"(?:not|no longer)\W+(?:(?:currently|yet)\W+)?(?:supported|permitted|allowed|accepted|known)"
)
_REFUSALS = {
    "unsupported parameter: the field": rf"{_UNKNOWN}{_NOUNS}\W+{_FIELD}",
    "the field is not supported": (
        rf"{_FIELD}{_NOUNS}\W+(?:(?:is|are|was|were|has been)\W+)?(?:{_UNKNOWN}|{_NOT_TAKEN})"
    ),
    "does not support parameters: others, the field": (
        rf"(?:not|n't)\W+(?:support|accept|know)(?:\W+the)?{_NOUNS}\W+(?:\w+\W+){{0,5}}?{_FIELD}"
    ),
    "use the other instead": rf"\buse\W+{_FIELD}\W+instead",
    "pydantic 2": rf"extra_forbidden\W+loc\W+(?:body\W+)?{_FIELD}",
    "pydantic 1": rf"loc\W+(?:body\W+)?{_FIELD}\W+msg\W+extra\W+(?:inputs|fields)",
}
_REFUSAL = re.compile("|".join(_REFUSALS.values()), re.IGNORECASE)
_MOST_CHARACTERS = 4_000


def is_limit_field_refused(status: int, message: str) -> bool:
    """Return whether an error says that the field is not known, rather than that its value is bad.

    Args:
        status: HTTP status.
        message: The error's message, or its body where that is no text.
    """
    return status in _REFUSAL_STATUSES and _REFUSAL.search(message[:_MOST_CHARACTERS]) is not None


_MOST_BYTES = 64 * 1024
"""Longer bodies of errors are pages, or quote the request."""
_MOST_VALUES, _MOST_MESSAGES, _DEEPEST = 300, 5, 8
_JSON_STARTS = frozenset({"{", "["})
_CODES = ("code", "type", "status", "reason", "error_code", "error_type", "Code", "__type")
_MESSAGES = ("message", "detail", "msg", "error_message", "error_description", "raw", "Message")
_WAITS_S = ("retryDelay", "retry_delay", "retry_after", "retryAfter", "retry_after_seconds",
            "retry_after_s", "estimated_time", "Retry-After", "retry-after")  # fmt: skip
_WAITS_MS = ("retry_after_ms", "retryAfterMs", "retry-after-ms")
_QUOTED = frozenset({"input", "loc", "ctx", "request", "messages", "prompt", "headers_sent"})
"""Keys whose values quote the request: what stands there says nothing of the error."""
_FAILED_STATUS = re.compile("[345][0-9][0-9]")


@dataclass(slots=True)
class _Facts:
    """What was found in a body."""

    codes: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)


def read_error_body(raw: bytes, status: int) -> ErrorDetails:
    """Return what the bytes of an error response say.

    Args:
        raw: The body.
        status: HTTP status of the response.
    """
    text = raw[:_MOST_BYTES].decode("utf-8", errors="replace")
    body = _json_or_none(text) if len(raw) <= _MOST_BYTES else None
    if body is None:
        kind = _limit_field(text, status) or kind_of((), text, status)
        return ErrorDetails(kind, text, wait_s=wait_in_words_s(text))
    details = details_of(body, status, text)
    if details.kind in {None, ErrorKind.CONTEXT_LENGTH} and not _has_text(body):
        return replace(details, kind=_limit_field(text, status) or details.kind)
    return details


def _limit_field(message: str, status: int) -> ErrorKind | None:
    return ErrorKind.LIMIT_FIELD if is_limit_field_refused(status, message) else None


def _has_text(body: object) -> bool:
    """Return whether an error's message is a text, and not a list of what was wrong."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    message = error
    if isinstance(error, Mapping):
        message = error.get("message") or error.get("detail")
    return isinstance(message, str) and message.lstrip()[:1] not in _JSON_STARTS


def details_of(body: object, status: int | None, otherwise: str) -> ErrorDetails:
    """Return what an error says that was decoded from JSON.

    Args:
        body: The error, or whatever holds it.
        status: HTTP status of the response; None takes the one that the error itself names.
        otherwise: The message where it holds none.
    """
    facts = _facts_in(body)
    named = facts.statuses[0] if facts.statuses else None
    message = "; ".join(dict.fromkeys(facts.messages[:_MOST_MESSAGES])) or otherwise
    status = status or named or 0
    kind = _limit_field(message, status) or kind_of(facts.codes, message, status)
    wait_s = max(facts.waits_s) if facts.waits_s else wait_in_words_s(message)
    return ErrorDetails(kind, message, wait_s=wait_s, status=named)


def _facts_in(body: object) -> _Facts:
    facts = _Facts()
    for number, (key, value) in enumerate(_values(body, "error", 0)):
        if number == _MOST_VALUES:
            break
        _note(facts, key, value)
    return facts


def _values(value: object, key: str, depth: int) -> Iterator[tuple[str, object]]:
    """Yield each plain value in an error, with its key: those further out come first."""
    if depth > _DEEPEST or key in _QUOTED:
        return
    if isinstance(value, str) and value.lstrip()[:1] in _JSON_STARTS:
        inner = _json_or_none(value[:_MOST_BYTES])
        value = value if inner is None else inner
    if isinstance(value, Mapping):
        inner_first = sorted(value.items(), key=lambda item: isinstance(item[1], dict | list))
        for name, one in inner_first:
            yield from _values(one, str(name), depth + 1)
        if value.keys() & set(_WAITS_S):
            yield from ((name, one) for name, one in _seconds_in(value))
    elif isinstance(value, list):
        for one in value[:_MOST_VALUES]:
            yield from _values(one, key, depth + 1)
    else:
        yield key, value


def _seconds_in(value: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield waits that are an object of `seconds`, as a `Duration` of protocol buffers may be."""
    for name in _WAITS_S:
        one = value.get(name)
        if isinstance(one, Mapping):
            yield name, one.get("seconds")


def _note(facts: _Facts, key: str, value: object) -> None:
    if isinstance(value, bool) or value is None:
        return
    text = str(value)
    if key in _CODES:
        facts.codes.append(text)
        if _FAILED_STATUS.fullmatch(text):
            facts.statuses.append(int(text))
    elif key in _WAITS_S or key in _WAITS_MS:
        wait_s = _wait_s(text)
        if wait_s is not None:
            facts.waits_s.append(wait_s / 1000 if key in _WAITS_MS else wait_s)
    elif isinstance(value, str) and (key in _MESSAGES or key == "error") and text.strip():
        facts.messages.append(text)


def _wait_s(text: str) -> float | None:
    try:
        wait_s = float(text)
    except ValueError:
        return duration_s(text)
    return wait_s if math.isfinite(wait_s) and wait_s >= 0 else None


def _json_or_none(text: str) -> object:
    try:
        return orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None


_UNIT_S = {"ms": 0.001, "m": 60.0, "h": 3600.0, "d": 86400.0, "s": 1.0}
_UNIT = r"(?:milliseconds?|ms|hours?|hrs?|h|minutes?|mins?|m|seconds?|secs?|s|days?|d)"
_PART = re.compile(rf"(\d+(?:\.\d+)?)\s*({_UNIT})(?![a-z])", re.IGNORECASE)
_WAIT = re.compile(
    rf"\b(?:try(?:ing)? again|retry(?:ing)?|wait|resets?|available)(?: again)?(?:\s+at least)?"
    rf"\s*(?:in|after|for)?:?\s+((?:\d+(?:\.\d+)?\s*{_UNIT}(?![a-z])[\s,]*(?:and\s+)?)+)",
    re.IGNORECASE,
)


def wait_in_words_s(message: str) -> float | None:
    """Return the wait that a message asks for, in seconds; None where it asks for none.

    Such as "Please try again in 1m7.2s", "retry after 20 seconds", "Retry in 500ms".
    """
    found = _WAIT.search(message)
    return None if found is None else _sum_s(found[1])


def duration_s(text: str) -> float | None:
    """Return a duration such as "7s" or "1m30.5s" in seconds; None if the text is none."""
    rest = _PART.sub("", text)
    return _sum_s(text) if text.strip() and not rest.strip() else None


def _sum_s(text: str) -> float:
    parts = _PART.findall(text)
    return sum(float(number) * _unit_s(unit.lower()) for number, unit in parts)


def _unit_s(unit: str) -> float:
    if unit.startswith(("ms", "mil")):
        return _UNIT_S["ms"]
    return _UNIT_S[unit[0]]


_POSTPONED = any_of(
    r"token_limit_exceeded|enqueued tokens?|tokens? enqueued",  # OpenAI, Azure
    r"too[_ ]many[_ ](?:requests|batches|jobs|concurrent)|rate[_ ]limit",
    r"(?:maximum|max|limit)\b.{0,40}\b(?:active|concurrent|running|queued|in.progress)\b",
    r"try again (?:later|after|once|in (?:a|\d))|temporar(?:y|ily)|overloaded",
    r"(?:server|internal)[_ ](?:server[_ ])?error|service[_ ]unavailable",
    r"\bfile\b.{0,80}\b(?:is|still|status|state)\b.{0,30}\b(?:pending|processing|uploaded)\b",
    r"\bfile\b.{0,80}\b(?:not|n't)\b.{0,30}\b(?:processed|ready|available)\b",  # Azure
    r"\bfile\b.{0,40}\b(?:being|to be) processed\b",
)


def is_batch_postponed(error: str) -> bool:
    """Return whether an error of a batch as a whole passes by itself.

    The provider's queue of batches is full, it has not read the input file to its end yet, or it
    is busy.
    """
    return _POSTPONED.search(error) is not None
