"""Finds the endpoints of candidate models, each with limiter, key, URLs, format and tokenizer."""

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from uuid import uuid4

from routoo.client.access import Access, find_access
from routoo.client.formats.anthropic import AnthropicFormat
from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.wire_format import WireFormat
from routoo.client.http import HttpTarget, target_of
from routoo.client.limiter.endpoint_limiter import EndpointLimiter
from routoo.client.token_counts import TokenCounter, TokenCounters
from routoo.domain.endpoint import ApiFormat, Endpoint
from routoo.domain.pool import CandidateModel
from routoo.limits.records import EndpointLimits

_MOST_CACHED = 1_000
_FORMATS: Mapping[ApiFormat, WireFormat] = {
    ApiFormat.OPENAI: OpenAIFormat(),
    ApiFormat.ANTHROPIC: AnthropicFormat(),
}


@dataclass(frozen=True, slots=True)
class ModelEndpoint:
    """One endpoint of one candidate model."""

    model: CandidateModel
    """The model with this endpoint as its only one."""
    limiter: EndpointLimiter
    limits: EndpointLimits
    """What the model's pool says of the endpoint; pools may differ."""
    access: Access
    format: WireFormat
    targets: Mapping[str, HttpTarget]
    """Where requests go, by their path."""
    counter: TokenCounter | None
    """Counts tokens where an answer reports none."""


class ModelEndpoints:
    """Finds the endpoints of models; their limiters outlive the batches whose pools name them.

    Args:
        environ: Where API keys and proxies are looked up.
        counters: Where models' tokenizers are kept.
        wake: Called when a call begins to wait.
    """

    def __init__(
        self, environ: Mapping[str, str], counters: TokenCounters, wake: Callable[[], None]
    ) -> None:
        self._environ, self._counters, self._wake = environ, counters, wake
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._limiters: dict[str, EndpointLimiter] = {}
        self._found: dict[CandidateModel, dict[EndpointLimiter, ModelEndpoint]] = {}

    @property
    def limiters(self) -> Collection[EndpointLimiter]:
        """Every limiter there is."""
        return self._limiters.values()

    def of(self, model: CandidateModel) -> Mapping[EndpointLimiter, ModelEndpoint]:
        """Return a model's endpoints by their limiters.

        Raises:
            ConfigError: A variable that an endpoint names is not set, or a tokenizer not there.
        """
        found = self._found.get(model)
        if found is None:
            alone = map(model.at, model.all_endpoints) if model.endpoints else [model]
            endpoints = [self._endpoint(one) for one in alone]
            if len(self._found) >= _MOST_CACHED:
                self._found.clear()
            for endpoint in endpoints:
                self._found[endpoint.model] = {endpoint.limiter: endpoint}
            found = self._found[model] = {endpoint.limiter: endpoint for endpoint in endpoints}
        return found

    def _endpoint(self, model: CandidateModel) -> ModelEndpoint:
        access, format_ = find_access(model, self._environ), format_of(model)
        limits = limits_of(model.endpoint)
        return ModelEndpoint(
            model,
            self._limiter(model.endpoint_key, limits),
            limits,
            access,
            format_,
            {
                path: target_of(model.endpoint, path, access, format_.headers)
                for path in format_.paths
            },
            self._counters.of(model),
        )

    def _limiter(self, key: str, limits: EndpointLimits) -> EndpointLimiter:
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = EndpointLimiter(key, self._owner, limits, self._wake)
        return limiter


def format_of(model: CandidateModel) -> WireFormat:
    """Return the format that a model's endpoint speaks."""
    return _FORMATS[model.endpoint.format]


def limits_of(endpoint: Endpoint) -> EndpointLimits:
    """Return the limits that the pool file gives an endpoint."""
    return EndpointLimits(
        endpoint.max_concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute
    )
