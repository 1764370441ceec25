"""Paces an hour's budget over jobs that never end, by the price of a dollar.

Every group of jobs is selected at the current price; then the price moves by how far the group's
cost missed its share of the budget. It is the dual price of the budget, learned online: dual mirror
descent with the entropy as mirror, whose step multiplies the price. The miss is counted in shares
of the target and cut at one share, so that one group moves the price by a factor of at most
e^step, whatever units quality and money have.

Source: Balseiro, Lu and Mirrokni, Dual mirror descent for online allocation problems, ICML 2020;
for budgets paced over time Balseiro and Gur, Learning in repeated auctions with budgets, Management
Science 65 (2019). Their regret of order sqrt(T) is proved for steps that shrink with the horizon T.
An endless stream has none, so the step stays and the price follows a mix of jobs that changes.
"""

import math

STEP = 0.2
"""Largest change of the price's logarithm by one group."""
_SHORTEST_LEFT_S = 60.0
_MOST_HASTE = 4.0
"""Times the even rate at which money that was left over may be spent."""
_HOUR_S = 3600.0


def next_price(
    price_per_usd: float, *, quality: float, cost_usd: float, target_usd: float
) -> float:
    """Return the price for the next group.

    Args:
        price_per_usd: Quality that a dollar had to buy for this group; 0 while money was plenty.
        quality: Good answers that were expected of what was selected at that price.
        cost_usd: Expected cost of all its calls, in USD.
        target_usd: The group's share of the budget, in USD.

    Returns:
        A price that rises where the group cost more than its share and falls where it cost less.
        From 0 it starts at what a dollar bought on average.
    """
    if price_per_usd == 0.0:
        return quality / cost_usd if cost_usd > target_usd else 0.0
    if target_usd <= 0.0:
        return price_per_usd * math.exp(STEP)
    miss = (cost_usd - target_usd) / target_usd
    return price_per_usd * math.exp(STEP * min(max(miss, -1.0), 1.0))


def share_usd(left_usd: float, *, left_s: float, elapsed_s: float, budget_usd: float) -> float:
    """Return what may be spent on a group so that the hour's money lasts the hour.

    Args:
        left_usd: Of the hour's budget.
        left_s: Of the hour.
        elapsed_s: Since the group before.
        budget_usd: For a whole hour; bounds the haste with which leftovers are spent.
    """
    left_usd = max(left_usd, 0.0)
    rate = min(left_usd / max(left_s, _SHORTEST_LEFT_S), _MOST_HASTE * budget_usd / _HOUR_S)
    return min(rate * elapsed_s, left_usd)
