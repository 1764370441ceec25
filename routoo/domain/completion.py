"""Defines records of calls and their outcomes: answers, usage, attempts, and how jobs ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float32

from routoo.domain.job import ResultStatus
from routoo.domain.pool import CandidateModel
from routoo.errors import EndpointError


@dataclass(frozen=True, slots=True)
class AnswerJudgement:
    """The decision about an answer that was judged, or that broke a rule of its job."""

    job_no: int
    attempt_no: int
    """The call that it answered."""
    decision: str
    """accepted or escalated."""
    before: float | None = None
    """Probability that its model is right, by the prompt alone."""
    after: float | None = None
    """Probability that the answer is good; None where none was estimated."""
    threshold: float | None = None
    """Value of the best other model, its quality less its price; None where there is none."""
    price_per_usd: float | None = None
    """Quality that a dollar had to buy."""
    next_model: str | None = None
    """The model that was to be asked next."""
    fault: str | None = None
    """Which rule it breaks, and how."""


@dataclass(frozen=True, slots=True)
class TokenProbabilities:
    """A summary of the log-probabilities that a model gave the tokens of its own answer.

    Older summaries have only the first six figures. What isn't known is NaN.
    """

    mean: float
    minimum: float
    quantile_05: float
    quantile_25: float
    median: float
    margin: float
    """How far the decisive token lies above the next likely one, in log-probability; NaN where
    the endpoint names no alternatives."""
    total: float = math.nan
    """Sum over the text's tokens: the log-probability of the whole answer."""
    text_mean: float = math.nan
    """Mean without the token by which the model ended, where the endpoint lists it."""
    worst_window: float = math.nan
    """Least mean of three tokens that stand together."""
    uncertain_share: float = math.nan
    """Share of the tokens with a probability under 0.5."""
    entropy_mean: float = math.nan
    """Of what might have stood in a token's place, in nats; NaN without alternatives."""
    entropy_maximum: float = math.nan
    end: float = math.nan
    """Of the token by which the model ended; NaN where it was cut off, or that isn't listed."""
    new_mean: float = math.nan
    """Mean over words that neither the prompt has nor a sentence is built of."""
    new_minimum: float = math.nan
    new_margin: float = math.nan
    """Mean of how far these words' tokens lie above the next likely ones."""
    new_margin_minimum: float = math.nan
    since_new_mean: float = math.nan
    """Mean from the first such word on."""

    @classmethod
    def of_figures(cls, figures: Mapping[str, float | None] | None) -> "TokenProbabilities | None":
        """Return the summary that has these figures by name, NaN where one is None or absent."""
        if figures is None:
            return None
        values = (figures.get(name) for name in TOKEN_FIGURES)
        return cls(*(math.nan if one is None else one for one in values))

    def values(self) -> Float32[np.ndarray, " figures"]:
        """Return the figures in their order."""
        return np.array([getattr(self, name) for name in TOKEN_FIGURES], np.float32)

    def figures(self) -> dict[str, float | None]:
        """Return the figures by name for JSON, which has no NaN: None where not known."""
        named = zip(TOKEN_FIGURES, self.values().tolist(), strict=True)
        return {name: None if math.isnan(value) else value for name, value in named}

    @property
    def is_summary(self) -> bool:
        """Whether those figures are known that every summary has."""
        return not np.isnan([getattr(self, name) for name in FIRST_TOKEN_FIGURES[:-1]]).any()


TOKEN_FIGURES = tuple(field.name for field in fields(TokenProbabilities))
FIRST_TOKEN_FIGURES = TOKEN_FIGURES[: TOKEN_FIGURES.index("total")]
"""Those of all summaries; of these only the last, the margin, may be unknown."""


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """One model's answer to one item."""

    item_id: str
    model: str
    text: str
    """Empty where it answered nothing."""
    finish_reason: str | None = None
    """Why it ended, as the provider said; None where not known."""
    token_probabilities: TokenProbabilities | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that an endpoint billed."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """The answer carried no usage; counts are ours: of the tokenizer, or the upper bound."""
    cached_prompt_tokens: int = 0
    """Of the prompt tokens, those that the endpoint had in a cache."""
    cache_write_tokens: int = 0
    """Of the other prompt tokens, those that it wrote to a cache as the request asked."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def cost_usd(self, model: CandidateModel) -> Decimal:
        """Return what these tokens cost at a model's prices, in USD."""
        return model.cost_usd(
            self.prompt_tokens,
            self.completion_tokens,
            self.cached_prompt_tokens,
            self.cache_write_tokens,
        )


