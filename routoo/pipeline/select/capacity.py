"""What the endpoints of a pool can carry out before a batch's deadline."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from routoo.domain.pool import Pool
from routoo.domain.prediction import NO_EXPERIENCE, Experience
from routoo.pipeline.select.endpoint_groups import EndpointGroup, endpoint_groups
from routoo.selector.problem import Capacity

USABLE_SHARE = 0.9
"""Of a limit, what a plan counts on: retries and the last calls' answers need the rest."""
_S_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What each call would take of its endpoint."""

    tokens: Float32[np.ndarray, "jobs models"]
    """Expected prompt and completion tokens."""
    latency_s: Float32[np.ndarray, "jobs models"]
    """Typical time that a call holds its place; NaN where nothing is known."""


def endpoint_capacities(
    pool: Pool, demand: Demand, experience: Experience, time_left_s: float
) -> tuple[Capacity, ...]:
    """Return the limits of each endpoint over the time that is left, as the selector takes them.

    Candidates that name the same endpoint draw on the same capacity, and several endpoints of one
    candidate add up. Where nothing is known of a latency, concurrency limits nothing.

    Args:
        pool: The candidate models with their endpoints.
        demand: Of each pair; models in pool order.
        experience: Says by how much slow calls raise the mean latency above the typical.
        time_left_s: Until the deadline.
    """
    usable_s = max(time_left_s, 0.0) * USABLE_SHARE
    known = [experience.get(name, NO_EXPERIENCE) for name in pool.names]
    tails = np.array([model.tail_factor for model in known], np.float32)
    timed = {column for column, model in enumerate(known) if model.base_s is not None}
    held = Demand(demand.tokens, np.nan_to_num(demand.latency_s * tails))
    return tuple(
        capacity
        for group in endpoint_groups(pool)
        for capacity in _of_group(group, timed & set(group.columns), held, usable_s)
    )


def _of_group(
    group: EndpointGroup, timed: set[int], demand: Demand, usable_s: float
) -> Iterator[Capacity]:
    minutes = usable_s / _S_PER_MINUTE
    requests = group.limit(lambda endpoint: endpoint.requests_per_minute)
    if requests is not None:
        yield Capacity(f"{group.name}: requests", group.columns, float(int(requests * minutes)))
    tokens = group.limit(lambda endpoint: endpoint.tokens_per_minute)
    if tokens is not None:
        yield Capacity(f"{group.name}: tokens", group.columns, tokens * minutes, demand.tokens)
    places = group.limit(lambda endpoint: endpoint.max_concurrency)
    if timed and places is not None:
        columns, limit_s = tuple(sorted(timed)), places * usable_s
        yield Capacity(f"{group.name}: seconds in flight", columns, limit_s, demand.latency_s)
