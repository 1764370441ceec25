"""Routes prompts in a program of one's own: a predictor and a selection, without a database.

    router = routoo.Router.load("checkpoint", "pool.yaml")
    choices = router.choose(prompts, budget_usd=0.05)
    choices.models, choices.expected_quality, choices.expected_cost_usd

The selection is the one of `routoo-producer plan` for models whose calls were never measured, with
one difference: a budget is what all calls are expected to cost. A batch's budget covers the worst
case of each call too, before it is sent. Nothing is called here: your own client does that.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, cast, overload
from uuid import UUID

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int

from routoo.domain.batch_options import CallOptions, Objective
from routoo.domain.job import SLA, BatchStatus, Job
from routoo.domain.pool import Pool
from routoo.domain.pool_file import load_pool
from routoo.domain.prediction import ModelExperience, Predictions
from routoo.domain.prompt import prompt_text
from routoo.errors import InputError
from routoo.judge.files import load_judge
from routoo.judge.judge import AnswerJudge
from routoo.pipeline.select.experience import fit_experience
from routoo.pipeline.select.matrix import build_matrix
from routoo.pipeline.select.plan import PlannedBatch, make_plan
from routoo.ports import Predictor
from routoo.predictor.predictor import load_predictor
from routoo.store.batches.records import BatchRecord

Prompt = str | Mapping[str, Any]
"""A text, or a chat-completion request: its messages are the prompt, its max_tokens a limit."""
_NO_BATCH = UUID(int=0)


class Limits(TypedDict, total=False):
    """What a choice may cost and has to reach; at most one aim beside a budget."""

    budget_usd: float | Decimal
    """Most that all calls together may be expected to cost, in USD."""
    willingness_to_pay_usd: float
    """Aim: what one more good answer is worth, in USD; dearer gains are left out."""
    min_mean_quality: float
    """Aim: mean expected quality to be reached at the least cost, in [0, 1]."""
    match_model: str
    """Aim: `match_ratio` times this model's own mean quality, at the least cost."""
    match_ratio: float
    """1 unless given."""
    risk: float
    """Standard deviations of the estimate that quality is counted below its mean by."""
    min_quality: float
    """Least expected quality of each prompt's model, in [0, 1]."""
    max_cost_usd: float | Decimal
    """Most that one prompt's call may cost at worst, in USD."""
    allowed_models: Iterable[str]
    """Only these may be chosen."""
    denied_models: Iterable[str]
    """These may not."""
    max_completion_tokens: int
    """Limit of the answers to prompts that name none; derived from predicted lengths else."""
    dedupe: bool
    """Whether equal prompts share one call; only those with temperature 0 or a seed else."""
    cascade: bool
    """Whether a cheap model may be asked first and its answer judged; false unless given."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for one prompt."""

    model: str | None
    """Name of the model to ask; None where no model may answer, or none could be paid for."""
    quality: float
    """Expected quality of the answer, in [0, 1]; 0 without a model."""
    cost_usd: float
    """Expected cost of the call, in USD; 0 for a prompt that shares the answer of an equal one."""
    judged: bool = False
    """The answer is to be judged, and another model may be asked after it (with `cascade`)."""
    escalation_chance: float = 0.0
    """Probability of that."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What was chosen for some prompts: a sequence of `Choice`, and the same as arrays."""

    names: tuple[str, ...]
    """Names of the pool's models; columns mean these."""
    column: Int[np.ndarray, " prompts"]
    """Position of each prompt's model among the names; -1 where it has none."""
    quality: Float32[np.ndarray, " prompts"]
    """Expected quality of each answer, in [0, 1]; 0 without a model."""
    cost_usd: Float64[np.ndarray, " prompts"]
    """Expected cost of each prompt's calls, in USD."""
    judged: Bool[np.ndarray, " prompts"]
    """Prompts whose answer is to be judged; none without `cascade`."""
    escalation_chance: Float64[np.ndarray, " prompts"]
    """Probability that another model is asked after the first."""
    predictions: Predictions
    """What was predicted for every prompt and model."""
    status: str
    """optimal, within_gap, unconstrained, or infeasible: then `advice` says what to relax."""
    advice: str
    shadow_price_per_usd: float
    """Good answers that one more dollar would buy; 0 where money doesn't bind."""

    @property
    def models(self) -> list[str | None]:
        """Name of each prompt's model; None where it has none."""
        named = (*self.names, None)  # -1 is the last one
        return [named[column] for column in self.column.tolist()]

    @property
    def served(self) -> int:
        """Number of prompts that have a model."""
        return int(np.count_nonzero(self.column >= 0))

    @property
    def expected_quality(self) -> float:
        """Mean expected quality of the prompts that have a model; 0 where none has."""
        return float(self.quality[self.column >= 0].mean()) if self.served else 0.0

    @property
    def expected_cost_usd(self) -> float:
        """Expected cost of all calls together, in USD."""
        return float(self.cost_usd.sum())

    def __len__(self) -> int:
        return len(self.column)

    def __iter__(self) -> Iterator[Choice]:
        return (self[row] for row in range(len(self)))

    @overload
    def __getitem__(self, row: int) -> Choice: ...

    @overload
    def __getitem__(self, row: slice) -> list[Choice]: ...

    def __getitem__(self, row: int | slice) -> Choice | list[Choice]:
        if isinstance(row, slice):
            return [self[one] for one in range(*row.indices(len(self)))]
        return Choice(
            (*self.names, None)[self.column[row]],
            float(self.quality[row]),
            float(self.cost_usd[row]),
            bool(self.judged[row]),
            float(self.escalation_chance[row]),
        )


