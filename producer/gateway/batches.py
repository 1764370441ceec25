"""`/v1/batches`: batches as OpenAI's Batch API has them, planned, budgeted and routed."""

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID, uuid4

import orjson
from fastapi import APIRouter, Depends, Header, Query
from psycopg import AsyncConnection
from pydantic import BaseModel, ConfigDict, Field

from producer.gateway.access import require
from producer.gateway.errors import ApiError
from producer.gateway.files import list_json
from producer.gateway.ids import FileId, FileKind, batch_id_text, read_batch_id, read_file_id
from producer.gateway.output_files import result_file_ids
from producer.gateway.state import Gateway, GatewayDep
from producer.gateway.submitter import check_metadata, read_batch
from producer.rows.check import CHAT_URLS, PLAIN_URLS
from routoo.domain.caller import Caller, Scope
from routoo.domain.job import ApiBatchState, BatchStatus, ResultStatus
from routoo.store import api_batches, files, keys
from routoo.store.api_batches import ApiBatchRecord, NewApiBatch, SubmittedBatch
from routoo.store.batches import control
from routoo.store.files import FileRecord

_ENDPOINTS = (CHAT_URLS[0], PLAIN_URLS[0])
_MOST_LISTED, _LISTED = 100, 20
_WINDOW = "24h"
_METADATA = """
Texts: plan_only, budget_usd, pool, name, min_mean_quality, match, willingness_to_pay_usd, risk,
floor_confidence, min_quality, max_cost_usd, max_latency_s, deadline, allowed_models, denied_models,
on_unavailable, patience_s, max_completion_tokens, dedupe, cascade, ignore_model, skip_invalid.
Further pairs are kept.
"""
_STATUSES = {
    BatchStatus.PLANNING: "in_progress",
    BatchStatus.PLANNED: "in_progress",
    BatchStatus.PAUSED: "in_progress",
}
"""States that OpenAI has no word for."""
router = APIRouter(prefix="/v1", tags=["Batches"])
Reader = Annotated[Caller, Depends(require(Scope.READ))]
Submitter = Annotated[Caller, Depends(require(Scope.SUBMIT))]


class CreateBatch(BaseModel):
    """The body of a request for a batch."""

    model_config = ConfigDict(extra="ignore")

    input_file_id: str
    endpoint: str = _ENDPOINTS[0]
    completion_window: str = _WINDOW
    metadata: dict[str, Any] | None = Field(None, description=_METADATA)


@router.post("/batches")
async def create(
    body: CreateBatch,
    gateway: GatewayDep,
    caller: Submitter,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    """Ask for a batch; its rows are read at once, in the background.

    The same file with the same metadata is the same batch, unless that failed or was cancelled.
    """
    if body.endpoint not in _ENDPOINTS:
        message = f"The endpoint must be {' or '.join(_ENDPOINTS)}, not {body.endpoint!r}."
        raise ApiError(400, message, param="endpoint")
    metadata = check_metadata(body.metadata)
    async with gateway.database.transaction() as conn:
        file = await _input_file(conn, caller, body.input_file_id)
        asked = read_batch(
            gateway.options, metadata, body.completion_window, datetime.now(UTC), file.filename
        )
        budget_usd = await _budget_of(conn, caller, asked.request.budget_usd)
        new = NewApiBatch(
            id=uuid4(),
            key_id=caller.key_id,
            input_file_id=file.id,
            endpoint=body.endpoint,
            completion_window=body.completion_window,
            details=metadata,
            budget_usd=budget_usd,
            expires_at=asked.expires_at,
            idempotency_key=_idempotency_key(caller, file, body, metadata, idempotency_key),
        )
        batch_id, _ = await api_batches.add(conn, new)
    gateway.submitter.wake()
    return await describe_batch(gateway, caller, batch_id)


@router.get("/batches")
async def list_batches(
    gateway: GatewayDep,
    caller: Reader,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_LISTED)] = _LISTED,
) -> dict[str, Any]:
    """List batches, the newest first."""
    last = None if after is None else read_batch_id(after)
    async with gateway.database.transaction() as conn:
        if last is not None:
            await visible_batch(conn, caller, last)
        found = await api_batches.page(
            conn, caller.key_id, all_keys=caller.is_admin, after=last, limit=limit + 1
        )
        shown = found[:limit]
        submitted = await api_batches.submitted_batches(conn, [one.id for one in shown])
    data = [batch_json(one, submitted.get(one.id)) for one in shown]
    return list_json(data, has_more=len(found) > limit)


