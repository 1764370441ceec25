"""The select stage: chooses a model for every job of a batch, the first time or for a re-plan."""

import asyncio
import ctypes
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64
from psycopg import AsyncConnection

from routoo.domain.behaviour import pool_as_found
from routoo.domain.job import BatchStatus, Lease
from routoo.domain.prediction import NO_EXPERIENCE, ModelExperience, experience_to_json
from routoo.errors import InfeasibleError
from routoo.pipeline.select.decisions import Decisions, assign, unserved_results
from routoo.pipeline.select.drift import is_left
from routoo.pipeline.select.experience import (
    answered_shares,
    batch_experience,
    learn_failures,
    load_model_calls,
    planned_experience,
)
from routoo.pipeline.select.matrix import BatchMatrix, load_matrix, load_open_matrix
from routoo.pipeline.select.plan import (
    PlannedBatch,
    describe_forecast,
    describe_frontier,
    describe_plan,
    make_plan,
)
from routoo.pipeline.select.probes import PosedProblem, ProbedJobs, describe_probes, joined
from routoo.pipeline.select.problem import (
    add_probes,
    choose,
    choose_payable,
    held_usd,
    is_met,
    pose_problem,
    spare_usd,
)
from routoo.selector.problem import Problem
from routoo.selector.solution import Solution
from routoo.store import assignments, batches, budget, endpoints, ledger, results
from routoo.store.assignments import OpenJobs, load_open_jobs
from routoo.store.batches import BatchRecord, replans
from routoo.store.batches.replans import FIRST_REVISION, Replan
from routoo.store.database import Database
from routoo.store.model_calls import NO_CALLS


