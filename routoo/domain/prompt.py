"""What a chat request says and needs: its text, tokens, images and capabilities.

Counts here need no tokenizer: the producer must not load one, and every model has its own.
"""

import hashlib
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from routoo.domain.pool import CandidateModel, Capability

BYTES_PER_TOKEN = 4.0
"""Mean UTF-8 bytes per token of English text in current BPE vocabularies: an estimate."""
TEMPLATE_TOKENS_PER_MESSAGE = 8
"""Room for the chat template's marks around each message."""
TEMPLATE_TOKENS = 24
"""Room for what a template adds once, such as a default system message."""

_LIMIT_KEYS = ("max_completion_tokens", "max_tokens")
_CHOICE_KEYS = ("n", "best_of")
_IMAGE_TYPES = frozenset({"image_url", "input_image", "image"})
"""Types of content parts that hold an image, in the dialects of compatible servers."""
_RESPONSE_FORMATS = {"json_object": Capability.JSON_MODE, "json_schema": Capability.JSON_SCHEMA}
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


def image_count(body: Mapping[str, Any]) -> int:
    """Return how many images a request shows."""
    return len(_images(body))


def _images(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    images: list[Mapping[str, Any]] = []
    for message in body.get("messages", ()):
        content = message.get("content")
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, Mapping)]
            images += [part for part in parts if part.get("type") in _IMAGE_TYPES]
    return images


def image_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most prompt tokens that a request's images are billed by a model that takes any.

    It is both the estimate and the bound: what an image really costs depends on its size, by a
    rule that differs from vendor to vendor.
    """
    return image_count(body) * (model.image_prompt_tokens or 0)


def estimate_text_tokens(body: Mapping[str, Any]) -> int:
    """Return the expected prompt tokens of a request without its images, template included."""
    size_bytes = len(prompt_text(body).encode("utf-8", errors="replace"))
    if "tools" in body:
        size_bytes += len(orjson.dumps(body["tools"]))
    return round(size_bytes / BYTES_PER_TOKEN) + template_tokens(body)


def estimate_prompt_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the expected prompt tokens of a call, its images included."""
    return estimate_text_tokens(body) + image_tokens(body, model)


def bound_text_tokens(body: Mapping[str, Any]) -> int:
    """Return an upper bound of the prompt tokens for any byte-level vocabulary: one token a byte.

    Images are left out: they are billed by their size and not by their bytes.
    """
    images_bytes = sum(len(orjson.dumps(image)) for image in _images(body))
    return len(orjson.dumps(body)) - images_bytes + template_tokens(body)


def bound_prompt_tokens(body: Mapping[str, Any], model: CandidateModel) -> int:
    """Return the most prompt tokens a call can be billed, its images included."""
    return bound_text_tokens(body) + image_tokens(body, model)


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
    return (model.max_completion_tokens if limit is None else limit) * choice_count(body)


def choice_count(body: Mapping[str, Any]) -> int:
    """Return how many answers a request asks for at once."""
    most = 1
    for key in _CHOICE_KEYS:
        count = body.get(key)
        if isinstance(count, int) and count > most:
            most = count
    return most


def estimate_call_tokens(
    body: Mapping[str, Any], model: CandidateModel, completion_tokens: float | None = None
) -> int:
    """Return what a call will probably count against an endpoint's tokens per minute.

    Args:
        body: The request.
        model: The candidate model.
        completion_tokens: Predicted length of the answer; its limit where unset.
    """
    most = bound_completion_tokens(body, model)
    expected = most if completion_tokens is None else min(most, math.ceil(completion_tokens))
    return estimate_prompt_tokens(body, model) + expected


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
    if isinstance(wanted, Mapping) and wanted.get("type") in _RESPONSE_FORMATS:
        yield _RESPONSE_FORMATS[wanted["type"]]


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
