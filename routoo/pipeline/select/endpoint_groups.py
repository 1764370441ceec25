"""Endpoints that candidates share: which limits hold for which candidates together."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from routoo.domain.pool import Endpoint, Pool


@dataclass(frozen=True, slots=True)
class EndpointGroup:
    """Candidates that can be asked at these endpoints and nowhere else."""

    columns: tuple[int, ...]
    """The candidates' places in the pool."""
    endpoints: dict[str, list[Endpoint]]
    """By key; several candidates may describe one, and of their limits the least holds."""

    @property
    def name(self) -> str:
        """What people see: the endpoints' keys."""
        return " + ".join(self.endpoints)

    def limit(self, read: Callable[[Endpoint], float | None]) -> float | None:
        """Return what all endpoints take together; None where one of them takes any number."""
        limits = [_least(map(read, described)) for described in self.endpoints.values()]
        return None if None in limits else sum(limit for limit in limits if limit is not None)


def endpoint_groups(pool: Pool) -> list[EndpointGroup]:
    """Return each set of endpoints that a candidate has, and each that overlapping ones make up.

    The limits of all of them bind at once. Batch channels are left out: their limits are on
    batches, not on calls.
    """
    called = _called(pool)
    wanted = {frozenset(keys): None for keys in called.values()}
    for keys in list(wanted):
        wanted[_connected(keys, wanted)] = None
    return [_group(keys, called) for keys in wanted]


def separate_groups(groups: Iterable[EndpointGroup]) -> Iterator[list[EndpointGroup]]:
    """Yield the groups that have endpoints in common together, the widest first."""
    left = sorted(groups, key=lambda group: -len(group.endpoints))
    while left:
        widest = left[0]
        yield [group for group in left if group.endpoints.keys() <= widest.endpoints.keys()]
        left = [group for group in left if not group.endpoints.keys() <= widest.endpoints.keys()]


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
    """Return all endpoints that these ones reach by candidates they share."""
    grown = keys.union(*(other for other in sets if other & keys))
    return keys if grown == keys else _connected(grown, sets)


def _least(limits: Iterable[float | None]) -> float | None:
    """Return the lowest limit, None where none is set."""
    return min((limit for limit in limits if limit is not None), default=None)
