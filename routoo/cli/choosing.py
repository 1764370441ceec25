"""Choosing a pool from graded answers, and writing its file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import typer

from routoo.cli.choose_options import ChooseOptions
from routoo.console.output import console, messages, report_table
from routoo.domain.pool import Pool, Tariff
from routoo.domain.pool_file import parse_pool
from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import InputError
from routoo.files import replacing
from routoo.selector.pool_choice.answers import Answers
from routoo.selector.pool_choice.choose import (
    GREEDY_SHARE,
    Universe,
    choose_universe,
    value_answers,
)
from routoo.selector.pool_choice.tariffs import (
    check_priced,
    derive_prices,
    price_answers,
    read_prices,
)


def choose_pool(options: ChooseOptions) -> None:
    """Choose a pool, print it, and write its file where one is wanted.

    Raises:
        InputError: A table can't be read, or the answers don't do for such a pool.
    """
    rows = read_items(*options.items)
    answers = Answers.of(read_outcomes(*options.outcomes), [item.item_id for item in rows])
    answers = answers.without(options.exclude or ())
    datasets = {item.dataset for item in rows}
    tariffs = read_prices(options.prices, datasets) if options.prices else derive_prices(answers)
    costs = price_answers(answers, tariffs) if options.price_aware else None
    usd_per_point = options.usd_per_point if options.price_aware else None
    worth = value_answers(answers.score, costs, usd_per_point)
    universe = choose_universe(worth, options.size)
    if options.out is not None:
        _write(options, options.out, _named(answers, universe), tariffs)
    report = _report(answers, universe, tariffs)
    if options.as_json:
        typer.echo(orjson.dumps(report))
    else:
        _show_universe(report, universe)


def _named(answers: Answers, universe: Universe) -> tuple[str, ...]:
    return tuple(answers.models[member.model] for member in universe.members)


def _report(answers: Answers, universe: Universe, tariffs: dict[str, Tariff]) -> dict[str, Any]:
    members = []
    for member in universe.members:
        name = answers.models[member.model]
        tariff = tariffs.get(name)
        shown = None if tariff is None else {k: float(v) for k, v in tariff.model_dump().items()}
        members.append({"model": name, "gain": member.gain, "price_usd_per_mtok": shown})
    return {
        "members": members,
        "candidates": len(answers.models),
        "items": len(answers.score),
        **{k: v for k, v in asdict(universe).items() if k != "members"},
        "share": universe.share,
    }


def _show_universe(report: dict[str, Any], universe: Universe) -> None:
    table = report_table("#", "model", "gain", "worth so far", "USD/Mtok in", "out")
    worth = 0.0
    for rank, member in enumerate(report["members"], 1):
        worth += member["gain"]
        price = member["price_usd_per_mtok"] or {"prompt": "unknown", "completion": "unknown"}
        cells = (f"{member['gain']:.4f}", f"{worth:.4f}", price["prompt"], price["completion"])
        table.add_row(str(rank), member["model"], *(str(cell) for cell in cells))
    screen = console()
    screen.print(table)
    proof = (
        "all pools of this size were tried: none is worth more"
        if universe.exact
        else f"at least {universe.share:.1%} of the best pool (greedy promises {GREEDY_SHARE:.1%})"
    )
    screen.print(f"{report['candidates']} candidates on {report['items']} items; {proof}.")


def _write(
    options: ChooseOptions, out: Path, models: tuple[str, ...], tariffs: dict[str, Tariff]
) -> None:
    if options.base_url is None:
        raise InputError("a pool file needs an endpoint", remedy="Give --base-url")
    check_priced(models, tariffs)
    text = "# Written by `routoo pool choose`. Check endpoints, windows and prices.\nmodels:\n"
    for name in models:
        price = tariffs[name]
        text += (
            f"  - name: {orjson.dumps(name).decode()}\n"
            f"    endpoint: {{base_url: {orjson.dumps(options.base_url).decode()}}}\n"
            f"    price_usd_per_mtok: "
            f"{{prompt: {price.prompt:f}, completion: {price.completion:f}}}\n"
            f"    context_window_tokens: {options.context_window_tokens}\n"
        )
    written: Pool = parse_pool(text, name=str(out))
    with replacing(out) as stream:
        stream.write(text.encode())
    messages().print(f"{out}: a pool of {len(written.models)} models")
