"""Formats amounts, shares, times and rates for people."""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from routoo.domain.batch_options import Objective

_MINUTE_S = 60
_HOUR_S = 3600
_SMALL_USD = Decimal("0.01")
_SIGNIFICANT = 3
_SHORT_ID, _WHOLE_ID = 8, 36


def usd(amount: Decimal | float | None) -> str:
    """Return an amount of dollars, with three digits that count however small it is."""
    if amount is None:
        return "-"
    exact = Decimal(str(amount))
    if exact == 0:
        return "$0"
    if abs(exact) >= _SMALL_USD:
        return f"${exact:,.4f}"
    digits = _SIGNIFICANT - 1 - exact.adjusted()
    return f"${exact:.{digits}f}"


def usd_per_thousand(cost_usd: Decimal | float | None, count: int) -> str:
    """Return what a thousand cost where so many cost an amount together."""
    return "-" if cost_usd is None or not count else usd(float(cost_usd) / count * 1000)


def short_ids(ids: "Iterable[UUID]") -> "dict[UUID, str]":
    """Return each id's first characters: eight, or as many as tell these ids apart."""
    whole = {one: str(one) for one in ids}
    for length in range(_SHORT_ID, _WHOLE_ID):
        if len({text[:length] for text in whole.values()}) == len(whole):
            return {one: text[:length].rstrip("-") for one, text in whole.items()}
    return whole


def percent(share: float | None) -> str:
    """Return a share of one as per cent."""
    return "-" if share is None else f"{share:.1%}"


def duration(seconds: float | None) -> str:
    """Return a duration, to the second from a minute on."""
    if seconds is None:
        return "-"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), _MINUTE_S)
    if seconds < _HOUR_S:
        return f"{minutes} min {rest_s:02} s"
    return f"{minutes // _MINUTE_S} h {minutes % _MINUTE_S:02} min"


def rate(jobs_per_s: float | None) -> str:
    """Return a rate of jobs."""
    return "-" if jobs_per_s is None else f"{jobs_per_s:,.1f} jobs/s"


def describe_shadow_price(answers_per_usd: float, cost_usd: float) -> str:
    """Return a shadow price as a sentence, of an amount that is small beside the cost.

    Args:
        answers_per_usd: Good answers that one more dollar is expected to buy.
        cost_usd: What they would be added to.
    """
    amount = small_amount(cost_usd)
    return f"${amount:f} more buys about {answers_per_usd * float(amount):.2g} more good answers"


def small_amount(cost_usd: float) -> Decimal:
    """Return a power of ten, in USD, from a hundredth to a tenth of a cost; 1 where that is 0."""
    return Decimal(10) ** math.floor(math.log10(cost_usd / 10 or 1.0))


def describe_objective(objective: "Objective", budget_usd: Decimal | None) -> str:
    """Return what a batch aims at."""
    within = "" if budget_usd is None else f" within {usd(budget_usd)}"
    caution = f", counted {objective.risk:g} standard deviations low" if objective.risk else ""
    return f"{objective.goal}{within}{caution}"


def describe_probes(probes: Mapping[str, Any]) -> str:
    """Say how many jobs a plan asks of a cheap model first, and what is expected of them."""
    if not probes["jobs"]:
        return "no job is asked of a cheap model first: judging its answer would not pay"
    names = ", ".join(one["model"] for one in probes["models"] if one["jobs"])
    compared = probes.get("compared", 0.0)
    of_them = f" ({compared:,.0f} to see whether both agree)" if round(compared) else ""
    return (
        f"{probes['jobs']:,} jobs ({percent(probes['share'])}) ask {names} first; of these, "
        f"{percent(probes['escalation_share'])} are expected to ask another model too{of_them}, "
        f"for {usd(probes['second_cost_usd'])}"
    )