@dataclass(frozen=True, slots=True)
class Router:
    """A predictor with a pool of candidate models."""

    pool: Pool
    predictor: Predictor
    judge: AnswerJudge | None = None
    """Judges answers; None where the checkpoint was fitted without any."""

    @classmethod
    def load(cls, checkpoint: str | Path, pool: str | Path | Pool, *, device: str = "auto") -> Self:
        """Load a checkpoint with its backbone, and read a pool.

        Args:
            checkpoint: Folder that `routoo train` or `routoo onboard` wrote, or the general one
                (`routoo.GENERAL_CHECKPOINT`), which places models by their priors.
            pool: The candidate models, or the file that lists them.
            device: Where the backbone computes: cpu, cuda, or auto for a GPU where there is one.

        Raises:
            CheckpointError: The checkpoint can't be read, or doesn't know a model of the pool.
            ConfigError: The pool file can't be used.
        """
        found = pool if isinstance(pool, Pool) else load_pool(Path(pool))
        loaded = load_predictor(Path(checkpoint), device=device)
        predictor = loaded.covering(found.models) or loaded
        predictor.predict([""], [model.predicted_as for model in found.models])  # knows them all
        judge = load_judge(Path(checkpoint))
        return cls(found, predictor, judge if judge.judges else None)

    def predict(self, prompts: Iterable[Prompt]) -> Predictions:
        """Return what is expected of every prompt and model: arrays, models in pool order."""
        texts = [prompt_text(_body(prompt)) for prompt in prompts]
        return self.predictor.predict(texts, [model.predicted_as for model in self.pool.models])

    def choose(self, prompts: Iterable[Prompt], **limits: Unpack[Limits]) -> Choices:
        """Choose a model for every prompt: the most quality within the limits.

        Args:
            prompts: Texts or chat-completion requests: a list, an array, a column of a table.
            limits: What the choice may cost and has to reach; see `Limits`.

        Raises:
            InputError: A limit has no usable value, or two aims are given.
            CheckpointError: The checkpoint can promise no quality floor.
        """
        bodies = [_body(prompt) for prompt in prompts]
        jobs = _jobs(bodies, limits)
        batch = _batch(self.pool, len(jobs), limits)
        names = [model.predicted_as for model in self.pool.models]
        predicted = self.predictor.predict([prompt_text(body) for body in bodies], names)
        experience = self._experience(names)
        judge = self.judge if batch.call_options.cascade else None
        matrix = build_matrix(batch, jobs, predicted, experience, judge)
        matrix = replace(matrix, reserve_usd=None)  # nothing reserves money here
        return _choices(make_plan(batch, matrix, experience, batch.created_at), predicted)

    def _experience(self, names: Sequence[str]) -> dict[str, ModelExperience]:
        """Return what is known of the models' calls, of which none was made."""
        return {
            model.name: fit_experience(model, (), prompt_factor=factor)
            for model, factor in zip(
                self.pool.models, self.predictor.prompt_factors(names), strict=True
            )
        }