@router.get("/batches/{batch_id}")
async def retrieve(batch_id: str, gateway: GatewayDep, caller: Reader) -> dict[str, Any]:
    """Describe a batch."""
    return await describe_batch(gateway, caller, read_batch_id(batch_id))


@router.post("/batches/{batch_id}/cancel")
async def cancel(batch_id: str, gateway: GatewayDep, caller: Submitter) -> dict[str, Any]:
    """Cancel a batch: calls in flight are awaited, and the answers so far are kept."""
    known = read_batch_id(batch_id)
    async with gateway.database.transaction() as conn:
        await visible_batch(conn, caller, known)
        was_submitted = not await api_batches.end(conn, known, ApiBatchState.CANCELLED)
        if was_submitted:
            await _cancel_submitted(conn, known)
    if was_submitted:
        async with gateway.database.transaction() as conn:
            await control.end_cancelled(conn, known)
    return await describe_batch(gateway, caller, known)


async def _cancel_submitted(conn: AsyncConnection, batch_id: UUID) -> None:
    submitted = (await api_batches.submitted_batches(conn, [batch_id])).get(batch_id)
    if submitted is None or submitted.status.has_ended:
        status = "failed" if submitted is None else str(submitted.status)
        raise ApiError(409, f"Cannot cancel a batch with status {status!r}.")
    await control.cancel(conn, batch_id)
    await api_batches.forget_idempotency_key(conn, batch_id)


async def _input_file(conn: AsyncConnection, caller: Caller, text: str) -> FileRecord:
    file_id = read_file_id(text, param="input_file_id")
    if file_id.kind is FileKind.UPLOAD:
        record = await files.get(conn, file_id.id)
        if caller.is_admin or record.key_id == caller.key_id:
            return record
    raise ApiError(404, f"No such file: {text[:80]!r}.", param="input_file_id")


async def _budget_of(
    conn: AsyncConnection, caller: Caller, asked_usd: Decimal | None
) -> Decimal | None:
    """Return a batch's budget: the one that it asks for, else what its key may spend today.

    Raises:
        ApiError: The key may not spend that much today.
    """
    if caller.key_id is None:
        return asked_usd
    free_usd = (await keys.get(conn, caller.key_id)).free_usd
    if free_usd is None:
        return asked_usd
    if free_usd <= 0 or (asked_usd or free_usd) > free_usd:
        raise ApiError(
            429,
            f"The key {caller.name} may spend {free_usd:.4f} USD more today (UTC). Ask for a "
            "budget_usd of at most that, or wait until tomorrow.",
            code="insufficient_quota",
            kind="insufficient_quota",
            param="metadata.budget_usd",
        )
    return asked_usd or free_usd


def _idempotency_key(
    caller: Caller,
    file: FileRecord,
    body: CreateBatch,
    metadata: dict[str, str],
    given: str | None,
) -> str:
    """Return what two requests for the same batch have in common."""
    asked: list[Any] = [str(caller.key_id), given]
    if given is None:
        asked += [file.sha256, body.endpoint, body.completion_window, metadata]
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def visible_batch(conn: AsyncConnection, caller: Caller, batch_id: UUID) -> ApiBatchRecord:
    """Return a batch that a caller may see.

    Raises:
        NotFoundError: There is no such batch.
        ApiError: It belongs to another key.
    """
    record = await api_batches.get(conn, batch_id)
    if not caller.is_admin and record.key_id != caller.key_id:
        raise ApiError(404, f"No batch found with id {batch_id_text(batch_id)!r}.")
    return record