async def select_shard(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Make a batch's first plan, or the revision of it that was requested.

    Args:
        db: The store.
        lease: The batch's only select shard; renewed by the caller.
        batch: The batch, every job scored.

    Raises:
        InfeasibleError: The quality asked for can't be reached; a batch that is only planned keeps
            the advice instead.
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        request = await replans.open_request(conn, batch.id)
        behaviour = await endpoints.load_behaviour(conn)
    # So a plan's worst case allows for endpoints that were found to exceed their bounds.
    batch = batch.with_pool(pool_as_found(batch.pool, behaviour))
    if request is None:
        await _plan_batch(db, lease, batch)
    else:
        await replan_batch(db, lease, batch, request)


async def _plan_batch(db: Database, lease: Lease, batch: BatchRecord) -> None:
    """Choose a model for every job and save the plan.

    The choice goes by expected cost; the ledger keeps the hard limit at dispatch. Jobs that no
    model may answer, or that the budget can't pay for, get their result here.
    """
    async with db.transaction() as conn:
        if await assignments.exist(conn, batch.id):
            return  # a worker died after it had saved the plan: what people saw of it stands
        experience = await batch_experience(conn, batch)
        matrix = await load_matrix(conn, batch, experience)
    planned = await asyncio.to_thread(make_plan, batch, matrix, experience, datetime.now(UTC))
    plan, met = describe_plan(planned), is_met(planned.solution, planned.posed.problem)
    describe = describe_forecast if batch.status is BatchStatus.PLANNING else describe_frontier
    plan["forecast"] = await asyncio.to_thread(describe, planned)
    kept_usd = planned.kept_usd
    if met and kept_usd is not None:
        async with db.transaction() as conn:
            await budget.keep_fallbacks(conn, batch.id, kept_usd)
    async with db.transaction() as conn:
        if met:
            await _save_first_plan(conn, lease, planned)
        await batches.save_plan(conn, batch.id, plan)
    if not met and batch.status is not BatchStatus.PLANNING:
        advice = planned.solution.advice.rstrip(".")
        raise InfeasibleError("the batch's aim can't be met", remedy=advice)


async def _save_first_plan(conn: AsyncConnection, lease: Lease, planned: PlannedBatch) -> None:
    """Save each job's decision: its model, its original, or a result without an answer."""
    matrix, solution = planned.matrix, planned.solution
    chosen = assign(planned.batch.pool, planned.decisions, np.flatnonzero(solution.choice >= 0))
    await assignments.save(conn, lease, chosen, FIRST_REVISION)
    if matrix.duplicates is not None:
        await assignments.save_duplicates(conn, lease, matrix.duplicates.pairs())
        await results.share_all(conn, planned.batch.id)
    unserved = np.flatnonzero(solution.choice < 0).tolist()
    await results.save(conn, lease, list(unserved_results(unserved, matrix, solution.advice)))


@dataclass(frozen=True, slots=True)
class _State:
    """A running batch when the re-plan starts."""

    matrix: BatchMatrix
    """The open jobs; models that can't be called are excluded where a job has others."""
    experience: dict[str, ModelExperience]
    open_jobs: OpenJobs
    free_usd: Decimal | None
    """Budget that is not spent yet, in USD; None means no limit."""
    down: tuple[str, ...]
    """Names of the models whose endpoint doesn't answer."""
    threshold_price_per_usd: float
    """Quality per USD at which the present plan accepts probes' answers; 0 where it has none."""

    @property
    def movable(self) -> Int64[np.ndarray, " movable"]:
        """Positions, among the open jobs, of those without a call in flight."""
        return np.flatnonzero(~self.open_jobs.called)

    @property
    def jobs(self) -> Int32[np.ndarray, " movable"]:
        """Numbers of those jobs."""
        return np.asarray(self.open_jobs.job_no[self.movable])

    @property
    def current(self) -> Int32[np.ndarray, " movable"]:
        """Position in the pool of the model that each of them was assigned last, or -1."""
        return np.asarray(self.open_jobs.column[self.movable])

    @property
    def is_probe(self) -> Bool[np.ndarray, " movable"]:
        """Whether that model's answer is to be judged."""
        return np.asarray(self.open_jobs.probe[self.movable])

    def probed(self, posed: PosedProblem, of: Bool[np.ndarray, " movable"]) -> ProbedJobs:
        """Return what is now expected of those of some movable jobs that ask a probe."""
        rows = np.flatnonzero(of & self.is_probe)
        return posed.at_price(rows, self.current[rows], self.threshold_price_per_usd)


async def replan_batch(db: Database, lease: Lease, batch: BatchRecord, request: Replan) -> None:
    """Choose again for every job that has no result and no call in flight.

    The budget is what was not spent, less the expected cost of the calls in flight. A job that
    can't be served any more keeps its model: the ledger decides about it at dispatch.

    Args:
        db: The store.
        lease: The batch's select shard, reopened; renewed by the caller.
        batch: The batch.
        request: The revision that was requested.

    Raises:
        StaleLeaseError: Another worker owns the shard now.
        StoreError: The database can't be reached or refused.
    """
    async with db.transaction() as conn:
        state = await _load(conn, batch)
    now, rows = datetime.now(UTC), state.matrix.rows(state.movable)
    direct = pose_problem(batch, rows, state.experience, now)
    direct = replace(direct, budget_usd=_left_usd(state))
    posed = await asyncio.to_thread(add_probes, batch, rows, direct, state.experience, now)
    promised = pose_problem(batch, rows, planned_experience(batch), now)
    held = held_usd(rows)
    solution = await asyncio.to_thread(_choose, state, posed, promised, held)
    revised = _Revised(request, posed, solution, spare_usd(posed, solution, held))
    async with db.transaction() as conn:
        decisions = await _save(conn, lease, batch, state, revised)
    await _keep_fallbacks(db, batch, state, decisions, revised.spare_usd)


@dataclass(frozen=True, slots=True)
class _Revised:
    """What was chosen anew for the jobs that may be moved."""

    request: Replan
    posed: PosedProblem
    solution: Solution
    spare_usd: float
    """What the choice leaves of the budget for each job, in USD."""

    def decisions(self, state: _State, expected: BatchMatrix) -> Decisions:
        """Return the decisions; a job that could not be served keeps its own."""
        choice, current = self.solution.choice, state.current
        kept = choice < 0
        column = np.where(kept, current, self.posed.policies.first(choice))
        probed = self.posed.probed(choice)
        return Decisions.of(
            expected,
            column,
            joined([probed, self._present(state, kept)], expected.quality.shape[1]),
        )

    def present(self, state: _State, expected: BatchMatrix) -> Decisions:
        """Return the decisions that held before, with what is expected of them now."""
        everyone = np.ones(len(state.current), np.bool_)
        return Decisions.of(expected, state.current, self._present(state, everyone))

    def _present(self, state: _State, of: Bool[np.ndarray, " movable"]) -> ProbedJobs:
        return state.probed(self.posed, of)


async def _save(
    conn: AsyncConnection, lease: Lease, batch: BatchRecord, state: _State, revised: _Revised
) -> Decisions:
    """Save the revision: the jobs' new models, results without an answer, and the plan."""
    expected = _as_answered(batch, state)
    decisions, before = (find(state, expected) for find in (revised.decisions, revised.present))
    moved = np.flatnonzero(
        (decisions.column != before.column) | (decisions.is_probe != state.is_probe)
    )
    moves = assign(batch.pool, decisions, moved, state.jobs[moved])
    request, solution = revised.request, revised.solution
    await assignments.save(conn, lease, moves, request.revision)
    unserved = state.jobs[decisions.column < 0].tolist()
    await results.save(conn, lease, list(unserved_results(unserved, state.matrix, solution.advice)))
    facts = (_expected(batch, before), _expected(batch, decisions))
    await replans.decide(conn, lease, request, len(moved), facts)
    plan = _revised_plan(batch, state, revised, decisions)
    await batches.save_plan(conn, batch.id, plan)
    return decisions


async def _keep_fallbacks(
    db: Database,
    batch: BatchRecord,
    state: _State,
    decisions: Decisions,
    spare: float,
) -> None:
    """Keep money for the cheapest calls of the open jobs, with what was decided about some."""
    last, open_jobs = state.matrix.last_resorts, state.open_jobs
    if last is None or len(batch.pool.models) == 1:
        return
    column, expected_usd = open_jobs.column.copy(), open_jobs.expected_cost_usd.copy()
    column[state.movable], expected_usd[state.movable] = decisions.column, decisions.cost_usd
    kept_usd = np.zeros(batch.job_count)
    kept_usd[open_jobs.job_no] = last.kept_usd(column, expected_usd, spare)
    async with db.transaction() as conn:
        await budget.keep_fallbacks(conn, batch.id, kept_usd)


async def _load(conn: AsyncConnection, batch: BatchRecord) -> _State:
    known, outcomes = planned_experience(batch), await load_model_calls(conn, batch)
    experience = {
        name: learn_failures(model, known.get(name, NO_EXPERIENCE), outcomes.get(name, NO_CALLS))
        for name, model in (await batch_experience(conn, batch)).items()
    }
    names = batch.pool.names
    down = tuple([model.name for model in batch.pool.models if await is_left(conn, batch, model)])
    open_jobs = await load_open_jobs(conn, batch.id, batch.job_count, names)
    matrix = await load_open_matrix(conn, batch, experience, open_jobs.job_no)
    matrix = matrix.prefer(_sendable(batch, open_jobs))
    matrix = matrix.prefer(np.array([[name not in down for name in names]]))
    probes = (batch.plan or {}).get("probes") or {}
    return _State(
        matrix=matrix,
        experience=experience,
        open_jobs=open_jobs,
        free_usd=(await ledger.balance(conn, batch.id)).unspent_usd,
        down=down,
        threshold_price_per_usd=float(probes.get("threshold_price_per_usd", 0.0)),
    )


def _as_answered(batch: BatchRecord, state: _State) -> BatchMatrix:
    """Return the movable jobs, each model's quality times the share of jobs that it answers."""
    matrix = state.matrix.rows(state.movable)
    answered = answered_shares(batch.pool, state.experience)
    return replace(matrix, quality=matrix.quality * answered)


def _sendable(batch: BatchRecord, open_jobs: OpenJobs) -> Bool[np.ndarray, "open models"]:
    """Return the pairs that a running dispatcher can carry out.

    A dispatcher sends rows to batch channels before its first call. A job that is moved to a
    channel later would be called at the ordinary price: only a channel's present jobs may stay.
    """
    columns = np.arange(len(batch.pool.models))
    channels = np.array([model.is_batch_channel for model in batch.pool.models])
    return np.asarray(~channels | (columns == open_jobs.column[:, None]))


def _left_usd(state: _State) -> Decimal | None:
    """Return the money left after the expected cost of the calls in flight; None = no limit."""
    if state.free_usd is None:
        return None
    in_flight = state.open_jobs.called & (state.open_jobs.column >= 0)
    expected_usd = state.matrix.cost_usd[in_flight, state.open_jobs.column[in_flight]]
    # What may follow a probe is paid too; what was assigned is the cost of both calls.
    both = np.maximum(expected_usd, state.open_jobs.expected_cost_usd[in_flight])
    expected_usd = np.where(state.open_jobs.probe[in_flight], both, expected_usd)
    return max(state.free_usd - Decimal(float(expected_usd.sum())), Decimal(0))


def _choose(
    state: _State,
    posed: PosedProblem,
    promised: Problem,
    reserve_usd: Float32[np.ndarray, "movable models"] | None,
) -> Solution:
    """Choose within the limits; the mean quality of the present plan is kept if it is in reach.

    Args:
        state: The batch.
        posed: The problem by what is known now.
        promised: The problem with the failures that the present plan assumes.
        reserve_usd: What a call of each pair reserves, in USD.
    """
    problem = posed.problem
    if problem.min_mean_quality is None:
        return choose_payable(posed, reserve_usd)
    kept = replace(problem, min_mean_quality=_promised_mean(state, posed, promised))
    solution = choose(kept)
    if is_met(solution, kept):
        return solution
    return choose(replace(problem, min_mean_quality=_promised_mean(state, posed, posed.direct)))


def _promised_mean(state: _State, posed: PosedProblem, direct: Problem) -> float:
    """Return the mean quality of the jobs' present models.

    It is what the rest of the batch must keep. The batch's own target is another number, since the
    jobs that have ended may be better or worse than the rest.
    """
    current = state.current
    served = np.flatnonzero(current >= 0)
    promised = np.zeros(len(current), direct.quality.dtype)
    promised[served] = direct.quality[served, current[served]]
    probed = state.probed(posed, np.ones(len(current), np.bool_))
    weight = state.matrix.rows(state.movable).weight
    serves = 1.0 if weight is None else weight[probed.jobs]
    promised[probed.jobs] = probed.quality * serves
    return float(promised[served].mean(dtype=np.float64)) if len(served) else 0.0


def _expected(batch: BatchRecord, decisions: Decisions) -> dict[str, Any]:
    """Return the expected quality and cost of decisions, by what is known now."""
    served = decisions.column >= 0
    models = decisions.column[served]
    counts = np.bincount(models, minlength=len(batch.pool.models)).tolist()
    facts: dict[str, Any] = {
        "jobs": len(served),
        "served": len(models),
        "expected_quality": float(decisions.quality[served].mean()) if len(models) else 0.0,
        "expected_cost_usd": float(decisions.cost_usd[served].sum()),
        "models": dict(zip(batch.pool.names, counts, strict=True)),
    }
    if len(decisions.probed.jobs):
        facts["probes"] = len(decisions.probed.jobs)
        facts["escalations"] = float(decisions.probed.escalation_chance.sum())
    return facts


def _revised_plan(
    batch: BatchRecord, state: _State, revised: _Revised, decisions: Decisions
) -> dict[str, Any]:
    """Return the plan with the new revision's prices and experience; its expectations stay."""
    solution, posed = revised.solution, revised.posed
    price = solution.shadow_price_per_usd
    plan = {
        **(batch.plan or {}),
        "revision": revised.request.revision,
        "shadow_price_per_usd": price,
        "shadow_prices": solution.shadow_prices,
        "spare_usd_per_job": revised.spare_usd,
        "experience": experience_to_json(state.experience),
        "down": list(state.down),
    }
    probes = describe_probes(posed, batch.pool, decisions.probed, decisions.column, price)
    return plan if probes is None else {**plan, "probes": probes}


def give_memory_back() -> None:
    """Return freed memory to the system where the C library can: a selection frees much at once."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # the GNU library alone keeps what it could give back, and has it
        trim(0)
