"""Checks a completion request's body before any of it reaches a model."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import chain
from typing import Any, NamedTuple, Self, cast

from producer.rows.problems import ProblemKind, RowProblem
from routoo.domain.endpoint import ApiFormat
from routoo.domain.pool import CandidateModel, Pool
from routoo.domain.prompt import (
    LIMIT_KEYS,
    PART_REMEDY,
    TEMPLATE_TOKENS,
    estimate_text_tokens,
    part_counts,
    requested_completion_tokens,
)
from routoo.domain.validators import implied_schema
from routoo.errors import InputError

ROUTED_NAMES = frozenset({"auto", "routoo", "routoo/auto"})
"""Values of `model` that leave the choice to Routoo, as no value does."""
_COUNTS = ("max_tokens", "max_completion_tokens", "n", "best_of")
_WHOLE_NUMBERS = frozenset((*_COUNTS, "seed", "top_k", "top_logprobs"))
_CHECKED_FIELDS = _WHOLE_NUMBERS.difference(LIMIT_KEYS) | {"model", "stream", "response_format"}
"""Fields whose values are checked, or may be changed, beside messages and limits."""
_FRACTIONS = (float, Decimal)
_MESSAGE_FIELDS = ("role", "content")
_MOST = 2**31 - 1
_NAMES_SHOWN = 10

_NO_MESSAGES = RowProblem(
    ProblemKind.MISSING_FIELD,
    "the body has neither a list of messages nor a prompt",
    'Write "messages": [{"role": "user", "content": ...}]',
)
_BAD_MESSAGE = RowProblem(
    ProblemKind.WRONG_TYPE,
    "a message is not an object with a role and a content",
    'Write {"role": "user", "content": ...} with the content as text or as a list of parts',
)
_EMPTY_PROMPT = RowProblem(
    ProblemKind.EMPTY_PROMPT, "the prompt is empty", "Give it text, or leave the row out"
)
_BAD_PROMPT = RowProblem(
    ProblemKind.WRONG_TYPE, "the prompt is not one text", "Write one row for each prompt"
)
_STREAMED = RowProblem(
    ProblemKind.UNSUPPORTED_REQUEST,
    "stream is true, and a batch has nobody to stream to",
    "Remove stream",
)


class _ContextWindow(NamedTuple):
    """Tokens that fit a model, or the widest of a pool."""

    tokens: int
    """Prompt and answer together."""
    prompt_tokens: int
    """Prompt alone, where the request sets no limit of its own for the answer."""
    part_kinds: tuple[frozenset[str], ...]
    """Kinds of content parts beside text that each of the models takes."""

    @classmethod
    def of(cls, model: CandidateModel) -> Self:
        tokens = model.context_window_tokens
        return cls(tokens, tokens - model.max_completion_tokens, (model.part_kinds,))


def _may_be_usual(names: tuple[str, ...]) -> bool:
    """Return whether a body of such fields is a chat that sets what `check` looks at by default."""
    return "messages" in names and _CHECKED_FIELDS.isdisjoint(names)


class BodyCheck:
    """Checks bodies against the limits of one pool.

    Args:
        pool: The candidate models.
        ignore_model: Route every job, whatever model its body names.

    Attributes:
        models: Names of the candidate models.
    """

    def __init__(self, pool: Pool, *, ignore_model: bool = False) -> None:
        self._windows = {model.name: _ContextWindow.of(model) for model in pool.models}
        windows = self._windows.values()
        self._widest = _ContextWindow(
            max(window.tokens for window in windows),
            max(window.prompt_tokens for window in windows),
            tuple({window.part_kinds[0] for window in windows}),
        )
        self._native = {
            model.name
            for model in pool.models
            if all(one.format is ApiFormat.ANTHROPIC for one in model.all_endpoints)
        }
        self._ignore_model = ignore_model
        self.models = pool.names

    def check(self, body: dict[str, Any], size_bytes: int, problems: list[RowProblem]) -> None:
        """Add what is wrong with a body to the problems.

        Whole numbers such as 256.0 become 256, and a `model` that names no one model is removed.

        Args:
            body: The request, changed in place.
            size_bytes: An upper bound of its text's UTF-8 bytes; short texts need no counting then.
            problems: Those of the row so far.
        """
        window = self._widest
        if "model" in body:
            window, problem = self._take_model(body)
            problems += [] if problem is None else [problem]
        if body.get("stream"):
            problems.append(_STREAMED)
        _counts(body, problems)
        problem = (
            _check_prompt(body)
            or _check_parts(body, window)
            or _check_length(body, size_bytes, window)
            or _check_response_format(body)
        )
        if problem is not None:
            problems.append(problem)

    def are_usual(self, bodies: Sequence[Any], largest_bytes: int) -> bool:
        """Return whether bodies are all chats such as most are, for any model, that surely fit.

        `check` would find nothing wrong with them, and change nothing.

        Args:
            bodies: The requests, at least one.
            largest_bytes: An upper bound of the UTF-8 bytes of each one's text.
        """
        if set(map(type, bodies)) != {dict}:
            return False
        if not all(map(_may_be_usual, set(map(tuple, bodies)))):
            return False
        if not _are_texts([body["messages"] for body in bodies]):
            return False
        limits = [body.get(key) for key in LIMIT_KEYS for body in bodies]
        if not set(map(type, limits)) <= {int, type(None)}:
            return False
        set_limits: list[int] = [limit for limit in limits if limit is not None]
        if set_limits and not 1 <= min(set_limits) <= max(set_limits) <= _MOST:
            return False
        left_tokens = self._widest.tokens - max(set_limits, default=0)
        return largest_bytes + TEMPLATE_TOKENS <= min(self._widest.prompt_tokens, left_tokens)

    def is_native(self, model: object) -> bool:
        """Return whether all models that may answer speak Anthropic's API.

        Args:
            model: What the request names as its model.
        """
        if not self._ignore_model and isinstance(model, str) and model in self._windows:
            return model in self._native
        return len(self._native) == len(self._windows)

    def _take_model(self, body: dict[str, Any]) -> tuple[_ContextWindow, RowProblem | None]:
        name = body.get("model")
        if name is None or self._ignore_model or _is_routed(name):
            body.pop("model", None)
            return self._widest, None
        window = self._windows.get(name) if isinstance(name, str) else None
        if window is not None:
            return window, None
        names = ", ".join(list(self._windows)[:_NAMES_SHOWN])
        remedy = (
            f"Leave model out or write auto to have it chosen, name one of {names}, "
            "add it to the pool with its price, or pass --ignore-model"
        )
        what = "the model is not in the pool, so it has no endpoint and no price"
        return self._widest, RowProblem(ProblemKind.UNKNOWN_MODEL, what, remedy, name)


def _check_prompt(body: Mapping[str, Any]) -> RowProblem | None:
    if "messages" in body or "prompt" not in body:
        return _check_messages(body.get("messages"))
    prompt = body["prompt"]
    if type(prompt) is not str:
        return _BAD_PROMPT
    return None if prompt and not prompt.isspace() else _EMPTY_PROMPT


def _are_texts(chats: Sequence[object]) -> bool:
    """Return whether lists of messages are of texts alone, and each message says something."""
    if set(map(type, chats)) != {list} or not all(chats):
        return False
    messages = list(chain.from_iterable(cast("Sequence[list[Any]]", chats)))
    if set(map(type, messages)) != {dict} or set(map(len, messages)) != {len(_MESSAGE_FIELDS)}:
        return False
    texts = [message.get(name) for name in _MESSAGE_FIELDS for message in messages]
    if set(map(type, texts)) != {str}:
        return False
    contents = texts[-len(messages) :]
    return all(contents) and not any(map(str.isspace, contents))


def _check_messages(messages: object) -> RowProblem | None:
    if type(messages) is not list or not messages:
        return _NO_MESSAGES
    has_text = False
    for message in messages:
        if type(message) is not dict or type(message.get("role")) is not str:
            return _BAD_MESSAGE
        content = message.get("content")
        if type(content) is str:
            has_text = has_text or bool(content and not content.isspace())
        elif type(content) is list:
            if not all(type(part) is dict for part in content):
                return _BAD_MESSAGE
            has_text = has_text or any(map(_part_has_text, content))
        elif content is not None:
            return _BAD_MESSAGE
    return None if has_text else _EMPTY_PROMPT


def _check_parts(body: Mapping[str, Any], window: _ContextWindow) -> RowProblem | None:
    """Return a problem where no model that may answer says what it bills for a kind of part."""
    kinds = part_counts(body).keys()
    if not kinds or any(kinds <= taken for taken in window.part_kinds):
        return None
    return RowProblem(
        ProblemKind.UNSUPPORTED_REQUEST,
        f"the request has {' and '.join(sorted(kinds))} parts, and no model that may answer says "
        "what it bills for one",
        PART_REMEDY[0].upper() + PART_REMEDY[1:],
    )


def _check_response_format(body: Mapping[str, Any]) -> RowProblem | None:
    """Check the schema that answers must keep because the request asks for it."""
    if "response_format" not in body:
        return None
    try:
        schema = implied_schema(body)
        if schema is not None:
            _check_schema(schema)
    except InputError as error:
        what = f"response_format: {error.what}"
        return RowProblem(ProblemKind.INVALID_RULE, what, error.remedy or "Correct it", error.value)
    except TypeError:
        return None  # nested too deep for JSON, which is told of the whole body
    return None


def _check_schema(schema: str) -> None:
    # Here and not above: JSON Schema takes 0.1 s to import, and few requests ask for one.
    from routoo.domain.json_schema import check_schema

    check_schema(schema)


def _part_has_text(part: Mapping[str, Any]) -> bool:
    text = part.get("text")
    return isinstance(text, str) and bool(text.strip())


def _counts(body: dict[str, Any], problems: list[RowProblem]) -> None:
    for name, value in body.items():
        if name in _WHOLE_NUMBERS and isinstance(value, _FRACTIONS) and value % 1 == 0:
            body[name] = int(value)  # such as 256.0, which providers refuse
    for name in _COUNTS:
        if name in body:
            value = body[name]
            if value is not None and not (type(value) is int and 1 <= value <= _MOST):
                what = f"{name} is not a whole number from 1"
                problems.append(RowProblem(ProblemKind.WRONG_TYPE, what, "Give one, as 256", value))


def _is_routed(name: object) -> bool:
    return isinstance(name, str) and name in ROUTED_NAMES


def _check_length(
    body: Mapping[str, Any], size_bytes: int, window: _ContextWindow
) -> RowProblem | None:
    limit = requested_completion_tokens(body)
    most = window.prompt_tokens if limit is None else window.tokens - limit
    # A message's JSON has more bytes than its template has tokens, so this can't pass by mistake.
    if size_bytes + TEMPLATE_TOKENS <= most:
        return None
    needed = estimate_text_tokens(body)
    if needed <= most:
        return None
    return RowProblem(
        ProblemKind.PROMPT_TOO_LONG,
        f"the prompt has about {needed:,} tokens, and the widest window of the models that "
        f"may answer leaves {max(most, 0):,} for it beside the answer",
        "Shorten it, set a lower max_tokens, or add a model with a wider window to the pool",
    )
