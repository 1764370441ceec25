"""What a request's body says: its text, and how many tokens it may take.

Counts here need no tokenizer: the producer must not load one, and every model has its own.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from routoo.domain.pool import CandidateModel

BYTES_PER_TOKEN = 4.0
"""Mean UTF-8 bytes per token of English text in current BPE vocabularies: an estimate."""
TEMPLATE_TOKENS_PER_MESSAGE = 8
"""Room for the chat template's marks around each message."""
TEMPLATE_TOKENS = 24
"""Room for what a template adds once, such as a default system message."""

_LIMIT_KEYS = ("max_completion_tokens", "max_tokens")
_CHOICE_KEYS = ("n", "best_of")


def prompt_text(body: Mapping[str, Any]) -> str:
    """Return the text of a chat or plain completion request, messages joined by blank lines."""
    if "messages" not in body:
        prompt = body.get("prompt", "")
        return prompt if isinstance(prompt, str) else ""
    return "\n\n".join(text for message in body["messages"] for text in _texts(message))


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, Mapping) and isinstance(part.get("text"), str):
                yield part["text"]


def estimate_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return the expected prompt tokens of a request, template and tools included."""
    size_bytes = len(prompt_text(body).encode("utf-8", errors="replace"))
    if "tools" in body:
        size_bytes += len(orjson.dumps(body["tools"]))
    return round(size_bytes / BYTES_PER_TOKEN) + _template_tokens(body)


def bound_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Return prompt tokens that no byte-level vocabulary exceeds: a token a byte of the request."""
    return len(orjson.dumps(body)) + _template_tokens(body)


def requested_completion_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the request's own limit of completion tokens, None where it names none."""
    for key in _LIMIT_KEYS:
        limit = body.get(key)
        if isinstance(limit, int) and not isinstance(limit, bool):
            return limit
    return None


def bound_completion_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most completion tokens a call can be billed, all its choices together."""
    limit = requested_completion_tokens(body)
    asked = (body.get(key) for key in _CHOICE_KEYS)
    choices = max([1, *(count for count in asked if isinstance(count, int))])
    return (model.max_completion_tokens if limit is None else limit) * choices


def _template_tokens(body: Mapping[str, Any]) -> int:
    return TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE * len(body.get("messages", ()))