async def describe_batch(gateway: Gateway, caller: Caller, batch_id: UUID) -> dict[str, Any]:
    """Return a batch that a caller may see, as OpenAI's API describes it."""
    async with gateway.database.transaction() as conn:
        record = await visible_batch(conn, caller, batch_id)
        submitted = (await api_batches.submitted_batches(conn, [batch_id])).get(batch_id)
    return batch_json(record, submitted)


def batch_json(record: ApiBatchRecord, found: SubmittedBatch | None) -> dict[str, Any]:
    """Return a batch as OpenAI's API describes it."""
    submitted = found if record.state is ApiBatchState.SUBMITTED else None
    status = _status(record, submitted)
    file_ids = result_file_ids(record, submitted)
    return {
        "id": batch_id_text(record.id),
        "object": "batch",
        "endpoint": record.endpoint,
        "model": None,
        "errors": _errors(record, submitted),
        "input_file_id": str(FileId(FileKind.UPLOAD, record.input_file_id)),
        "completion_window": record.completion_window,
        "status": status,
        "output_file_id": _text(file_ids.get(FileKind.OUTPUT)),
        "error_file_id": _text(file_ids.get(FileKind.ERRORS)),
        **_times(record, submitted, status),
        "request_counts": _counts(record, submitted),
        "metadata": record.details or None,
        "routoo": None if submitted is None else _own_facts(submitted),
    }


def _own_facts(submitted: SubmittedBatch) -> dict[str, Any]:
    """Return what OpenAI's API has no field for."""
    return {
        "status": submitted.status,
        "downgraded": submitted.downgraded,
        "spent_usd": float(submitted.spent_usd),
        "budget_usd": None if submitted.budget_usd is None else float(submitted.budget_usd),
    }


def _status(record: ApiBatchRecord, submitted: SubmittedBatch | None) -> str:
    if submitted is None:
        # A plan that nobody submitted in time is deleted.
        state = record.state
        return "expired" if state is ApiBatchState.SUBMITTED else str(state)
    if submitted.status is BatchStatus.COMPLETED and submitted.results.get(ResultStatus.EXPIRED):
        return "expired"
    return _STATUSES.get(submitted.status, str(submitted.status))


def _errors(record: ApiBatchRecord, submitted: SubmittedBatch | None) -> dict[str, Any] | None:
    listed = record.errors
    if submitted is not None and submitted.error:
        listed = [{"code": "failed", "message": submitted.error, "line": None, "param": None}]
    return {"object": "list", "data": listed} if listed else None


def _times(
    record: ApiBatchRecord, submitted: SubmittedBatch | None, status: str
) -> dict[str, int | None]:
    ended_at = record.ended_at if submitted is None else submitted.completed_at
    names = ("completed", "failed", "expired", "cancelled")
    return {
        "created_at": int(record.created_at.timestamp()),
        "in_progress_at": None if submitted is None else int(submitted.submitted_at.timestamp()),
        "expires_at": int(record.expires_at.timestamp()),
        "finalizing_at": _seconds(ended_at) if status in {"completed", "expired"} else None,
        **{f"{name}_at": _seconds(ended_at) if status == name else None for name in names},
        "cancelling_at": None,
    }


def _counts(record: ApiBatchRecord, submitted: SubmittedBatch | None) -> dict[str, int]:
    if submitted is None:
        return {"total": 0, "completed": 0, "failed": 0}
    return {
        "total": submitted.job_count + record.bad_rows,
        "completed": submitted.succeeded,
        "failed": submitted.unanswered + record.bad_rows,
    }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())


def _text(file_id: FileId | None) -> str | None:
    return None if file_id is None else str(file_id)
