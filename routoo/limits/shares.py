"""Max-min fair shares of a whole number of places."""

from collections.abc import Mapping


def fair_shares(places: int, wanted: Mapping[str, int]) -> dict[str, int]:
    """Divide places: who wants little gets it, the rest is divided evenly among the others.

    Args:
        places: What there is.
        wanted: What each would like.

    Returns:
        A share for each; together no more than there is.
    """
    shares: dict[str, int] = {}
    left = places
    for served, name in enumerate(sorted(wanted, key=lambda name: (wanted[name], name))):
        shares[name] = min(wanted[name], left // (len(wanted) - served))
        left -= shares[name]
    return shares
