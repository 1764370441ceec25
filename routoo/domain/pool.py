"""Candidate models, their prices and endpoints, and the pool they form."""

import json
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from routoo.domain.batch_options import OnContentFilter
from routoo.domain.endpoint import ApiFormat, Endpoint, LimitField, PoolRecord, checked_base_url
from routoo.domain.model_prior import ModelPrior

TOKENS_PER_MTOK = Decimal(1_000_000)
_TOP_LOGPROBS = 5
"""Likeliest tokens that are asked for at each place: as many as every provider gives."""

BATCH_SUFFIX = "@batch"
"""A model's batch channel is a candidate of the model's name with this behind it."""

IMAGE_PART = "image"
IMAGE_TYPES = frozenset({"image_url", "input_image", IMAGE_PART})
"""Types of content parts that hold an image, in the dialects of compatible servers."""

Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
_FIXED_FIELDS = frozenset(
    {
        *("model", "messages", "prompt", "stream", "stream_options", "tools", "functions"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"),
        *("response_format", "logit_bias"),
    }
)
"""Request fields that are a row's own, or that other keys of the pool are for."""

PartTokens = Annotated[
    tuple[tuple[Annotated[str, Field(min_length=1)], Annotated[int, Field(ge=0)]], ...],
    BeforeValidator(lambda given: tuple(given.items()) if isinstance(given, Mapping) else given),
    PlainSerializer(dict),
]
"""Tokens by kind of content part: pairs of both."""


def _read_parameters(value: object) -> object:
    """Take request fields as a mapping, or as the pairs that the record keeps."""
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if not isinstance(name, str) or name in _FIXED_FIELDS:
            msg = f"parameters names {name}, which is a row's own, or another key of the pool"
            raise ValueError(msg)
    return tuple((name, _as_json(value[name])) for name in sorted(value))


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, default=_plain_number, allow_nan=False, sort_keys=True)
    except (TypeError, RecursionError) as error:
        msg = f"parameters holds what JSON can't carry: {error}"
        raise ValueError(msg) from error


def _plain_number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)  # a pool file's numbers are exact
    msg = f"a {type(value).__name__}"
    raise TypeError(msg)


Parameters = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(_read_parameters),
    PlainSerializer(lambda value: {name: json.loads(text) for name, text in value}),
]
"""Fields of a request by name; kept as pairs of name and JSON text, so that a record has a hash."""


class Capability(StrEnum):
    """What a request may need that not every model can do.

    Images and other content parts are left out: a model takes those of which the pool gives the
    most tokens.
    """

    JSON_MODE = "json_mode"
    """`response_format` of type `json_object`."""
    JSON_SCHEMA = "json_schema"
    """`response_format` of type `json_schema`."""
    TOOLS = "tools"
    """`tools`, or the older `functions`."""


