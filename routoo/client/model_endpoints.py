"""Where a candidate model can be asked: its endpoints, with what is fixed about each."""

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from uuid import uuid4

from yarl import URL

from routoo.client.access import Access, find_access
from routoo.client.formats.openai import CHAT_PATH, PLAIN_PATH
from routoo.client.limiter.endpoint_limiter import Gate
from routoo.client.post import Route
from routoo.client.token_counts import TokenCounter, TokenCounters
from routoo.domain.pool import CandidateModel, Endpoint
from routoo.limits.records import Caps

_MOST_CACHED = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """One endpoint of one candidate model."""

    model: CandidateModel
    """The model with this endpoint as its only one."""
    gate: Gate
    access: Access
    routes: Mapping[str, Route]
    """Where requests go, by their path."""
    where: Mapping[str, str]
    """The same for messages, without the query."""
    counter: TokenCounter | None
    """Counts tokens where an answer reports none."""


class Places:
    """Finds the places of models; the gates outlive the batches whose pools name them.

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
        self._gates: dict[str, Gate] = {}
        # By identity: hashing a model costs more than all else here. Values keep the keys alive.
        self._found: dict[int, tuple[CandidateModel, dict[Gate, Place]]] = {}

    @property
    def gates(self) -> Collection[Gate]:
        """Every gate there is."""
        return self._gates.values()

    def of(self, model: CandidateModel) -> Mapping[Gate, Place]:
        """Return a model's places by their gates.

        Raises:
            ConfigError: A variable that an endpoint names is not set, or a tokenizer not there.
        """
        found = self._found.get(id(model))
        if found is None:
            places = [self._place(model.at(endpoint)) for endpoint in model.all_endpoints]
            if len(self._found) >= _MOST_CACHED:
                self._found.clear()
            found = self._found[id(model)] = (model, {place.gate: place for place in places})
            for place in places:
                self._found[id(place.model)] = (place.model, {place.gate: place})
        return found[1]

    def _place(self, model: CandidateModel) -> Place:
        urls = {path: url_of(model.endpoint, path) for path in (CHAT_PATH, PLAIN_PATH)}
        where = {path: str(url.with_query(None)) for path, url in urls.items()}
        access = find_access(model, self._environ)
        routes = {path: Route(url, access) for path, url in urls.items()}
        counter = self._counters.of(model)
        return Place(model, self._gate(model), access, routes, where, counter)

    def _gate(self, model: CandidateModel) -> Gate:
        endpoint, key = model.endpoint, model.endpoint_key
        caps = Caps(
            endpoint.max_concurrency, endpoint.requests_per_minute, endpoint.tokens_per_minute
        )
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = Gate(key, self._owner, caps, self._wake)
        gate.caps = caps  # the latest pool's word holds
        return gate


def url_of(endpoint: Endpoint, path: str) -> URL:
    """Return where a request goes: below the base URL, whose query string is kept."""
    base = URL(endpoint.base_url)
    return base.joinpath(*path.split("/")).with_query(base.query)
