"""Whose content filter ends a job, and whose sends it on to the next model."""

from routoo.domain.batch_options import OnContentFilter
from routoo.store.batches import BatchRecord


def final_filters(batch: BatchRecord) -> frozenset[str]:
    """Return the names of the models after whose refusal no other is asked.

    What the batch says holds for all of them; where it says nothing, the pool does for each.
    """
    own = batch.call_options.on_content_filter
    return frozenset(
        model.name
        for model in batch.pool.models
        if (own or model.on_content_filter) is OnContentFilter.FAIL
    )
