"""The garbage collector, calmed for a process that holds thousands of short-lived calls."""

import gc

_YOUNG_OBJECTS = 100_000
"""More than the jobs of the shards at work hold: most are gone before anybody looks at them."""
_ROUNDS = 50


def calm_collector() -> None:
    """Keep what the imports left out of every collection, and collect less often.

    Calls in flight are young objects by the thousand, freed by their reference counts: with
    Python's defaults a dispatcher spent a fifth of its time looking at them and at its modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, _ROUNDS, _ROUNDS)
