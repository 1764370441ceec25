"""Endpoints of candidate models: where they answer, and the limits of calls to them."""

import re
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

_HEADER_NAME = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"
"""A token of RFC 9110, section 5.6.2."""


class LimitField(StrEnum):
    """Which field of a request limits the tokens of an endpoint's answers."""

    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    NONE = "none"
    """It obeys none: its answers are as long as the pool's `max_completion_tokens` says."""


class ApiFormat(StrEnum):
    """The API that an endpoint speaks."""

    OPENAI = "openai"
    """Chat and plain completions as OpenAI words them, like most providers and servers."""
    ANTHROPIC = "anthropic"
    """Anthropic's Messages."""


_ANTHROPIC_HOST = "api.anthropic.com"
_ANTHROPIC_KEY_HEADER = "x-api-key"


class PoolRecord(BaseModel):
    """Base of the pool's records: frozen; an unknown key is an error, not an ignored typo."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ExpectedLatency(PoolRecord):
    """How long a call is expected to take until calls were measured: a + b x completion tokens."""

    base_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """What every call takes, however short its answer, in seconds."""
    per_completion_token_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """What each token of the answer adds, in seconds."""


def checked_base_url(value: str) -> str:
    """Return a base URL that can be called and stored.

    Raises:
        ValueError: It names no host, or holds credentials.
    """
    if not re.match(r"https?://[^/]+", value):
        msg = "base_url must start with http:// or https:// and name a host"
        raise ValueError(msg)
    if re.match(r"https?://[^/]*@", value):
        msg = "base_url must not hold credentials; name a variable with api_key_env"
        raise ValueError(msg)
    return value


class Endpoint(PoolRecord):
    """The server where a candidate model answers, and the API that it speaks."""

    base_url: str
    """URL up to and with the version, for example https://api.openai.com/v1."""
    model: str | None = None
    """Name of the model at this endpoint; the candidate's own name where unset."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; the key itself is never stored."""
    api_key_header: Annotated[str, Field(pattern=_HEADER_NAME)] = "Authorization"
    """Header that carries the key: after `Bearer` in Authorization, bare in any other (Azure's is
    api-key). Anthropic's format has x-api-key where unset."""
    format: ApiFormat = ApiFormat.OPENAI
    """The API; Anthropic's own where `base_url` is that of Anthropic and no other key header is
    given."""
    proxy_url_env: str | None = None
    """Environment variable that holds a proxy's URL; HTTP_PROXY and HTTPS_PROXY where unset."""
    max_concurrency: Annotated[int, Field(ge=1)] = 16
    """Calls in flight at once."""
    requests_per_minute: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Calls that may start in any minute; no limit where unset."""
    tokens_per_minute: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None
    """Prompt and completion tokens that any minute's calls may take; no limit where unset."""
    expected_latency: ExpectedLatency | None = None
    """What to expect until enough calls were measured; unknown where unset."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for one call's answer, in seconds."""
    completion_limit_field: LimitField | None = None
    """Field that it reads; where unset, max_tokens until it refuses that."""
    extra_prompt_tokens: Annotated[int, Field(ge=0)] = 0
    """Most prompt tokens that it bills beyond a token a byte, such as those of a hidden prompt."""
    extra_completion_tokens: Annotated[int, Field(ge=0)] = 0
    """Most completion tokens that it bills beyond a call's limit, such as reasoning beside it."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        return checked_base_url(value)

    @model_validator(mode="before")
    @classmethod
    def _know_anthropic(cls, values: object) -> object:
        """Fill in what follows from the format, and the format itself from Anthropic's address.

        A pool that names the header of OpenAI's format there means the compatible API.
        """
        if not isinstance(values, dict):
            return values
        url, header = str(values.get("base_url", "")), values.get("api_key_header")
        given = values.get("format")
        is_native = header is None or str(header).lower() == _ANTHROPIC_KEY_HEADER
        if given is None and is_native and _host(url) == _ANTHROPIC_HOST:
            given = ApiFormat.ANTHROPIC
        if given != ApiFormat.ANTHROPIC:
            return values
        filled = {**values, "format": given, "api_key_header": header or _ANTHROPIC_KEY_HEADER}
        if _host(url) == _ANTHROPIC_HOST and urlsplit(url).path in {"", "/"}:
            filled["base_url"] = url.rstrip("/") + "/v1"  # as Anthropic's own clients are given it
        return filled

    @model_serializer(mode="wrap")
    def _say_the_format(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Say at Anthropic's address that it is the compatible API, where defaults are left out."""
        found: dict[str, Any] = dump(self)
        if self.format is ApiFormat.OPENAI and _host(self.base_url) == _ANTHROPIC_HOST:
            found["api_key_header"] = self.api_key_header
            if self.api_key_header.lower() == _ANTHROPIC_KEY_HEADER:
                found["format"] = self.format.value
        return found


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
