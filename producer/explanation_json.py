"""A job's explanation as JSON."""

from dataclasses import asdict
from typing import Any

from routoo.pipeline.explanation import JobExplanation
from routoo.selector.explain import Change
from routoo.store.batches import BatchRecord


def explanation_json(batch: BatchRecord, told: JobExplanation) -> dict[str, Any]:
    """Return what `explain --json` prints."""
    history = told.history
    return {
        "batch_id": str(batch.id),
        "custom_id": told.job.custom_id,
        "job_no": told.job.job_no,
        "shadow_price_per_usd": (batch.plan or {}).get("shadow_price_per_usd"),
        "serves_jobs": told.serves,
        "candidates": _candidates(told),
        "with_more_money": _change(told.explanation.with_more_money),
        "with_less_money": _change(told.explanation.with_less_money),
        "decisions": [asdict(one) for one in history.decisions],
        "calls": [asdict(one) for one in history.calls],
        "result": None if history.ending is None else asdict(history.ending),
    }


def _candidates(told: JobExplanation) -> list[dict[str, Any]]:
    columns = (told.explanation.candidates, told.quality, told.quality_std, told.latency_s)
    return [
        {
            "model": one.model,
            "standing": one.standing,
            "quality": quality,
            "quality_std": std,
            "counted_quality": one.quality / told.serves,
            "cost_usd": one.cost_usd,
            "latency_s": latency_s,
            "regret": one.regret,
            "reasons": list(one.reasons),
        }
        for one, quality, std, latency_s in zip(*columns, strict=True)
    ]


def _change(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else asdict(change)
