"""Reads what a chat request says and needs: its text, tokens, parts beside text, capabilities.

Counts here need no tokenizer: the producer must not load one, and every model has its own.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import orjson

from routoo.domain.pool import IMAGE_PART, IMAGE_TYPES, CandidateModel, Capability

BYTES_PER_TOKEN = 4.0
"""Mean UTF-8 bytes per token of English text in current BPE vocabularies: an estimate."""
TEMPLATE_TOKENS_PER_MESSAGE = 8
"""Room for the chat template's marks around each message."""
TEMPLATE_TOKENS = 24
"""Room for what a template adds once, such as a default system message."""

ANTHROPIC_TOOLS_TOKENS = 600
"""Room for what Anthropic's API says of tools in a system prompt of its own: 530 tokens at most."""

LIMIT_KEYS = ("max_completion_tokens", "max_tokens")
"""Fields of a request that limit the tokens of each answer."""
_CHOICE_KEYS = ("n", "best_of")
_TEXT_TYPES = frozenset({"text", "input_text", "output_text", "refusal", "thinking", "reasoning"})
"""Types of content parts whose JSON bounds what they are billed: all that is read stands in it."""
PART_REMEDY = (
    "set image_prompt_tokens, or part_prompt_tokens for other kinds, in the pool for the models "
    "that take them"
)
_NO_PARTS: Mapping[str, int] = {}
_RESPONSE_FORMATS = {"json_object": Capability.JSON_MODE, "json_schema": Capability.JSON_SCHEMA}
_CACHE_MARK = b'"cache_control"'
_NOT_WORDS = re.compile(r"[\W_]+")


def prompt_text(body: Mapping[str, Any]) -> str:
    """Return the text of a chat or plain completion request, messages joined by blank lines."""
    if "messages" not in body:
        prompt = body.get("prompt", "")
        return prompt if isinstance(prompt, str) else ""
    return "\n\n".join(_texts(body["messages"]))


# Loops, not generators: a dispatcher counts each of its calls several times.


def _texts(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, str):
            texts.append(content)
        elif isinstance(content, list):
            said = [part.get("text") for part in content if isinstance(part, Mapping)]
            texts += [text for text in said if isinstance(text, str)]
    return texts


def part_counts(body: Mapping[str, Any]) -> Mapping[str, int]:
    """Return how many content parts of each kind a request has, those of text left out.

    What such a part is billed doesn't follow from its JSON: it holds or names an image, a file, a
    recording. Kinds are the values of `type`; every kind of image is one (`IMAGE_PART`).
    """
    parts = _other_parts(body)
    return Counter(kind for kind, _ in parts) if parts else _NO_PARTS


