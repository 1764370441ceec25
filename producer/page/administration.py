"""Shows what administrators see: evaluation runs, checkpoints of the predictor, and endpoints."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse
from psycopg import AsyncConnection

from producer.evaluation.runs import RunView, load_with_past, view_run
from producer.page.charts import bar
from producer.page.rendering import HEADERS, Administering, PageRoute, Visit, check_token
from routoo.domain.behaviour import found_in
from routoo.domain.endpoint import Endpoint
from routoo.domain.pool import Pool
from routoo.errors import InputError
from routoo.evaluation.report.page import Tile, card_sections, card_tiles
from routoo.evaluation.report.section import Section
from routoo.evaluation.run_comparison import RunComparison, compare_runs
from routoo.evaluation.run_scorecard import run_scorecard
from routoo.evaluation_runs.load import load_run
from routoo.limits.account import Account
from routoo.limits.sliding_window import SlidingWindow
from routoo.store import batches, checkpoints, endpoints
from routoo.store.batches.overview import RecentCalls, overview
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs
from routoo.training.promote import promote_named

operation_routes = APIRouter(route_class=PageRoute)
Token = Annotated[str, Form(alias="csrf_token")]
_BATCHES = 20
"""Newest batches whose pools tell endpoints, beside the pools of the gateway."""
evaluation_routes = APIRouter(prefix="/evaluations", route_class=PageRoute)
_LISTED = 100
_SHOWN_CHANGES = 200
"""Items of a comparison that are listed, the worst first; the rest is counted."""
_STATES = {"finished": "good", "failed": "bad", "running": "live", "judging": "live"}


@operation_routes.get("/checkpoints")
async def show_checkpoints(visit: Administering, done: str = "") -> Response:
    """List the registered checkpoints with the figures that they were held out on."""
    async with visit.gateway.database.transaction() as conn:
        found = await checkpoints.list_all(conn)
        used = await checkpoints.promoted(conn)
        history = await checkpoints.promotions(conn)
    return visit.page(
        "checkpoints.html",
        found=found,
        used=used,
        history=history,
        default=visit.gateway.settings.checkpoint,
        done=done,
    )


@operation_routes.post("/checkpoints/promote")
async def promote(
    visit: Administering,
    token: Token,
    weights: Annotated[str, Form()],
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Put a checkpoint into use, from the next batch on."""
    check_token(visit, token)
    why, default = reason.strip() or "promoted on the page", visit.gateway.settings.checkpoint
    async with visit.gateway.database.transaction() as conn:
        await promote_named(conn, weights, why, default)
    return _back("/checkpoints?done=promoted")


@operation_routes.post("/checkpoints/rollback")
async def roll_back(
    visit: Administering, token: Token, reason: Annotated[str, Form()] = ""
) -> Response:
    """Put the checkpoint before the present one back into use."""
    check_token(visit, token)
    async with visit.gateway.database.transaction() as conn:
        found = await checkpoints.roll_back(conn, reason.strip() or "rolled back on the page")
    if found is None:
        remedy = "Promote another one"
        raise InputError("there is no earlier checkpoint to go back to", remedy=remedy)
    return _back("/checkpoints?done=rolled-back")


@dataclass(frozen=True, slots=True)
class EndpointLine:
    """One endpoint: whose it is, how it does, and what it may take."""

    key: str
    endpoint: Endpoint | None
    """As pools have it; None where only an older batch called it."""
    models: tuple[str, ...]
    account: Account | None
    """None where it was never called."""
    now_s: float
    calls: tuple[RecentCalls, ...]
    """Of the last minute, to its models."""
    found: tuple[str, ...]
    """What it was seen to do that pools don't say."""

    @property
    def where(self) -> tuple[str, str]:
        """Its base URL, and what else tells it apart."""
        first, _, rest = self.key.partition("|")
        return first, rest.replace("|", ", key ")

    @property
    def state(self) -> tuple[str, str, str]:
        """Class, word and sentence of its health."""
        account, now_s = self.account, self.now_s
        if account is None:
            return "", "not called yet", ""
        if account.held_since_s:
            return "warn", "paused", "by a person: no new call starts"
        if account.breaker.is_open:
            why = account.denied or "its calls keep failing; one is tried now and then"
            return "bad", "denies" if account.denied else "away", why
        rest_s = account.asked_until_s - now_s
        if rest_s > 0:
            return "warn", "asked for a pause", f"for {rest_s:.0f} s more"
        if account.aimd_limit is not None:
            return "warn", "overloaded", f"{account.aimd_limit:.0f} calls at once for now"
        return "good", "healthy", ""

    @property
    def is_held(self) -> bool:
        """Whether a person holds it."""
        return self.account is not None and self.account.held_since_s > 0

    @property
    def limits(self) -> Iterator[tuple[str, str, str]]:
        """Each limit: its name, its use drawn, and the figures."""
        account, pool = self.account, self.endpoint
        if account is None:
            return
        live = [one for one in account.leases.values() if one.expires_at_s > self.now_s]
        slots, requests, tokens = (
            (None, None, None)
            if pool is None
            else (pool.max_concurrency, pool.requests_per_minute, pool.tokens_per_minute)
        )
        requests = account.header_requests_per_minute or requests
        tokens = account.header_tokens_per_minute or tokens
        uses = (
            ("calls at once", sum(lease.slots for lease in live), account.aimd_limit or slots),
            ("requests a minute", _used(account.requests, self.now_s), requests),
            ("tokens a minute", _used(account.tokens, self.now_s), tokens),
        )
        for name, used, most in uses:
            if most:
                drawn = bar([(used / most, "fill")], f"{name}: {used:,.0f} of {most:,.0f}")
                yield name, drawn, f"{used:,.0f} of {most:,.0f}"
            elif used:
                yield name, "", f"{used:,.0f}, no limit known"


