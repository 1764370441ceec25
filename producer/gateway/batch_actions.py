"""`/v1/batches/{id}/...`: what OpenAI's Batch API lacks, as plans, pauses, budgets and retries."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from producer import control
from producer.gateway.batches import Reader, Submitter, describe_batch, visible_batch
from producer.gateway.errors import ApiError
from producer.gateway.ids import batch_id_text, read_batch_id
from producer.gateway.state import Gateway, GatewayDep
from producer.progress import take_snapshot
from producer.queue import publish_or_note
from producer.results.export import output_line
from producer.results.follow import follow_results
from routoo.console.output import json_line
from routoo.domain.caller import Caller
from routoo.domain.job import ApiBatchState, BatchStatus, Stage
from routoo.store import batches
from routoo.store.batches import BatchRecord, retry

_SIGN_OF_LIFE_S = 15.0
"""An empty line is sent so often where no result comes: proxies end silent connections."""
_NO_PLAN_YET = frozenset({BatchStatus.PLANNING, BatchStatus.IN_PROGRESS})
router = APIRouter(prefix="/v1", tags=["Batches: plans, budgets, retries"])


class Resume(BaseModel):
    """The body of a request to let a batch go on."""

    model_config = ConfigDict(extra="forbid")

    budget_usd: Decimal | None = Field(
        None, ge=0, max_digits=18, decimal_places=6, description="New budget of the whole batch."
    )


class Retry(BaseModel):
    """The body of a request to try jobs again."""

    model_config = ConfigDict(extra="forbid")

    error_code: str | None = Field(
        None, description="Only jobs that ended with this code; all without an answer where unset."
    )


@router.get("/batches/{batch_id}/plan")
async def show_plan(batch_id: str, gateway: GatewayDep, caller: Reader) -> Response:
    """Return what a batch is expected to bring and to cost, as `routoo-producer plan --json`.

    A batch whose metadata says `plan_only` makes no call until its plan is submitted. 409 as long
    as the plan is being made: while `routoo.status` of the batch is `planning`.
    """
    batch = await _load(gateway, caller, batch_id)
    if batch.plan is None:
        status = str(batch.status)
        why = "is not ready yet" if batch.status in _NO_PLAN_YET else f"was never made: {status}"
        raise ApiError(409, f"The plan of this batch {why}.", code="no_plan")
    facts = {
        "object": "batch.plan",
        "batch_id": batch_id_text(batch.id),
        "status": batch.status,
        "budget_usd": batch.budget_usd,
        "objective": batch.objective.as_json(),
        "plan": batch.plan,
    }
    return _json(facts)


@router.post("/batches/{batch_id}/submit")
async def submit(batch_id: str, gateway: GatewayDep, caller: Submitter) -> dict[str, Any]:
    """Run exactly what was planned: from here on the batch spends money.

    A plan that was submitted before stays as it is.
    """
    batch = await _load(gateway, caller, batch_id)
    submitted = await control.submit_plan(gateway.database, str(batch.id))
    if submitted.created:
        await _publish(gateway, Stage.DISPATCH, batch.id, submitted.ready_shards)
    return await describe_batch(gateway, caller, batch.id)


@router.post("/batches/{batch_id}/pause")
async def pause(batch_id: str, gateway: GatewayDep, caller: Submitter) -> dict[str, Any]:
    """Let no new call of a batch start: calls in flight end, and their answers are kept."""
    batch = await _load(gateway, caller, batch_id)
    await control.pause_batch(gateway.database, str(batch.id))
    return await describe_batch(gateway, caller, batch.id)


@router.post("/batches/{batch_id}/resume")
async def resume(
    batch_id: str, gateway: GatewayDep, caller: Submitter, body: Resume | None = None
) -> dict[str, Any]:
    """Let a paused batch go on; with `budget_usd`, give the whole batch another budget.

    Jobs that ended for want of money are open again then, also of a batch that is over.
    """
    batch = await _load(gateway, caller, batch_id)
    budget_usd = None if body is None else body.budget_usd
    await control.resume_batch(gateway.database, str(batch.id), budget_usd)
    await _publish(gateway, Stage.SELECT, batch.id, 1)
    return await describe_batch(gateway, caller, batch.id)


@router.post("/batches/{batch_id}/retry")
async def try_again(
    batch_id: str, gateway: GatewayDep, caller: Submitter, body: Retry | None = None
) -> dict[str, Any]:
    """Open jobs without an answer again, all of them or those of one cause.

    Models are chosen anew for them, within what is left of the budget.
    """
    batch = await _load(gateway, caller, batch_id)
    code = None if body is None else body.error_code
    await control.retry_batch(gateway.database, str(batch.id), retry.UNANSWERED, code)
    await _publish(gateway, Stage.SELECT, batch.id, 1)
    return await describe_batch(gateway, caller, batch.id)


@router.get("/batches/{batch_id}/progress")
async def show_progress(batch_id: str, gateway: GatewayDep, caller: Reader) -> Response:
    """Return stages, money, models, failures by cause and the time left, as `status --json`."""
    batch = await _load(gateway, caller, batch_id)
    async with gateway.database.transaction() as conn:
        snapshot = await take_snapshot(conn, batch)
    return _json({**snapshot.as_json(), "batch_id": batch_id_text(batch.id)})


@router.get("/batches/{batch_id}/results")
async def follow(
    request: Request, batch_id: str, gateway: GatewayDep, caller: Reader, *, in_order: bool = False
) -> StreamingResponse:
    """Stream the result of every job as it comes, until the batch is over: JSON, one a line.

    The lines are those of the output and the error file, which there are only at the end. An
    empty line says that the batch is still followed. With `in_order` they come in input order, once
    the batch is over. The stream ends early where the gateway is stopped; whoever connects again
    gets all of them again.
    """
    batch = await _load(gateway, caller, batch_id)
    if batch.status in {BatchStatus.PLANNING, BatchStatus.PLANNED}:
        raise ApiError(409, "A plan has no results: submit it first.", code="not_submitted")
    is_stopping = request.app.state.is_stopping
    lines = _lines(gateway, batch, is_stopping, in_order=in_order)
    return StreamingResponse(lines, media_type="application/x-ndjson")


async def _lines(
    gateway: Gateway, batch: BatchRecord, is_stopping: Callable[[], bool], *, in_order: bool
) -> AsyncIterator[bytes]:
    async def is_over() -> bool:
        async with gateway.database.transaction() as conn:
            return (await batches.status(conn, batch.id)).is_over

    database, sent_at_s = gateway.database, time.monotonic()
    found = follow_results(database, batch.id, batch.job_count, is_over, in_order=in_order)
    async with aclosing(found) as blocks:
        async for block in blocks:
            if is_stopping():
                return
            text = b"".join(output_line(batch.id, record) for record in block)
            if not text and time.monotonic() - sent_at_s > _SIGN_OF_LIFE_S:
                text = b"\n"
            if text:
                sent_at_s = time.monotonic()
                yield text


async def _load(gateway: Gateway, caller: Caller, text: str) -> BatchRecord:
    """Return a batch that was submitted and that a caller may see.

    Raises:
        NotFoundError: There is no such batch.
        ApiError: It belongs to another key, or its rows are not read yet or can't be used.
    """
    batch_id: UUID = read_batch_id(text)
    async with gateway.database.transaction() as conn:
        record = await visible_batch(conn, caller, batch_id)
        if record.state is not ApiBatchState.SUBMITTED:
            raise ApiError(409, f"The batch is {record.state}.", code="not_submitted")
        return await batches.get(conn, batch_id)


async def _publish(gateway: Gateway, stage: Stage, batch_id: UUID, shards: int) -> None:
    """Tell the workers, in a thread: a broker may take its time."""
    await asyncio.to_thread(publish_or_note, gateway.settings, stage, batch_id, shards)


def _json(facts: dict[str, Any]) -> Response:
    return Response(json_line(facts), media_type="application/json")
