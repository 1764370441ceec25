"""What a gateway was told when it was started."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from producer.gateway.sessions import Sessions
from routoo.domain.pool import Pool
from routoo.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """What `serve` was told."""

    pools: Mapping[str, Pool]
    """Candidate models by the pool's name; the first is used where a request names none."""
    sessions: Sessions = field(default_factory=Sessions)
    """Browsers that are let in."""
    without_keys: bool = False
    """Let in whoever can connect, as if with a key for everything."""
    max_file_bytes: int = 2 * 2**30
    """Largest file that may be uploaded, in bytes."""
    max_request_bytes: int = 16 * 2**20
    """Largest body of any other request, in bytes."""

    _live_pools: dict[str, Pool] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Derive the pools of single calls, whose answers no judge reads: none has log-odds."""
        for name, pool in self.pools.items():
            models = (one.model_copy(update={"logprobs": False}) for one in pool.models)
            self._live_pools[name] = Pool(models=tuple(models))

    def live_pool(self, name: str | None, model: str | None, *, where: str) -> Pool:
        """Return the pool of a single call; where none is named, the first that has its model.

        Raises:
            NotFoundError: There is no such pool.
        """
        if name is not None:
            self.pool(name, where=where)
            return self._live_pools[name]
        having = (pool for pool in self._live_pools.values() if model in pool.names)
        return next(having, next(iter(self._live_pools.values())))

    def pool(self, name: str | None, *, where: str = "pool") -> Pool:
        """Return a pool by its name; the first where none is named.

        Args:
            name: The pool's name.
            where: What messages call the field that names it.

        Raises:
            NotFoundError: There is no such pool.
        """
        if name is None:
            return next(iter(self.pools.values()))
        if name not in self.pools:
            known = ", ".join(self.pools)
            remedy = f"Name one of {known}"
            raise NotFoundError("there is no such pool", value=name, where=where, remedy=remedy)
        return self.pools[name]