def _used(window: SlidingWindow, now_s: float) -> int:
    """Return what a window, which is a copy, holds now."""
    window.advance(now_s)
    return sum(window.counts)


@operation_routes.get("/endpoints")
async def show_endpoints(visit: Administering) -> Response:
    """List the endpoints of the pools in use, with their health and limits."""
    async with visit.gateway.database.transaction() as conn:
        lines = await _endpoint_lines(conn, visit)
    return visit.page("endpoints.html", lines=lines)


@operation_routes.post("/endpoints/hold")
async def hold(
    visit: Administering,
    token: Token,
    endpoint: Annotated[str, Form()],
    held: Annotated[str, Form()],
) -> Response:
    """Let no call to an endpoint start, or let them start again."""
    check_token(visit, token)
    async with visit.gateway.database.transaction() as conn:
        known = {line.key for line in await _endpoint_lines(conn, visit)}
        if endpoint not in known:
            raise InputError("there is no such endpoint", value=endpoint)
        await endpoints.hold(conn, endpoint, held=held == "yes")
    return _back(f"/endpoints#{quote(endpoint)}")


async def _endpoint_lines(conn: AsyncConnection, visit: Visit) -> list[EndpointLine]:
    recent = await batches.list_recent(conn, _BATCHES)
    pools = [pool.with_batch_channels() for pool in visit.gateway.options.pools.values()]
    pools += [batch.pool for batch in recent if not batch.status.is_over]
    known, models = _endpoints_of(pools)
    accounts, now_s = await endpoints.load_accounts(conn)
    stored = await endpoints.load_behaviour(conn)
    found = {str(one): one.base_url for pool in pools for one in found_in(pool, stored)}
    calls = (await overview(conn)).calls
    return [
        EndpointLine(
            key,
            known.get(key),
            tuple(models.get(key, ())),
            accounts.get(key),
            now_s,
            tuple(one for one in calls if one.model in models.get(key, ())),
            tuple(text for text, url in found.items() if key.startswith(f"{url}|")),
        )
        for key in dict.fromkeys([*known, *accounts])
    ]


def _endpoints_of(pools: list[Pool]) -> tuple[dict[str, Endpoint], dict[str, list[str]]]:
    """Return the endpoints of pools by key, and the names of the models that each serves."""
    endpoints: dict[str, Endpoint] = {}
    models: dict[str, list[str]] = {}
    for pool in pools:
        for model in pool.models:
            for key, endpoint in model.endpoint_keys.items():
                endpoints.setdefault(key, endpoint)
                names = models.setdefault(key, [])
                if model.name not in names:
                    names.append(model.name)
    return endpoints, models


def _back(path: str) -> Response:
    return RedirectResponse(path, 303, HEADERS)


@evaluation_routes.get("")
async def show_runs(visit: Administering) -> Response:
    """List the newest runs."""
    async with visit.gateway.database.transaction() as conn:
        found = await eval_runs.list_recent(conn, _LISTED)
        views = [await view_run(conn, one) for one in found]
    return visit.page("evaluations.html", runs=views, states=_STATES, figure=_figure)


@evaluation_routes.get("/compare")
async def compare(visit: Administering, before: str = "", after: str = "") -> Response:
    """Show what changed from one run to another, regressions first."""
    database = visit.gateway.database
    async with database.transaction() as conn:
        found = [await eval_runs.find(conn, which or None) for which in (before, after)]
        views = [await view_run(conn, one) for one in found]

    async def work(apart: Database) -> RunComparison:
        async with apart.transaction() as conn:
            first, second = [await load_run(conn, one.id) for one in found]
        return compare_runs(first, second)

    comparison = await database.apart(work)
    return visit.page(
        "comparison.html", views=views, found=comparison, shown=_SHOWN_CHANGES, isnan=math.isnan
    )


@evaluation_routes.get("/{run_id}")
async def show_run(visit: Administering, run_id: UUID) -> Response:
    """Show one run: its figures, and once it is graded the whole report."""
    database = visit.gateway.database
    async with database.transaction() as conn:
        view = await view_run(conn, await eval_runs.get(conn, run_id))
        others = await eval_runs.list_recent(conn, _LISTED)
        views = [await view_run(conn, one) for one in others if one.state == "finished"]
    tiles, sections = await _report(database, view)
    return visit.page(
        "evaluation.html",
        view=view,
        tiles=tiles,
        sections=sections,
        states=_STATES,
        others=[one for one in views if one.run.id != run_id],
    )


async def _report(database: Database, view: RunView) -> tuple[Sequence[Tile], Sequence[Section]]:
    """Return the report of a graded run, made in a thread: it takes a second or more."""
    if view.run.state != "finished":
        return (), ()

    async def work(apart: Database) -> tuple[Sequence[Tile], Sequence[Section]]:
        run, past = await load_with_past(apart, str(view.run.id))
        card = run_scorecard(run, past=past)
        return card_tiles(card), card_sections(card)

    return await database.apart(work)


def _figure(view: RunView, name: str) -> object:
    """Return the mean of a run's figure; None where it was not measured."""
    found = (view.run.figures or {}).get(name)
    return found.get("mean") if isinstance(found, dict) else found
