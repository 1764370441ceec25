"""Whether the jobs of a batch leave a model whose endpoints take no calls for now."""

from dataclasses import replace
from datetime import UTC, datetime

from psycopg import AsyncConnection

from routoo.domain.absence import Patience
from routoo.domain.batch_options import OnUnavailable
from routoo.domain.pool import CandidateModel
from routoo.store.batches import BatchRecord
from routoo.store.endpoint_limits import absence
from routoo.store.model_calls import is_down

_LAG_S = 2.0
"""Jobs count an absence from the first failures that they see; the shared account, which a plan
reads, counts it from the report of enough of them, some seconds later at most."""


async def is_left(conn: AsyncConnection, batch: BatchRecord, model: CandidateModel) -> bool:
    """Return whether a plan gives a model's jobs to others for now.

    A batch that rather falls back leaves a model as soon as its calls keep failing; one that waits
    does once its patience or its deadline says so.
    """
    options = batch.call_options
    found = await absence(conn, model)
    if found is None:
        falls_back = options.on_unavailable is OnUnavailable.FALLBACK
        return falls_back and await is_down(conn, model)
    if found.lasted_s:
        found = replace(found, lasted_s=found.lasted_s + _LAG_S)
    deadline = batch.deadline
    left_s = None if deadline is None else (deadline - datetime.now(UTC)).total_seconds()
    patience = Patience(options.on_unavailable, options.patience_s)
    return not patience.waits(found, left_s, has_other=len(batch.pool.models) > 1)
