"""What a gateway process works with, for the routes to depend on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request

from producer.gateway.sessions import Sessions
from routoo.domain.pool import Pool
from routoo.errors import NotFoundError
from routoo.settings import Settings
from routoo.store.database import Database


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

    def pool(self, name: str | None) -> Pool:
        """Return a pool by its name; the first where none is named.

        Raises:
            NotFoundError: There is no such pool.
        """
        if name is None:
            return next(iter(self.pools.values()))
        if name not in self.pools:
            known = ", ".join(self.pools)
            raise NotFoundError("there is no such pool", value=name, remedy=f"Name one of {known}")
        return self.pools[name]


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a running gateway."""

    settings: Settings
    options: GatewayOptions
    database: Database


def gateway_of(request: Request) -> Gateway:
    """Return the gateway that answers a request."""
    gateway: Gateway = request.app.state.gateway
    return gateway


GatewayDep = Annotated[Gateway, Depends(gateway_of)]
"""Type of a route's parameter that receives the gateway."""


def is_same_origin(request: Request) -> bool:
    """Return whether a request comes from a page of ours, or from no page at all."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")
