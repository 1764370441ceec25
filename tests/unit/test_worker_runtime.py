"""What a dispatcher does before it works on a shard."""

from decimal import Decimal
from typing import Any, cast

import pytest

from routoo.client.token_counts import TokenCounters
from routoo.domain.endpoint import Endpoint
from routoo.domain.job import Lease
from routoo.domain.pool import CandidateModel, Pool, Tariff
from routoo.errors import ConfigError
from routoo.pipeline.shard_work import StageWork
from routoo.store.batches.records import BatchRecord
from routoo.store.shards import Done, WorkOutcome
from worker.runtime import _with_tokenizers

pytestmark = pytest.mark.anyio


async def test_a_tokenizer_that_lacks_is_refused_before_any_call() -> None:
    worked: list[Any] = []

    async def work(_lease: Lease, batch: BatchRecord) -> WorkOutcome:
        worked.append(batch)
        return Done()

    stage = _with_tokenizers(TokenCounters(), StageWork(work, grace_s=3.0))
    assert stage.grace_s == 3.0
    assert await stage.work(cast("Lease", None), _batch(None))
    with pytest.raises(ConfigError, match="no such tokenizer"):
        await stage.work(cast("Lease", None), _batch("/no/such/file.json"))
    assert len(worked) == 1


def _batch(tokenizer: str | None) -> BatchRecord:
    model = CandidateModel(
        name="small",
        endpoint=Endpoint(base_url="http://endpoint.test/v1"),
        price_usd_per_mtok=Tariff(prompt=Decimal(1), completion=Decimal(1)),
        context_window_tokens=4096,
        tokenizer=tokenizer,
    )

    class OfPool:
        pool = Pool(models=(model,))

    return cast("BatchRecord", OfPool())
