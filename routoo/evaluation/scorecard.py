"""Holds the figures of one evaluation, which reports show: as JSON, on a terminal, as a page."""

from dataclasses import dataclass, field

from routoo.evaluation.bootstrap import Interval, MeanInterval
from routoo.evaluation.operating_point import CostBin, DomainFigures, OperatingPoint
from routoo.evaluation.pool_comparison import PoolComparison
from routoo.evaluation.quality_metrics import Reliability
from routoo.evaluation.same_cost import SameCost


@dataclass(frozen=True, slots=True)
class ModelRow:
    """Figures of one candidate model."""

    name: str
    quality: Interval
    """Mean score of the answers it is known to give; NaN where none was asked for."""
    cost_usd: Interval
    """Mean cost of an answer, in USD."""
    share: float
    """Share of the routed items that it answered."""
    latency_p50_s: float
    latency_p95_s: float
    answers: int
    """Graded answers that its quality is measured on."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """Figures of an earlier evaluation of the same set, or of this one."""

    label: str
    """Date or name."""
    quality: Interval
    cost_usd: Interval
    ece: float
    """Expected calibration error; NaN where it was not measured."""


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """Figures of the answers that came about in one way."""

    decision: str
    """direct, accepted, escalated or kept."""
    answers: int
    share: float
    """Of all answers."""
    quality: MeanInterval
    """Of accepted answers that is the precision of acceptance."""
    cost_usd: MeanInterval
    """Of all calls of a job, in USD."""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One evaluation's figures; a part that was not measured is None or empty."""

    title: str
    facts: dict[str, str]
    """What it was measured on: data, checkpoint, protocol, seed."""
    models: tuple[ModelRow, ...]
    operating: OperatingPoint | None = None
    pool: PoolComparison | None = None
    reliability: tuple[Reliability, ...] = ()
    mean: dict[str, Interval] = field(default_factory=dict)
    """AUC, Brier score and ECE, mean over the models."""
    domains: tuple[DomainFigures, ...] = ()
    cost_bins: tuple[CostBin, ...] = ()
    history: tuple[PastRun, ...] = ()
    """Oldest first."""
    decisions: tuple[DecisionRow, ...] = ()
    """How the answers came about; empty where none was judged."""
    same_cost: SameCost | None = None
    """What else a run's money buys."""
