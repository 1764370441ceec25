"""Computes what a pool's endpoints can do until a deadline: requests, tokens, seconds in flight."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float32

from routoo.domain.pool import Endpoint, Pool
from routoo.domain.prediction import NO_EXPERIENCE, Experience
from routoo.selector.problem import Capacity

USABLE_SHARE = 0.9
"""Share of a limit that a plan uses; retries and the last answers need the rest."""
_S_PER_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Demand:
    """What each call takes of its endpoint's capacity."""

    tokens: Float32[np.ndarray, "jobs models"]
    """Expected prompt and completion tokens."""
    latency_s: Float32[np.ndarray, "jobs models"]
    """Typical latency of a call, which holds a slot meanwhile; NaN where nothing is known."""

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Self:
        """Return a demand of zeros, to be filled in."""
        return cls(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


@dataclass(frozen=True, slots=True)
class EndpointGroup:
    """Endpoints, and the candidate models that have no endpoint besides them."""

    columns: tuple[int, ...]
    """The candidates' positions in the pool."""
    endpoints: dict[str, list[Endpoint]]
    """Descriptions of each endpoint by its key; of several descriptions the lowest limit holds."""

    @property
    def name(self) -> str:
        """Name that people see: the endpoints' keys."""
        return " + ".join(self.endpoints)

    def limit(self, read: Callable[[Endpoint], float | None]) -> float | None:
        """Return the sum of a limit over the endpoints; None where one has no such limit."""
        limits = [_least(map(read, described)) for described in self.endpoints.values()]
        return None if None in limits else sum(limit for limit in limits if limit is not None)


def endpoint_groups(pool: Pool) -> list[EndpointGroup]:
    """Return each candidate's set of endpoints, and the union of the sets that overlap.

    The limits of all these groups hold at once. Batch channels are left out: their limits are on
    batches, not on calls.
    """
    called = _called(pool)
    wanted = {frozenset(keys): None for keys in called.values()}
    for keys in list(wanted):
        wanted[_connected(keys, wanted)] = None
    return [_group(keys, called) for keys in wanted]


def separate_groups(groups: Iterable[EndpointGroup]) -> Iterator[list[EndpointGroup]]:
    """Yield lists of groups that share endpoints, in each list the widest group first."""
    left = sorted(groups, key=lambda group: -len(group.endpoints))
    while left:
        widest = left[0]
        yield [group for group in left if group.endpoints.keys() <= widest.endpoints.keys()]
        left = [group for group in left if not group.endpoints.keys() <= widest.endpoints.keys()]


def endpoint_capacities(
    pool: Pool, demand: Demand, experience: Experience, time_left_s: float
) -> tuple[Capacity, ...]:
    """Return what the endpoints can take in the time that is left, as limits for the selector.

    Candidates with the same endpoint share its capacity, and the endpoints of one candidate add up.
    Concurrency limits nothing where no latency is known.

    Args:
        pool: The candidate models with their endpoints.
        demand: What each call takes; models in pool order.
        experience: Its tail factors raise the typical latency to the mean.
        time_left_s: Seconds until the deadline.
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
    slots = group.limit(lambda endpoint: endpoint.max_concurrency)
    if timed and slots is not None:
        columns, limit_s = tuple(sorted(timed)), slots * usable_s
        yield Capacity(f"{group.name}: seconds in flight", columns, limit_s, demand.latency_s)


def _called(pool: Pool) -> dict[int, dict[str, Endpoint]]:
    return {
        column: model.endpoint_keys
        for column, model in enumerate(pool.models)
        if not model.is_batch_channel
    }


def _group(keys: frozenset[str], called: dict[int, dict[str, Endpoint]]) -> EndpointGroup:
    columns = tuple(column for column, own in called.items() if set(own) <= keys)
    endpoints: dict[str, list[Endpoint]] = {}
    for column in columns:
        for key, endpoint in called[column].items():
            endpoints.setdefault(key, []).append(endpoint)
    return EndpointGroup(columns, endpoints)


def _connected(keys: frozenset[str], sets: Iterable[frozenset[str]]) -> frozenset[str]:
    """Return all endpoints that are connected with these by candidates that have several."""
    grown = keys.union(*(other for other in sets if other & keys))
    return keys if grown == keys else _connected(grown, sets)


def _least(limits: Iterable[float | None]) -> float | None:
    """Return the lowest limit; None where none is set."""
    return min((limit for limit in limits if limit is not None), default=None)
