"""Networks that no endpoint may be in, and the one that is this machine."""

import ipaddress
from dataclasses import dataclass
from typing import Self

PRIVATE = "private"
"""Stands for all addresses that the internet doesn't route: of this machine, private, link-local
(cloud metadata among them), shared, multicast and reserved ones."""
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class BlockedNetworks:
    """Addresses that are never connected to."""

    networks: tuple[_Network, ...] = ()
    private: bool = False
    """Whether those that the internet doesn't route are blocked."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a list with commas, such as `private` or `10.0.0.0/8,169.254.0.0/16`.

        Raises:
            ValueError: A part is neither a network nor `private`.
        """
        parts = [part.strip() for part in text.split(",") if part.strip()]
        networks = tuple(ipaddress.ip_network(part) for part in parts if part != PRIVATE)
        return cls(networks, PRIVATE in parts)

    def blocks(self, address: str) -> bool:
        """Return whether an IP address is blocked; an IPv4 address inside an IPv6 one counts."""
        found = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(found, ipaddress.IPv6Address):
            found = found.ipv4_mapped or found.sixtofour or found
        if self.private and (not found.is_global or found.is_multicast):
            return True
        return any(found in network for network in self.networks)

    def __bool__(self) -> bool:
        return self.private or bool(self.networks)


NONE_BLOCKED = BlockedNetworks()


def is_loopback(host: str) -> bool:
    """Return whether a host, as a URL names it, is this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