class FinishReason(StrEnum):
    """Why a model wrote no more of an answer."""

    STOP = "stop"
    """The answer is complete."""
    LENGTH = "length"
    """A limit of its tokens was reached."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools to be called."""
    CONTENT_FILTER = "content_filter"
    """A content filter cut the answer, or withheld it."""
    TRUNCATED = "truncated"
    """The limit of its tokens was used up, by reasoning, before it said anything."""
    EMPTY = "empty"
    """It ended without a text, a tool call or anything else."""
    ERROR = "error"
    """The endpoint failed while the model wrote."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A well-formed answer of a model endpoint."""

    answer: str
    """Text of the first choice."""
    body: dict[str, Any]
    """The whole response as it came."""
    usage: Usage
    http_status: int
    latency_s: float
    finish_reason: FinishReason | None = None
    """None where the endpoint gives none, or one that its format doesn't know."""
    failure: EndpointError | None = None
    """Why the endpoint failed while the model wrote: what it wrote is billed, and no answer."""

    @property
    def is_filtered(self) -> bool:
        """Whether a content filter cut the answer, or withheld it."""
        return self.finish_reason is FinishReason.CONTENT_FILTER


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call that was made for a job, successful or not."""

    job_no: int
    attempt_no: int
    """From 1, over all models and retries of the job."""
    model: str
    status: str
    """succeeded, failed, or lost (a crash hid the outcome: counted at its worst case)."""
    cost_usd: Decimal
    latency_s: float | None = None
    usage: Usage | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    probe: bool = False
    """Its answer is judged before it is accepted."""
    token_probabilities: TokenProbabilities | None = None
    """Of the answer, where the endpoint gave them."""


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer that was paid and is not, or not yet, its job's result."""

    attempt: Attempt
    """The call that it answered."""
    completion: Completion


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one call before it is sent."""

    job_no: int
    attempt_no: int
    model: str
    worst_case_usd: Decimal
    sent: bool = True
    """The call may be sent; False = not before that is marked."""
    last_resort: bool = field(default=False, metadata={"column": None})
    """The job's cheapest call: it may take what the batch keeps for such calls."""


class ResultSource(StrEnum):
    """Where a result comes from."""

    CALL = "call"
    """The job was called for, or ended without a call."""
    DUPLICATE = "duplicate"
    """An identical job of the batch was called for; its answer is shared."""
    CACHE = "cache"
    """An earlier answer to the same request, from the response cache."""


class DeviationReason(StrEnum):
    """Why another model answered a job than the one that was planned for it."""

    UNAVAILABLE = "unavailable"
    """The planned model's endpoints kept failing."""
    RATE_LIMITED = "rate_limited"
    """Its endpoints asked for a wait that was too long."""
    DENIED = "denied"
    """Its endpoints took no requests: a wrong key, or no credit."""
    BUDGET = "budget"
    """The money that was left did not cover a call to it."""
    COST_CAP = "cost_cap"
    """The job's own cost cap did not cover a call to it."""
    CONTENT_FILTER = "content_filter"
    """Its content filter refused the prompt or cut the answer."""
    CONTEXT_LENGTH = "context_length"
    """The prompt and its answer did not fit its context window."""
    TRUNCATED = "truncated"
    """Its answers were cut by their limit of tokens."""
    FAILED = "failed"
    """Its calls failed in another way."""
    BATCH_CHANNEL = "batch_channel"
    """The provider's batch API did not answer the job, or could not in time."""
    REPLAN = "replan"
    """A revision of the plan chose another model."""
    INVALID = "invalid"
    """Its answers broke a rule of the job."""


class QualityChange(StrEnum):
    """What a deviation is expected to do to the quality of the answer."""

    DOWNGRADE = "downgrade"
    """The model that answered is expected to answer worse than the planned one."""
    UPGRADE = "upgrade"
    """It is expected to answer better."""
    EQUAL = "equal"
    """It is expected to answer as well."""


class AnswerDecision(StrEnum):
    """How the answer of a job came about."""

    DIRECT = "direct"
    """No answer was judged before it, or there is none."""
    ACCEPTED = "accepted"
    """It is the answer of a probe, which was judged and stands."""
    ESCALATED = "escalated"
    """Its model was asked after another model's answer was judged, or broke a rule."""
    KEPT = "kept"
    """Another model was to be asked after it, but none could be, or none gave a better one."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one job ended; a job has exactly one result."""

    job_no: int
    status: ResultStatus
    cost_usd: Decimal
    """Of all its calls, lost ones at their worst case."""
    attempts: int
    model: str | None = None
    completion: Completion | None = None
    error_code: str | None = None
    error_message: str | None = None
    source: ResultSource = ResultSource.CALL
    reason: DeviationReason | None = None
    """Why another model than planned answered; None where the planned one did, or none."""
    expected_quality: float | None = None
    """Predicted for the model that answered, where it is not the planned one."""
    expected_cost_usd: Decimal | None = None
    """Expected of the call that answered, where its model is not the planned one."""
    decision: AnswerDecision = AnswerDecision.DIRECT
    """How its answer came about."""