class Tariff(PoolRecord):
    """Prices in US dollars per million tokens; a free model says so by 0."""

    prompt: Price
    completion: Price
    cached_prompt: Price | None = None
    """Of prompt tokens that the endpoint has in a cache; that of the others where unset."""
    cache_write: Price | None = None
    """Of prompt tokens that the endpoint writes to a cache as the request asks, 1.25 or 2 times
    `prompt` at Anthropic; that of the others where unset."""

    @field_validator("cached_prompt")
    @classmethod
    def _check_cached(cls, value: Decimal | None, info: ValidationInfo) -> Decimal | None:
        # Calls are reserved at the price of a prompt, or of a cache's write: none may cost more.
        if value is not None and value > info.data.get("prompt", value):
            msg = "cached_prompt must not be above prompt"
            raise ValueError(msg)
        return value

    def cost_usd(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        cached_prompt_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> Decimal:
        """Return the exact cost in USD of a call.

        Args:
            prompt_tokens: All of them.
            completion_tokens: Reasoning included.
            cached_prompt_tokens: How many of the prompt tokens the endpoint had in a cache.
            cache_write_tokens: How many of the others it wrote to a cache.
        """
        read = min(cached_prompt_tokens, prompt_tokens)
        cached = 0 if self.cached_prompt is None else read
        written = 0 if self.cache_write is None else min(cache_write_tokens, prompt_tokens - read)
        usd = self.prompt * (prompt_tokens - cached - written) + self.completion * completion_tokens
        usd += (self.cached_prompt or 0) * cached + (self.cache_write or 0) * written
        return usd / TOKENS_PER_MTOK


class BatchChannel(PoolRecord):
    """A provider's batch API: a second way to a model that is cheaper and slower."""

    price_usd_per_mtok: Tariff
    """Tariff of calls through the channel."""
    window_h: Annotated[int, Field(ge=1, le=24 * 30)] = 24
    """Longest wait for a batch's answers, in hours: the provider's completion window."""
    base_url: str | None = None
    """URL below which `files` and `batches` are; the endpoint's own where unset."""
    url_prefix: Annotated[str, Field(pattern=r"^(/[\w.-]+)*$")] = "/v1"
    """What stands before /chat/completions in the rows of a batch file; empty at Azure."""
    max_requests: Annotated[int, Field(ge=1)] = 50_000
    """Most rows of one batch."""
    max_file_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 200.0
    """Most megabytes (1,000,000 bytes) of one batch's file."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str | None) -> str | None:
        return None if value is None else checked_base_url(value)


class CandidateModel(PoolRecord):
    """One model of a pool: a name, a tariff, its limits and its endpoint."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Unique in the pool; the name outcome tables and checkpoints use."""
    endpoint: Endpoint
    """Where it answers; the first of `endpoints` where only those are given."""
    endpoints: tuple[Endpoint, ...] = ()
    """More endpoints, or keys of one, that answer alike: they share the load by headroom."""
    price_usd_per_mtok: Tariff
    context_window_tokens: Annotated[int, Field(ge=1)]
    """Most prompt and completion tokens together."""
    max_completion_tokens: Annotated[int, Field(ge=1)] = 1024
    """Limit sent where a request names none: without one, a call's cost has no bound."""
    image_prompt_tokens: Annotated[int, Field(ge=0)] | None = None
    """Most prompt tokens that one image is billed; unset where the model takes no images."""
    part_prompt_tokens: PartTokens = ()
    """Most prompt tokens that one content part of another kind is billed, by its `type`, such as
    input_audio, file or video_url; the model takes no part of a kind that is not here."""
    parameters: Parameters = ()
    """Fields of every request to it that the request itself doesn't set, such as reasoning_effort:
    one model with other parameters is another candidate."""
    logprobs: bool = False
    """Ask for the probabilities of an answer's tokens: a summary helps to judge the answer."""
    capabilities: frozenset[Capability] | None = None
    """What it can do beside plain answers; None says nothing, and then it is asked for anything.

    Whether it takes images and files is said by `image_prompt_tokens` and `part_prompt_tokens`.
    """
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    """Path of its tokenizer.json, the folder of that, or a package that holds it: counts the tokens
    of answers that report none; unset, they count at their bound."""
    on_content_filter: OnContentFilter = OnContentFilter.FALLBACK
    """What follows a refusal by its content filter, where the batch does not say."""
    batch_channel: BatchChannel | None = None
    """The provider's batch API, where jobs that can wait may take it."""
    prior: ModelPrior | None = None
    """Public facts of a model that no checkpoint was trained on, for the general checkpoint."""

    @field_validator("part_prompt_tokens")
    @classmethod
    def _check_part_kinds(cls, value: PartTokens) -> PartTokens:
        for kind, _ in value:
            if kind in IMAGE_TYPES:
                msg = f"part_prompt_tokens names {kind}: images are priced by image_prompt_tokens"
                raise ValueError(msg)
        return value

    @field_serializer("capabilities", when_used="json-unless-none")
    def _in_order(self, value: frozenset[Capability]) -> list[str]:
        return sorted(value)  # a set's own order changes from process to process

    @model_validator(mode="before")
    @classmethod
    def _take_first_endpoint(cls, values: object) -> object:
        if not isinstance(values, dict) or "endpoint" in values:
            return values
        given = values.get("endpoints")
        if isinstance(given, list | tuple) and given:
            return {**values, "endpoint": given[0]}
        return values

    def with_parameters(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a request with the candidate's own parameters where it sets none of that name."""
        if self.logprobs and "messages" in body:
            body = {"logprobs": True, "top_logprobs": _TOP_LOGPROBS, **body}
        if not self.parameters:
            return body
        return {**{name: json.loads(text) for name, text in self.parameters}, **body}

    @property
    def obeys_limits(self) -> bool:
        """Whether all its endpoints obey a request's limit of completion tokens."""
        endpoints = (self.endpoint, *self.endpoints)
        return all(one.completion_limit_field is not LimitField.NONE for one in endpoints)

    @property
    def extra_prompt_tokens(self) -> int:
        """Most prompt tokens that an endpoint bills beyond a token a byte."""
        return max(one.extra_prompt_tokens for one in (self.endpoint, *self.endpoints))

    @property
    def extra_completion_tokens(self) -> int:
        """Most completion tokens that an endpoint bills beyond a call's limit."""
        return max(one.extra_completion_tokens for one in (self.endpoint, *self.endpoints))

    @property
    def part_kinds(self) -> frozenset[str]:
        """Kinds of content parts beside text that it takes."""
        images = () if self.image_prompt_tokens is None else (IMAGE_PART,)
        return frozenset((*images, *(kind for kind, _ in self.part_prompt_tokens)))

    def part_tokens(self, counts: Mapping[str, int]) -> int | None:
        """Return the most prompt tokens that content parts are billed, given how many of each kind.

        None where it does not take a kind.
        """
        if not counts:
            return 0
        bounds = {IMAGE_PART: self.image_prompt_tokens, **dict(self.part_prompt_tokens)}
        known = [(bounds.get(kind), count) for kind, count in counts.items()]
        if any(bound is None for bound, _ in known):
            return None
        return sum((bound or 0) * count for bound, count in known)

    @property
    def all_endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint once, `endpoint` first."""
        return tuple(dict.fromkeys((self.endpoint, *self.endpoints)))

    def at(self, endpoint: Endpoint) -> Self:
        """Return the model with this endpoint as its only one."""
        return self.model_copy(update={"endpoint": endpoint, "endpoints": ()})

    @property
    def is_anthropic(self) -> bool:
        """Whether an endpoint of it speaks Anthropic's own API."""
        endpoints = (self.endpoint, *self.endpoints)
        return any(one.format is ApiFormat.ANTHROPIC for one in endpoints)

    @property
    def is_batch_channel(self) -> bool:
        """Whether this candidate is the batch channel of another."""
        return self.batch_channel is not None and self.name.endswith(BATCH_SUFFIX)

    @property
    def predicted_as(self) -> str:
        """Name of the model that answers, by which checkpoints and outcome tables know it."""
        return self.name.removesuffix(BATCH_SUFFIX) if self.is_batch_channel else self.name

    @property
    def model_at_endpoint(self) -> str:
        """Name to send in the request's `model` field."""
        return self.endpoint.model or self.name

    @property
    def endpoint_key(self) -> str:
        """Name of the endpoint: candidates that have the same one share its limits."""
        parts = (self.endpoint.base_url, self.model_at_endpoint, self.endpoint.api_key_env)
        channel = BATCH_SUFFIX if self.is_batch_channel else ""
        return "|".join(filter(None, parts)) + channel

    @property
    def endpoint_keys(self) -> dict[str, Endpoint]:
        """Every endpoint by its key."""
        return {self.at(endpoint).endpoint_key: endpoint for endpoint in self.all_endpoints}

    def cost_usd(
        self,
        prompt_tokens: int,
        completion_tokens: int,
        cached_prompt_tokens: int = 0,
        cache_write_tokens: int = 0,
    ) -> Decimal:
        """Return the exact cost in USD of a call with these token counts, as `Tariff` does."""
        price = self.price_usd_per_mtok
        return price.cost_usd(
            prompt_tokens, completion_tokens, cached_prompt_tokens, cache_write_tokens
        )


class Pool(PoolRecord):
    """The candidate models of a batch, in a fixed order; arrays over models follow it."""

    models: Annotated[tuple[CandidateModel, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = self.names
        for name in names:
            if names.count(name) > 1:
                msg = f"candidate model {name!r} is listed twice"
                raise ValueError(msg)
        return self

    def with_batch_channels(self) -> "Pool":
        """Return the pool with each model's batch channel as another candidate, next to it."""
        models: list[CandidateModel] = []
        for model in self.models:
            models.append(model)
            channel = None if model.is_batch_channel else model.batch_channel
            if channel is not None and model.name + BATCH_SUFFIX not in self.names:
                models.append(_channel_of(model, channel))
        return self if len(models) == len(self.models) else Pool(models=tuple(models))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the candidate models in pool order."""
        return tuple(model.name for model in self.models)

    def index(self, name: str) -> int:
        """Return the position of a candidate model; KeyError where there is none."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(name) from None


def _channel_of(model: CandidateModel, channel: BatchChannel) -> CandidateModel:
    """Return the candidate that stands for a model's batch channel."""
    changes = {
        "model": model.model_at_endpoint,
        "base_url": channel.base_url or model.endpoint.base_url,
        # A batch is not bound by what single calls are.
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "expected_latency": None,
    }
    return model.model_copy(
        update={
            "name": model.name + BATCH_SUFFIX,
            "endpoint": model.endpoint.model_copy(update=changes),
            "endpoints": (),
            "price_usd_per_mtok": channel.price_usd_per_mtok,
        }
    )
