"""Prices of models known by their outcomes only: from a list, or from what answers cost."""

import csv
from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from routoo.domain.pool import TOKENS_PER_MTOK, Tariff
from routoo.errors import InputError
from routoo.selector.pool_choice.answers import AnswerTable

COLUMNS = ("model", "usd_per_mtok_in", "usd_per_mtok_out")
EXACT = 1e-3
"""Relative error up to which costs count as tokens times a tariff."""


def read_prices(path: Path, datasets: Collection[str | None] = ()) -> dict[str, Tariff]:
    """Read a list of prices: CSV with the columns model, usd_per_mtok_in and usd_per_mtok_out.

    Rows without a price are left out: the model's price stays unknown.

    Args:
        path: The list.
        datasets: Where the list has a column dataset, only rows of these count; none named, all do.

    Raises:
        InputError: The file can't be read, a price is no number, or a model has two prices.
    """
    prices: dict[str, Tariff] = {}
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the prices can't be read: {error}", where=str(path)) from error
    for line, row in enumerate(rows, 2):
        tariff = _tariff(row, f"{path}:{line}")
        if tariff is None or (datasets and row.get("dataset") not in {None, *datasets}):
            continue
        if prices.setdefault(row["model"], tariff) != tariff:
            raise InputError("the model has two prices", value=row["model"], where=f"{path}:{line}")
    return prices


def derive_prices(answers: AnswerTable) -> dict[str, Tariff]:
    """Return the tariffs that answers were evidently billed at.

    A model whose costs are no exact multiple of its tokens is left out, as is one whose prompts and
    answers are too alike to separate the two prices.
    """
    found = {}
    for at, model in enumerate(answers.models):
        tokens = np.stack([answers.prompt_tokens[:, at], answers.completion_tokens[:, at]], axis=1)
        tariff = _fit(tokens, answers.cost_usd[:, at])
        if tariff is not None:
            found[model] = tariff
    return found


def check_priced(models: tuple[str, ...], prices: Mapping[str, Tariff]) -> None:
    """Refuse models without a price.

    Raises:
        InputError: Names them.
    """
    missing = [model for model in models if model not in prices]
    if missing:
        raise InputError(
            f"the price of {', '.join(missing)} is unknown",
            remedy="Give it in a CSV with --prices (columns model, usd_per_mtok_in, "
            "usd_per_mtok_out); say 0 if it is free",
        )


def price_answers(
    answers: AnswerTable, prices: Mapping[str, Tariff]
) -> Float64[np.ndarray, "items models"]:
    """Return costs in USD: the recorded, else tokens times price; NaN without an answer.

    Raises:
        InputError: Names the models with graded answers whose cost is unknown.
    """
    cost = answers.cost_usd.copy()
    for at, model in enumerate(answers.models):
        tariff = prices.get(model)
        if tariff is not None:
            billed = (
                float(tariff.prompt) * answers.prompt_tokens[:, at]
                + float(tariff.completion) * answers.completion_tokens[:, at]
            ) / float(TOKENS_PER_MTOK)
            cost[:, at] = np.where(np.isnan(cost[:, at]), billed, cost[:, at])
    unknown = np.isnan(cost) & ~np.isnan(answers.score)
    if unknown.any():
        names = ", ".join(answers.models[at] for at in np.flatnonzero(unknown.any(axis=0)))
        raise InputError(
            f"the cost of answers of {names} is unknown",
            remedy="Give prices with --prices, or leave the models out with --exclude",
        )
    return cost


def _tariff(row: Mapping[str, str], where: str) -> Tariff | None:
    missing = [name for name in COLUMNS if row.get(name) is None]
    if missing:
        raise InputError(f"the list of prices has no column {', '.join(missing)}", where=where)
    prompt, completion = row[COLUMNS[1]].strip(), row[COLUMNS[2]].strip()
    if not prompt or not completion:
        return None
    try:
        tariff = Tariff(prompt=Decimal(prompt), completion=Decimal(completion))
    except (InvalidOperation, ValueError) as error:
        raise InputError(
            "a price is no number of at least 0", value=f"{prompt}, {completion}", where=where
        ) from error
    return tariff


def _fit(
    tokens: Float64[np.ndarray, "answers 2"], cost: Float64[np.ndarray, " answers"]
) -> Tariff | None:
    known = np.isfinite(tokens).all(axis=1) & np.isfinite(cost)
    if not known.any():
        return None
    price, _, rank, _ = np.linalg.lstsq(tokens[known], cost[known], rcond=1e-6)
    error = np.abs(tokens[known] @ price - cost[known]).max()
    if rank < tokens.shape[1] or error > EXACT * float(cost[known].mean()):
        return None
    prompt, completion = (_rounded(value * float(TOKENS_PER_MTOK)) for value in price.tolist())
    return Tariff(prompt=prompt, completion=completion)


def _rounded(price: float) -> Decimal:
    """Return a price to four significant digits, as tariffs are quoted; never below 0."""
    return max(Decimal(f"{price:.4g}"), Decimal(0)) if price > EXACT * EXACT else Decimal(0)
