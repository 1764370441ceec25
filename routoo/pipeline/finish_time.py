"""When a plan's answers will be there: a forecast from the endpoints' limits and latencies.

Each endpoint starts its calls at an even rate, the slowest that its limits force, and each answer
comes a mean latency later. Endpoints work side by side. Retries, other batches on the same
endpoints and the workers' own speed are left out: it is the endpoints' part of the time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from routoo.domain.experience import UNKNOWN, Experience
from routoo.domain.pool import Endpoint, Pool
from routoo.pipeline.capacity import Demand, least_limit

_S_PER_MINUTE = 60.0
_S_PER_HOUR = 3600.0
_HALVINGS = 60
"""Bisection to the precision of a float."""


@dataclass(frozen=True, slots=True)
class EndpointTime:
    """How an endpoint spends its share of a plan."""

    endpoint: str
    """Its key in the pool."""
    calls: int
    spread_s: float
    """From its first call's start to its last one's, in seconds."""
    latency_s: float
    """Mean wait for an answer, in seconds."""
    slowest: str
    """What spreads its calls: concurrency, requests or tokens per minute, a batch's window."""

    def answered(self, time_s: float) -> float:
        """Return how many calls are answered at a time after the start."""
        if self.spread_s == 0:
            return float(self.calls) if time_s >= self.latency_s else 0.0
        return self.calls * min(1.0, max(0.0, (time_s - self.latency_s) / self.spread_s))


def endpoint_times(
    pool: Pool, choice: Int32[np.ndarray, " jobs"], demand: Demand, experience: Experience
) -> list[EndpointTime] | None:
    """Forecast each endpoint that the plan calls.

    Args:
        pool: The candidate models with their endpoints.
        choice: Column of each job's model, -1 where it has none.
        demand: Tokens and latency of each pair.
        experience: Says by how much slow calls raise the mean latency above the typical.

    Returns:
        The endpoints in pool order; None where a called model's latency is not known.
    """
    tails = np.array([experience.get(name, UNKNOWN).tail_factor for name in pool.names])
    groups: dict[str, list[int]] = {}
    for column, model in enumerate(pool.models):
        groups.setdefault(model.endpoint_key, []).append(column)
    times = []
    for key, columns in groups.items():
        rows = np.flatnonzero(np.isin(choice, columns))
        if len(rows) == 0:
            continue
        channel = pool.models[columns[0]].batch_channel
        if channel is not None and pool.models[columns[0]].is_batch_channel:
            window_s = channel.window_h * _S_PER_HOUR
            times.append(EndpointTime(key, len(rows), 0.0, window_s, "the provider's window"))
            continue
        taken = choice[rows]
        latency_s = float((demand.latency_s[rows, taken] * tails[taken]).mean())
        if np.isnan(latency_s):
            return None
        tokens = float(demand.tokens[rows, taken].sum(dtype=np.float64))
        endpoints = [pool.models[column].combined_endpoint for column in columns]
        spreads = dict(_spreads(endpoints, len(rows), tokens, latency_s))
        slowest = max(spreads, key=lambda name: spreads[name])
        times.append(EndpointTime(key, len(rows), spreads[slowest], latency_s, slowest))
    return times


def finish_time_s(times: Sequence[EndpointTime], share: float) -> float:
    """Return when a share of all calls is answered, in seconds after the start.

    Args:
        times: The endpoints, as `endpoint_times` gives them.
        share: Inside (0, 1].
    """
    wanted = share * sum(one.calls for one in times)
    low_s, high_s = 0.0, max((one.spread_s + one.latency_s for one in times), default=0.0)
    for _ in range(_HALVINGS):
        middle_s = (low_s + high_s) / 2
        done = sum(one.answered(middle_s) for one in times)
        low_s, high_s = (low_s, middle_s) if done >= wanted else (middle_s, high_s)
    return high_s


def _spreads(
    endpoints: Sequence[Endpoint], calls: int, tokens: float, latency_s: float
) -> Iterator[tuple[str, float]]:
    """Yield over how many seconds each limit spreads the calls; of several models' the least."""
    places = min(endpoint.max_concurrency for endpoint in endpoints)
    yield "concurrency", max(0.0, calls / places - 1.0) * latency_s
    requests = least_limit(endpoint.requests_per_minute for endpoint in endpoints)
    if requests is not None:
        yield "requests per minute", calls / requests * _S_PER_MINUTE
    per_minute = least_limit(endpoint.tokens_per_minute for endpoint in endpoints)
    if per_minute is not None:
        yield "tokens per minute", tokens / per_minute * _S_PER_MINUTE
