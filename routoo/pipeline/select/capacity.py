"""Computes what a pool's endpoints can do until a deadline, and when a plan's answers arrive.

Capacities are requests, tokens and seconds in flight; the forecast takes each endpoint's slowest
limit and the latency of its calls.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Float32, Int32

from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import Pool
from routoo.domain.prediction import NO_EXPERIENCE, Experience
from routoo.pipeline.select.probes import ProbedJobs, no_probed_jobs
from routoo.selector.problem import Capacity

USABLE_SHARE = 0.9
"""Share of a limit that a plan uses; retries and the last answers need the rest."""
_S_PER_MINUTE = 60.0
_S_PER_HOUR = 3600.0
_HALVINGS = 60
"""Bisection to the precision of a float."""


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


@dataclass(frozen=True, slots=True)
class EndpointTime:
    """Calls of a plan at one endpoint, and how long they take."""

    endpoint: str
    """Its key in the pool."""
    calls: int
    spread_s: float
    """Time from the start of the first call to the start of the last one, in seconds."""
    latency_s: float
    """Mean latency of a call, in seconds."""
    slowest: str
    """The limit that spreads the calls most: concurrency, requests or tokens a minute, a window."""

    def answered(self, time_s: float) -> float:
        """Return how many calls are answered at a time after the start."""
        if self.spread_s == 0:
            return float(self.calls) if time_s >= self.latency_s else 0.0
        return self.calls * min(1.0, max(0.0, (time_s - self.latency_s) / self.spread_s))


def endpoint_times(
    pool: Pool,
    choice: Int32[np.ndarray, " jobs"],
    demand: Demand,
    experience: Experience,
    second: ProbedJobs | None = None,
) -> list[EndpointTime] | None:
    """Forecast each endpoint that the plan calls; endpoints of one candidate count as one.

    Args:
        pool: The candidate models with their endpoints.
        choice: Column of each job's model, -1 where it has none.
        demand: Tokens and latency of each pair.
        experience: Its tail factors raise the typical latency to the mean.
        second: The calls that may follow; None where each job is called once.

    Returns:
        The endpoints, then the batch channels; None where a called model's latency is not known.
    """
    tails = np.array([experience.get(name, NO_EXPERIENCE).tail_factor for name in pool.names])
    second = second or no_probed_jobs(len(pool.models))
    calls = _PlannedCalls(choice, demand.tokens, demand.latency_s * tails, second)
    times = []
    for groups in separate_groups(endpoint_groups(pool)):
        load = calls.of(groups[0].columns)
        if np.isnan(load.latency_s):
            return None
        if load.calls:
            slowest, spread_s = _slowest(calls, groups)
            times.append(
                EndpointTime(groups[0].name, load.calls, spread_s, load.latency_s, slowest)
            )
    return times + list(_channel_times(pool, choice))


@dataclass(frozen=True, slots=True)
class _Load:
    """Calls of some candidates together."""

    calls: int
    tokens: float
    latency_s: float
    """Mean latency of a call; NaN where it is not known."""

    def joined(self, other: "_Load") -> "_Load":
        """Return both loads as one."""
        if other.calls == 0:
            return self
        calls = self.calls + other.calls
        latency_s = (self.calls * self.latency_s + other.calls * other.latency_s) / calls
        return _Load(calls, self.tokens + other.tokens, latency_s)


@dataclass(frozen=True, slots=True)
class _PlannedCalls:
    """All calls that a plan makes."""

    choice: Int32[np.ndarray, " jobs"]
    tokens: Float32[np.ndarray, "jobs models"]
    latency_s: Float[np.ndarray, "jobs models"]
    """Mean latency of each pair, slow calls included."""
    second: ProbedJobs
    """Calls that may follow."""

    def of(self, columns: Sequence[int]) -> _Load:
        """Return the calls of some candidates together."""
        rows = np.flatnonzero(np.isin(self.choice, columns))
        taken = self.choice[rows]
        if len(rows) == 0:
            return self._following(columns)
        tokens = float(self.tokens[rows, taken].sum(dtype=np.float64))
        first = _Load(len(rows), tokens, float(self.latency_s[rows, taken].mean()))
        return first.joined(self._following(columns))

    def _following(self, columns: Sequence[int]) -> _Load:
        """Return the calls after probes of some candidates that are expected."""
        models = list(columns)
        chance = self.second.later[:, models].astype(np.float64)
        calls = float(chance.sum())
        if calls < 1:
            return _Load(0, 0.0, 0.0)
        jobs = self.second.jobs
        tokens = float((chance * self.tokens[jobs][:, models]).sum())
        latency_s = np.where(chance > 0, self.latency_s[jobs][:, models], 0.0)
        return _Load(round(calls), tokens, float((chance * latency_s).sum()) / calls)


def _slowest(calls: _PlannedCalls, groups: Sequence[EndpointGroup]) -> tuple[str, float]:
    """Return the limit that spreads the calls most, and the seconds that it spreads them over."""
    spreads = [pair for group in groups for pair in _spreads(group, calls.of(group.columns))]
    return max(spreads, key=lambda pair: pair[1])


def _channel_times(pool: Pool, choice: Int32[np.ndarray, " jobs"]) -> Iterator[EndpointTime]:
    for column, model in enumerate(pool.models):
        calls = int(np.count_nonzero(choice == column))
        if calls and model.is_batch_channel and model.batch_channel is not None:
            window_s = model.batch_channel.window_h * _S_PER_HOUR
            yield EndpointTime(model.endpoint_key, calls, 0.0, window_s, "the provider's window")


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


def _spreads(group: EndpointGroup, load: _Load) -> Iterator[tuple[str, float]]:
    """Yield each limit with the seconds that it spreads the calls over."""
    slots = group.limit(lambda endpoint: endpoint.max_concurrency)
    if slots is not None:
        yield "concurrency", max(0.0, load.calls / slots - 1.0) * load.latency_s
    requests = group.limit(lambda endpoint: endpoint.requests_per_minute)
    if requests is not None:
        yield "requests per minute", load.calls / requests * _S_PER_MINUTE
    per_minute = group.limit(lambda endpoint: endpoint.tokens_per_minute)
    if per_minute is not None:
        yield "tokens per minute", load.tokens / per_minute * _S_PER_MINUTE
