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
