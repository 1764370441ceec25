"""Candidate models, their prices and endpoints, and the pool they form."""

import re
from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TOKENS_PER_MTOK = Decimal(1_000_000)

Price = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class _Record(BaseModel):
    """Frozen, and an unknown key is an error, not a silently ignored typo."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Tariff(_Record):
    """A tariff in US dollars per million tokens; free must be said as 0."""

    prompt: Price
    completion: Price

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> Decimal:
        """Return the exact cost in USD of a call with these token counts."""
        tariff = self.prompt * prompt_tokens + self.completion * completion_tokens
        return tariff / TOKENS_PER_MTOK


class Endpoint(_Record):
    """Where a candidate model answers: any OpenAI-compatible server."""

    base_url: str
    """URL up to and with the version, for example https://api.openai.com/v1."""
    model: str | None = None
    """Name of the model at this endpoint; the candidate's own name where unset."""
    api_key_env: str | None = None
    """Environment variable that holds the API key; the key itself is never stored."""
    max_concurrency: Annotated[int, Field(ge=1)] = 16
    """Calls in flight at once."""
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    """Longest wait for one call's answer, in seconds."""

    @field_validator("base_url")
    @classmethod
    def _check_base_url(cls, value: str) -> str:
        if not re.match(r"https?://[^/]+", value):
            msg = "base_url must start with http:// or https:// and name a host"
            raise ValueError(msg)
        if re.match(r"https?://[^/]*@", value):
            msg = "base_url must not hold credentials; name a variable with api_key_env"
            raise ValueError(msg)
        return value


class CandidateModel(_Record):
    """One model of a pool: a name, a tariff, its limits and its endpoint."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    """Unique in the pool; the name outcome tables and checkpoints use."""
    endpoint: Endpoint
    price_usd_per_mtok: Tariff
    context_window_tokens: Annotated[int, Field(ge=1)]
    """Most prompt and completion tokens together."""
    max_completion_tokens: Annotated[int, Field(ge=1)] = 1024
    """Limit sent where a request names none: without one, a call's cost has no bound."""

    @property
    def model_at_endpoint(self) -> str:
        """Name to send in the request's `model` field."""
        return self.endpoint.model or self.name

    def cost_usd(self, prompt_tokens: int, completion_tokens: int) -> Decimal:
        """Return the exact cost in USD of a call with these token counts."""
        return self.price_usd_per_mtok.cost_usd(prompt_tokens, completion_tokens)


class Pool(_Record):
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
