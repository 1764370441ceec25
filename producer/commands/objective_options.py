"""The options that say what a batch or a run aims at: its money, a quality, the caution."""

from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Annotated

import typer

from producer.commands.reading_options import read_option
from producer.rows.limits import read_number, read_quality, read_usd
from routoo.domain.batch_options import Objective
from routoo.domain.pool import Pool
from routoo.errors import InputError

_MOST_RISK = 10.0
_MOST_RATIO = 10.0
_MOST_CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class AimOptions:
    """Options as they were typed; their help is each field's documentation."""

    budget_usd: Annotated[
        str | None, typer.Option(metavar="X", help="Most that the whole batch may cost, in USD.")
    ] = None
    min_mean_quality: Annotated[
        str | None,
        typer.Option(
            metavar="Q", help="Mean predicted quality to reach at the least cost, 0 to 1."
        ),
    ] = None
    match: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL@R",
            help="Reach R times MODEL's own mean quality at the least cost, as large@0.98.",
        ),
    ] = None
    willingness_to_pay_usd: Annotated[
        str | None,
        typer.Option(
            metavar="X",
            help="What one more expected good answer is worth, in USD: dearer gains are left out.",
        ),
    ] = None
    risk: Annotated[
        str | None,
        typer.Option(
            metavar="R",
            help="Count quality R standard deviations of its estimate below the mean. (default: 0)",
        ),
    ] = None

    def budget(self) -> Decimal | None:
        """Return the budget in USD.

        Raises:
            InputError: It is no amount.
        """
        return read_option("--budget-usd", partial(read_usd, "the budget"), self.budget_usd)

    def objective(self, pool: Pool) -> Objective:
        """Return what the batch aims at.

        Raises:
            InputError: An option has no usable value, or two aims are given.
        """
        model, ratio = _matched(self.match, pool)
        read_worth = partial(read_number, "the worth of an answer", above=0.0)
        read_risk = partial(read_number, "the risk", least=0.0, most=_MOST_RISK)
        read_mean = partial(read_quality, "the mean quality")
        worth = self.willingness_to_pay_usd
        return Objective(
            min_mean_quality=read_option("--min-mean-quality", read_mean, self.min_mean_quality),
            match_model=model,
            match_ratio=ratio,
            willingness_to_pay_usd=read_option("--willingness-to-pay-usd", read_worth, worth),
            risk=read_option("--risk", read_risk, self.risk) or 0.0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveOptions(AimOptions):
    """What a batch, whose jobs may have quality floors, aims at beside that."""

    floor_confidence: Annotated[
        str | None,
        typer.Option(
            metavar="C",
            help="Share of jobs whose answer shall reach --min-quality, 0.5 to 0.99: the estimate "
            "is lowered by what it was ever wrong by. (default: compare the estimate)",
        ),
    ] = None

    def objective(self, pool: Pool) -> Objective:
        """Return what the batch aims at.

        Raises:
            InputError: An option has no usable value, or two aims are given.
        """
        read = partial(read_number, "the confidence", least=0.5, most=_MOST_CONFIDENCE)
        confidence = read_option("--floor-confidence", read, self.floor_confidence)
        # Not `super()`: a dataclass with slots is another class than the one its methods know.
        return replace(AimOptions.objective(self, pool), floor_confidence=confidence)


def _matched(text: str | None, pool: Pool) -> tuple[str | None, float]:
    """Return the model and the ratio of MODEL@RATIO; a bare MODEL stands for all of its quality."""
    if text is None or text in pool.names:
        return text, 1.0
    model, _, share = text.rpartition("@")
    if model not in pool.names:
        raise InputError(
            "the model to match is not in the pool",
            value=text,
            where="--match",
            remedy=f"Write MODEL@0.98 with one of {', '.join(pool.names)}",
        )
    read_ratio = partial(read_number, "the share to match", above=0.0, most=_MOST_RATIO)
    return model, read_option("--match", read_ratio, share) or 1.0