def _other_parts(body: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Return the content parts that are not text, each behind its kind."""
    parts: list[tuple[str, object]] = []
    for message in body.get("messages", ()):
        content = message.get("content")
        if isinstance(content, list):
            for part in content:
                kind = _part_kind(part) if isinstance(part, Mapping) else None
                if kind is not None:
                    parts.append((kind, part))
        audio = message.get("audio")
        if audio is not None and isinstance(audio, Mapping):  # an earlier answer, by its id
            parts.append(("audio", audio))
    return parts


def _part_kind(part: Mapping[str, Any]) -> str | None:
    """Return the kind of a content part, None where it is text."""
    kind = part.get("type")
    if not isinstance(kind, str):  # servers then go by the other keys
        kind = next((key for key in part if key not in {"type", "text"}), "text")
    if kind in _TEXT_TYPES:
        return None
    return IMAGE_PART if kind in IMAGE_TYPES else kind


def part_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most prompt tokens that a model bills for the parts of a request beside its text.

    It is both the estimate and the bound: what an image or a file really costs depends on its
    size, by a rule that differs from vendor to vendor. The model must take such parts.
    """
    return model.part_tokens(part_counts(body)) or 0


def estimate_text_tokens(body: Mapping[str, Any]) -> int:
    """Return the expected prompt tokens of a request's text, template included."""
    size_bytes = len(prompt_text(body).encode("utf-8", errors="replace"))
    if "tools" in body:
        size_bytes += len(orjson.dumps(body["tools"]))
    return round(size_bytes / BYTES_PER_TOKEN) + template_tokens(body)


def estimate_prompt_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the expected prompt tokens of a call, images and other parts included."""
    return estimate_text_tokens(body) + part_tokens(body, model)


def bound_text_tokens(body: Mapping[str, Any], size_bytes: int | None = None) -> int:
    """Return an upper bound of the prompt tokens for any byte-level vocabulary: one token a byte.

    Parts of other kinds are left out: they are billed by their size and not by their bytes.

    Args:
        body: The request.
        size_bytes: Its length as JSON, where that is known.
    """
    if size_bytes is None:
        size_bytes = len(orjson.dumps(body))
    parts_bytes = sum(len(orjson.dumps(part)) for _, part in _other_parts(body))
    return size_bytes - parts_bytes + template_tokens(body)


def bound_prompt_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most prompt tokens a call can be billed, images and other parts included."""
    bound = bound_text_tokens(body) + part_tokens(body, model) + model.extra_prompt_tokens
    return bound + (ANTHROPIC_TOOLS_TOKENS if has_tools(body) and model.is_anthropic else 0)


def has_tools(body: Mapping[str, Any]) -> bool:
    """Return whether a request declares tools or functions, be it none."""
    return "tools" in body or "functions" in body


def requested_completion_tokens(body: Mapping[str, Any]) -> int | None:
    """Return the request's own limit of completion tokens, None where it names none.

    Of two it is the smaller one: calls are sent with that, in the field that their endpoint reads.
    """
    smallest: int | None = None
    for key in LIMIT_KEYS:
        limit = body.get(key)
        if isinstance(limit, int) and not isinstance(limit, bool):
            smallest = limit if smallest is None else min(limit, smallest)
    return smallest


def completion_limit(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most tokens that each answer to a request can have."""
    limit = requested_completion_tokens(body)
    if limit is None:
        return model.max_completion_tokens
    return limit if model.obeys_limits else max(limit, model.max_completion_tokens)


def bound_completion_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most completion tokens a call can be billed, all its choices together."""
    return completion_limit(body, model) * choice_count(body) + model.extra_completion_tokens


def bound_cost_usd(body: Mapping[str, Any], model: CandidateModel) -> Decimal:
    """Return the most that a call can cost, in USD: what is reserved before it is sent."""
    prompt = bound_prompt_tokens(body, model)
    written = prompt if _may_write_to_cache(body, model) else 0
    return model.cost_usd(prompt, bound_completion_tokens(body, model), 0, written)


def _may_write_to_cache(body: Mapping[str, Any], model: CandidateModel) -> bool:
    """Return whether a call may be billed for what it writes to a cache, at a higher price."""
    price = model.price_usd_per_mtok
    if price.cache_write is None or price.cache_write <= price.prompt:
        return False
    return marks_cache(orjson.dumps(model.with_parameters(body)))


def marks_cache(body_json: bytes) -> bool:
    """Return whether a request, written as JSON, may ask for text to be kept in a cache."""
    return _CACHE_MARK in body_json


def choice_count(body: Mapping[str, Any]) -> int:
    """Return how many answers a request asks for at once."""
    most = 1
    for key in _CHOICE_KEYS:
        count = body.get(key)
        if isinstance(count, int) and count > most:
            most = count
    return most


def is_repeatable(body: Mapping[str, Any]) -> bool:
    """Return whether a request's answer shall be the same each time: temperature 0, or a seed.

    Without a temperature, providers sample at 1.
    """
    return body.get("temperature") == 0 or body.get("seed") is not None


def estimate_call_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return what a call counts against an endpoint's tokens per minute: its answer at the limit.

    Args:
        body: The request.
        model: The candidate model.
    """
    return estimate_prompt_tokens(body, model) + bound_completion_tokens(body, model)


def template_tokens(body: Mapping[str, Any]) -> int:
    """Return how many tokens a chat template may add to a request's text."""
    return TEMPLATE_TOKENS + TEMPLATE_TOKENS_PER_MESSAGE * len(body.get("messages", ()))


def required_capabilities(body: Mapping[str, Any]) -> frozenset[Capability]:
    """Return what a model must be capable of to serve a chat-completion request."""
    return frozenset(_required(body))


def _required(body: Mapping[str, Any]) -> Iterator[Capability]:
    if body.get("tools") or body.get("functions"):
        yield Capability.TOOLS
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if isinstance(kind, str) and kind in _RESPONSE_FORMATS:  # it may be a list, that has no hash
        yield _RESPONSE_FORMATS[kind]


def text_sha256(prompt: str) -> str:
    """Return a hash of a prompt's words: equal for prompts that ask the same question.

    Case, punctuation, space and typography don't matter; `eval_items.text_sha256` keeps it.

    A prompt without any word is hashed as it is.
    """
    words = _NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", prompt).casefold()).strip()
    return hashlib.sha256((words or prompt).encode("utf-8", errors="surrogatepass")).hexdigest()


def unicode_text(text: str) -> str:
    """Return a text with pairs of surrogates joined and lone ones replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
