"""The addresses of the page: each reads what is asked, does it, and renders the answer.

An action is a form that is posted and answered by a redirect, so that it works without JavaScript
and a page that is loaded anew repeats nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from functools import partial
from pathlib import PurePath
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Path, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from producer import control
from producer.aims import read_option
from producer.gateway import access
from producer.gateway.errors import ApiError
from producer.gateway.state import GatewayDep
from producer.page import administration, batches, jobs
from producer.page.rendering import (
    HEADERS,
    STATIC,
    PageRoute,
    Reading,
    Submitting,
    Visit,
    check_token,
    login_page,
)
from producer.page.submission import RefusedFormError, plan_upload
from producer.queue import publish_or_note
from producer.results.export import output_line
from producer.rows.limits import read_usd
from routoo.domain.job import BatchStatus, Stage
from routoo.errors import NotFoundError
from routoo.evaluation.report.page import CHART_RULES, colour_rules
from routoo.store import jobs as stored_jobs
from routoo.store import results
from routoo.store.batches import BatchRecord, retry

router = APIRouter(include_in_schema=False, route_class=PageRoute)
for part in (administration.evaluation_routes, administration.operation_routes):
    router.include_router(part)
Token = Annotated[str, Form(alias="csrf_token")]
_POLL_S = 1.0
_STREAM_HEADERS = {**HEADERS, "Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
_TYPES = {
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
}
_ASSETS = {
    path.name: (path.read_bytes(), _TYPES[path.suffix])
    for path in STATIC.iterdir()
    if path.suffix in _TYPES
} | {
    "colours.css": (colour_rules().encode(), "text/css"),
    "chart.css": (CHART_RULES.read_bytes(), "text/css"),
}


@router.get("/static/{name}")
async def asset(name: str) -> Response:
    """Serve a file of the page's looks: nothing is loaded from elsewhere."""
    if name not in _ASSETS:
        raise NotFoundError("there is no such file", value=name)
    content, kind = _ASSETS[name]
    is_pinned = any(sign.isdigit() for sign in PurePath(name).stem)
    age = "public, max-age=31536000, immutable" if is_pinned else "no-cache"
    headers = {"Cache-Control": age, "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type=f"{kind}; charset=utf-8", headers=headers)


@router.get("/")
async def home() -> Response:
    """Lead to the list of batches."""
    return _see("/batches")


@router.get("/batches")
async def show_batches(visit: Reading) -> Response:
    """List the batches."""
    return visit.page("batches.html", **await batches.list_page(visit))


@router.get("/batches/{batch_id}")
async def show_batch(visit: Reading, batch_id: UUID, done: str = "") -> Response:
    """Show one batch; what was done to it just now is told once."""
    view = await batches.load_view(visit, batch_id)
    return visit.page(
        "batch.html",
        view=view,
        parts=view.parts(visit),
        is_live=not view.now.is_over,
        flash=_DONE.get(done),
    )


_DONE = {
    "pause": "Paused. Calls in flight end and are kept.",
    "resume": "The batch goes on.",
    "cancel": "Cancelled. Calls in flight end first.",
    "retry": "These jobs are open again, and models are chosen anew for them.",
    "budget": "The budget is set.",
    "run": "The plan runs.",
}


@router.get("/batches/{batch_id}/events")
async def follow_batch(visit: Reading, batch_id: UUID, shown: BatchStatus) -> Response:
    """Send the parts of a batch's page whenever they change, until the batch is over.

    Args:
        visit: Who looks at the page.
        batch_id: The batch.
        shown: Status that the page shows: it may have changed before the page asks for events.
    """
    await batches.load_batch(visit, batch_id)  # one that may not be seen is told by the status
    return StreamingResponse(_events(visit, batch_id, shown), headers=_STREAM_HEADERS)


async def _events(visit: Visit, batch_id: UUID, shown: BatchStatus) -> AsyncIterator[str]:
    sent: dict[str, str] = {}
    spoken = ""
    is_stopping = visit.request.app.state.is_stopping
    while not (is_stopping() or await visit.request.is_disconnected()):
        await asyncio.sleep(_POLL_S)
        if not await access.still_works(visit.gateway, visit.session):
            return
        view = await batches.load_view(visit, batch_id)
        if view.now.progress.status is not shown:
            yield _event("reload", "")
            yield _event("end", "")
            return
        parts = view.parts(visit)
        for name, text in parts.items():
            if text != sent.get(name):
                yield _event(name, text)
        said = f"{view.now.progress.ended * 10 // max(view.now.progress.jobs, 1)}0 % ended"
        if said != spoken:
            yield _event("spoken", said)
        sent, spoken = parts, said


def _event(name: str, text: str) -> str:
    lines = "".join(f"data: {line}\n" for line in text.splitlines() or [""])
    return f"event: {name}\n{lines}\n"


@router.post("/batches/{batch_id}/pause")
async def pause(visit: Submitting, batch_id: UUID, token: Token) -> Response:
    """Pause a batch."""
    await _allow(visit, batch_id, token)
    await control.pause_batch(visit.gateway.database, str(batch_id))
    return _done(batch_id, "pause")


@router.post("/batches/{batch_id}/resume")
async def resume(visit: Submitting, batch_id: UUID, token: Token) -> Response:
    """Let a paused batch go on."""
    await _allow(visit, batch_id, token)
    await control.resume_batch(visit.gateway.database, str(batch_id), None)
    return _done(batch_id, "resume")


@router.post("/batches/{batch_id}/budget")
async def raise_budget(
    visit: Submitting, batch_id: UUID, token: Token, budget_usd: Annotated[str, Form()]
) -> Response:
    """Give a batch another budget; jobs that ended for want of money are open again."""
    await _allow(visit, batch_id, token)
    await control.resume_batch(visit.gateway.database, str(batch_id), _usd(budget_usd))
    return _done(batch_id, "budget")


@router.post("/batches/{batch_id}/cancel")
async def cancel(visit: Submitting, batch_id: UUID, token: Token) -> Response:
    """Cancel a batch, or drop a plan."""
    await _allow(visit, batch_id, token)
    await control.cancel_batch(visit.gateway.database, str(batch_id), wait=False)
    return _done(batch_id, "cancel")


@router.post("/batches/{batch_id}/retry")
async def try_again(
    visit: Submitting,
    batch_id: UUID,
    token: Token,
    error_code: Annotated[str | None, Form()] = None,
) -> Response:
    """Open jobs without an answer again: all of them, or those of one cause."""
    await _allow(visit, batch_id, token)
    database, statuses = visit.gateway.database, retry.UNANSWERED
    await control.retry_batch(database, str(batch_id), statuses, error_code)
    await _publish(visit, Stage.SELECT, batch_id, 1)
    return _done(batch_id, "retry")


@router.post("/batches/{batch_id}/run")
async def run_plan(visit: Submitting, batch_id: UUID, token: Token) -> Response:
    """Submit a plan: from here on it spends money."""
    await _allow(visit, batch_id, token)
    submitted = await control.submit_plan(visit.gateway.database, str(batch_id))
    if submitted.created:
        await _publish(visit, Stage.DISPATCH, batch_id, submitted.ready_shards)
    return _done(batch_id, "run")


@router.post("/batches/{batch_id}/plan")
async def plan_anew(
    visit: Submitting, batch_id: UUID, token: Token, budget_usd: Annotated[str, Form()]
) -> Response:
    """Plan a batch's jobs for another budget."""
    await _allow(visit, batch_id, token)
    plan_id = await control.plan_again(
        visit.gateway.database,
        str(batch_id),
        _usd(budget_usd),
        lambda source: (source.objective, source.call_options),
        visit.gateway.settings.shard_size,
    )
    await _publish(visit, Stage.SELECT, plan_id, 1)
    return _see(f"/batches/{plan_id}")


@router.get("/batches/{batch_id}/jobs")
async def show_jobs(visit: Reading, batch_id: UUID) -> Response:
    """List a batch's jobs."""
    return visit.page("jobs.html", **await jobs.jobs_page(visit, batch_id))


@router.get("/batches/{batch_id}/find")
async def find_job(visit: Reading, batch_id: UUID, custom_id: str) -> Response:
    """Lead to the job of a custom_id."""
    await batches.load_batch(visit, batch_id)
    async with visit.gateway.database.transaction() as conn:
        found = await stored_jobs.find(conn, batch_id, custom_id.strip())
    return _see(f"/batches/{batch_id}/jobs/{found.job_no}")


@router.get("/batches/{batch_id}/jobs/{job_no}")
async def show_job(visit: Reading, batch_id: UUID, job_no: Annotated[int, Path(ge=0)]) -> Response:
    """Show one job: why its model, and what happened."""
    return visit.page("job.html", view=await jobs.load_job(visit, batch_id, job_no))


@router.get("/batches/{batch_id}/answers.jsonl")
async def download_answers(visit: Reading, batch_id: UUID) -> Response:
    """Send every result so far, a JSON object a line, as `results --format jsonl` writes them."""
    await batches.load_batch(visit, batch_id)
    headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{batch_id}.jsonl"'}
    lines = _answers(visit, batch_id)
    return StreamingResponse(lines, media_type="application/x-ndjson", headers=headers)


async def _answers(visit: Visit, batch_id: UUID) -> AsyncIterator[bytes]:
    async with visit.gateway.downloads, visit.gateway.database.transaction() as conn:
        async for record in results.iterate(conn, batch_id):
            yield output_line(batch_id, record)


@router.get("/submit")
async def show_form(visit: Submitting) -> Response:
    """Show the form for a new batch."""
    return _form(visit, {}, None)


@router.post("/submit")
async def take_form(visit: Submitting) -> Response:
    """Plan the uploaded file, and show the plan."""
    try:
        return _see(f"/batches/{await plan_upload(visit)}")
    except RefusedFormError as error:
        return _form(visit, error.typed, error.message, error.problems)


def _form(
    visit: Visit, typed: Mapping[str, str], message: str | None, problems: tuple[str, ...] = ()
) -> Response:
    pools = visit.gateway.options.pools
    models = dict.fromkeys(name for pool in pools.values() for name in pool.names)
    return visit.page(
        "submit.html",
        status=200 if message is None else 422,
        typed=typed,
        message=message,
        problems=problems,
        pools=list(pools),
        models=list(models),
    )


@router.get("/login")
async def log_in(gateway: GatewayDep, token: str | None = None) -> Response:
    """Show the form that lets a person in; the printed URL lets them in at once."""
    if token is None:
        return login_page()
    try:
        return await access.log_in_by_url(gateway, token)
    except ApiError as error:
        return login_page(error.message, error.status)


@router.post("/login")
async def log_in_with_key(
    request: Request, gateway: GatewayDep, key: Annotated[str, Form()] = ""
) -> Response:
    """Let a person in who knows a key."""
    try:
        return await access.log_in_by_key(request, gateway, key.strip())
    except ApiError as error:
        return login_page(error.message, error.status)


async def _allow(visit: Visit, batch_id: UUID, token: str) -> BatchRecord:
    """Check that the form is ours and the batch theirs."""
    check_token(visit, token)
    return await batches.load_batch(visit, batch_id)


async def _publish(visit: Visit, stage: Stage, batch_id: UUID, shards: int) -> None:
    """Tell the workers, in a thread: a broker may take its time."""
    await asyncio.to_thread(publish_or_note, visit.gateway.settings, stage, batch_id, shards)


def _usd(text: str) -> Decimal:
    return read_option("the budget", partial(read_usd, "the budget"), text.strip()) or Decimal(0)


def _see(path: str) -> Response:
    return RedirectResponse(path, 303, HEADERS)


def _done(batch_id: UUID, action: str) -> Response:
    return _see(f"/batches/{batch_id}?done={action}")
