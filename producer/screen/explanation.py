"""Shows the explanation of one job's model, on a screen and as JSON."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from routoo.console import formatting
from routoo.console.output import FittedTable, TableColumn
from routoo.domain.completion import AnswerDecision, AnswerJudgement
from routoo.pipeline.explanation import JobExplanation
from routoo.selector.explain import Change
from routoo.store.batches.records import BatchRecord
from routoo.store.job_history import JobHistory

_MANY = 100
"""From here on decimals say nothing."""


def explanation_view(batch: BatchRecord, explained: JobExplanation) -> RenderableType:
    """Return the screen of `explain`."""
    head = Text.assemble(
        ("job ", "dim"), (explained.job.custom_id, "bold"), (" of batch ", "dim"), str(batch.id)
    )
    return Group(
        head,
        Text(),
        _candidates(explained),
        Text(),
        *map(Text, explanation_sentences(batch, explained)),
    )


def explanation_json(batch: BatchRecord, explained: JobExplanation) -> dict[str, Any]:
    """Return the facts that `explain --json` prints."""
    history = explained.history
    return {
        "batch_id": str(batch.id),
        "custom_id": explained.job.custom_id,
        "job_no": explained.job.job_no,
        "shadow_price_per_usd": (batch.plan or {}).get("shadow_price_per_usd"),
        "serves_jobs": explained.serves,
        "candidates": candidate_facts(explained),
        "with_more_money": _change_facts(explained.explanation.with_more_money),
        "with_less_money": _change_facts(explained.explanation.with_less_money),
        "decisions": [asdict(one) for one in history.decisions],
        "calls": [asdict(one) for one in history.calls],
        "judgements": [asdict(one) for one in history.judgements],
        "compared_calls": sorted(history.compared),
        "result": None if history.ending is None else asdict(history.ending),
    }


_CANDIDATE_COLUMNS = (
    TableColumn(title="model", least=16, fold=True),
    TableColumn(title="quality", right=True),
    TableColumn(title="cost", right=True),
    TableColumn(title="at worst", rank=3, right=True),
    TableColumn(title="latency", rank=2, right=True),
    TableColumn(title="regret", rank=1, right=True),
    TableColumn(title="standing", least=16, fold=True),
)


def _candidates(explained: JobExplanation) -> FittedTable:
    table = FittedTable(*_CANDIDATE_COLUMNS)
    columns = (
        explained.explanation.candidates,
        explained.quality,
        explained.quality_std,
        explained.latency_s,
        explained.worst_usd,
    )
    for one, quality, std, latency_s, worst_usd in zip(*columns, strict=True):
        table.add_row(
            one.model,
            f"{formatting.percent(quality)} ± {formatting.percent(std)}",
            formatting.usd(one.cost_usd),
            formatting.usd(worst_usd),
            formatting.duration(latency_s),
            f"{one.regret:.4f}",
            one.standing + (f": {'; '.join(one.reasons)}" if one.reasons else ""),
            style="bold" if one.standing == "chosen" else None,
        )
    return table


def explanation_sentences(batch: BatchRecord, explained: JobExplanation) -> Iterator[str]:
    """Yield what led to the job's model and what became of it, a sentence each."""
    price = (batch.plan or {}).get("shadow_price_per_usd")
    if price:
        count = f"{price:,.0f}" if price >= _MANY else f"{price:.3g}"
        yield f"The batch counts a dollar for {count} good answers: regret is in that trade."
    if explained.serves > 1:
        yield f"Its call answers {explained.serves:,} identical jobs: regret is of them together."
    more, less = explained.explanation.with_more_money, explained.explanation.with_less_money
    yield from _changed("more", more)
    yield from _changed("less", less)
    for decision in explained.history.decisions:
        quality, cost = decision.expected_quality, decision.expected_cost_usd
        expected = f"expected {formatting.percent(quality)} for {formatting.usd(cost)}"
        then = ""
        if decision.probe:
            chance = formatting.percent(decision.escalation_chance)
            then = f"; its answer is judged, another model is asked with a probability of {chance}"
        yield f"Plan {decision.revision}: {decision.model}, {expected}{then}."
    yield from called_sentences(explained.history)
    yield _result(explained)


def called_sentences(history: JobHistory) -> Iterator[str]:
    """Yield a job's calls and the decisions about their answers, a sentence each."""
    for call in history.calls:
        error = f", {call.error_code}: {call.error_message}" if call.error_code else ""
        took = formatting.duration(call.latency_s)
        probe = ", a probe," if call.probe else ""
        if call.attempt_no in history.compared:
            probe = ", to compare the answers,"
        yield (
            f"Call {call.attempt_no}: {call.model}{probe} {call.status} in {took} for "
            f"{formatting.usd(call.cost_usd)}{error}"
        )
    yield from judged_sentences(history)


def judged_sentences(history: JobHistory) -> Iterator[str]:
    """Yield what was decided about each of a job's answers, and by which figures."""
    compared = {call.model for call in history.calls if call.attempt_no in history.compared}
    for judged in history.judgements:
        yield _judgement(judged, compared)


def _judgement(judged: AnswerJudgement, compared: Collection[str]) -> str:
    decided = f"was {judged.decision}"
    if judged.next_model in compared and judged.decision == AnswerDecision.ESCALATED:
        decided = f"was to be compared with that of {judged.next_model}"
    said = f"Its answer to call {judged.attempt_no} {decided}"
    if judged.before is not None and judged.after is not None:
        before, after = formatting.percent(judged.before), formatting.percent(judged.after)
        said += f": it was expected to be good with {before}, judged with {after}"
    if judged.threshold is not None:
        said += f", and asking another model was worth {judged.threshold:.3f}"
    if judged.fault is not None:
        said += f"; it broke a rule ({judged.fault})"
    if judged.next_model and judged.decision == AnswerDecision.ACCEPTED:
        return f"{said}; the earlier answer of {judged.next_model} was taken."
    return said + (f"; next was {judged.next_model}." if judged.next_model else ".")


def _changed(way: str, change: Change | None) -> Iterator[str]:
    if change is not None:
        budget = formatting.usd(change.budget_usd)
        yield f"With {way} money it would get {change.model}: at a budget of about {budget}."


def _result(explained: JobExplanation) -> str:
    ending = explained.history.ending
    if ending is None:
        return "It has not ended yet."
    graded = "" if ending.quality is None else f", graded {formatting.percent(ending.quality)}"
    error = f": {ending.error_message}" if ending.error_message else ""
    by = f" by {ending.model}" if ending.model else ""
    how = "" if ending.decision == AnswerDecision.DIRECT else f" ({ending.decision})"
    return f"Ended as {ending.status}{by}{how} for {formatting.usd(ending.cost_usd)}{graded}{error}"


def candidate_facts(explained: JobExplanation) -> list[dict[str, Any]]:
    """Return what is known of each option of a job, in the order of the pool."""
    columns = (
        explained.explanation.candidates,
        explained.quality,
        explained.quality_std,
        explained.latency_s,
        explained.worst_usd,
    )
    return [
        {
            "model": one.model,
            "standing": one.standing,
            "quality": quality,
            "quality_std": std,
            "counted_quality": one.quality / explained.serves,
            "cost_usd": one.cost_usd,
            "worst_cost_usd": worst_usd,
            "latency_s": latency_s,
            "regret": one.regret,
            "reasons": list(one.reasons),
        }
        for one, quality, std, latency_s, worst_usd in zip(*columns, strict=True)
    ]


def _change_facts(change: Change | None) -> dict[str, Any] | None:
    return None if change is None else asdict(change)
