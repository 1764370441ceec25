"""Shows evaluation runs: the list, one with its report, and two beside each other."""

import math
from collections.abc import Sequence
from uuid import UUID

from fastapi import APIRouter, Response

from producer.evaluation.runs import RunView, load_with_past, view_run
from producer.page.rendering import Administering, PageRoute
from routoo.evaluation.report.page import Tile, card_sections, card_tiles
from routoo.evaluation.report.section import Section
from routoo.evaluation.run_comparison import RunComparison, compare_runs
from routoo.evaluation.run_scorecard import run_scorecard
from routoo.evaluation_runs.load import load_run
from routoo.store.database import Database
from routoo.store.evaluation import eval_runs

router = APIRouter(prefix="/evaluations", route_class=PageRoute)
_LISTED = 100
_SHOWN_CHANGES = 200
"""Items of a comparison that are listed, the worst first; the rest is counted."""
_STATES = {"finished": "good", "failed": "bad", "running": "live", "judging": "live"}


@router.get("")
async def show_runs(visit: Administering) -> Response:
    """List the newest runs."""
    async with visit.gateway.database.transaction() as conn:
        found = await eval_runs.list_recent(conn, _LISTED)
        views = [await view_run(conn, one) for one in found]
    return visit.page("evaluations.html", runs=views, states=_STATES, figure=_figure)


@router.get("/compare")
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


@router.get("/{run_id}")
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