def _body(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"messages": [{"role": "user", "content": prompt}]}
    if isinstance(prompt, Mapping) and ("messages" in prompt or "prompt" in prompt):
        return dict(prompt)
    raise InputError(
        "this is no prompt",
        value=type(prompt).__name__,
        remedy='Give a text, or a chat-completion request with "messages"',
    )


def _jobs(bodies: Sequence[dict[str, Any]], limits: Limits) -> list[Job]:
    cap_usd = limits.get("max_cost_usd")
    sla = SLA(
        min_quality=limits.get("min_quality"),
        max_cost_usd=None if cap_usd is None else Decimal(str(cap_usd)),
        allowed_models=_names(limits.get("allowed_models")),
        denied_models=_names(limits.get("denied_models")),
    )
    return [Job(number, f"prompt-{number}", body, sla) for number, body in enumerate(bodies)]


def _names(models: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if models is None else tuple(models)


def _batch(pool: Pool, job_count: int, limits: Limits) -> BatchRecord:
    """Return the prompts as a batch: in memory, in no database."""
    budget_usd = limits.get("budget_usd")
    options = CallOptions(
        dedupe=limits.get("dedupe"),
        max_completion_tokens=limits.get("max_completion_tokens"),
        cascade=limits.get("cascade", False),
    )
    return BatchRecord(
        id=_NO_BATCH,
        name="prompts",
        kind="batch",
        idempotency_key=None,
        status=BatchStatus.IN_PROGRESS,
        pool=pool,
        budget_usd=None if budget_usd is None else Decimal(str(budget_usd)),
        min_quality=limits.get("min_quality"),
        max_cost_usd=None,
        deadline=None,
        job_count=job_count,
        created_at=datetime.now(UTC),
        completed_at=None,
        plan=None,
        error=None,
        objective=cast("Any", _objective(pool, limits).as_json()),
        submitted_at=None,
        plan_only=True,
        call_options=cast("Any", options.as_json()),
    )


def _objective(pool: Pool, limits: Limits) -> Objective:
    match_model = limits.get("match_model")
    if match_model is not None and match_model not in pool.names:
        raise InputError(
            "the model to match is not in the pool",
            value=match_model,
            remedy=f"Give one of {', '.join(pool.names)}",
        )
    return Objective(
        min_mean_quality=limits.get("min_mean_quality"),
        match_model=match_model,
        match_ratio=limits.get("match_ratio", 1.0),
        willingness_to_pay_usd=limits.get("willingness_to_pay_usd"),
        risk=limits.get("risk", 0.0),
    )


def _choices(planned: PlannedBatch, predicted: Predictions) -> Choices:
    decisions, solution = planned.decisions, planned.solution
    return Choices(
        names=planned.pool.names,
        column=decisions.column,
        quality=decisions.quality,
        cost_usd=decisions.cost_usd,
        judged=decisions.is_probe,
        escalation_chance=decisions.escalation_chance,
        predictions=predicted,
        status=solution.status.value,
        advice=solution.advice,
        shadow_price_per_usd=solution.shadow_price_per_usd,
    )
