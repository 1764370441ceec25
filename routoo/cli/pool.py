"""`routoo pool`: choose, look at and check pools of candidate models."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from routoo.domain.pool import Pool, Tariff
from routoo.domain.pool_file import load_pool, parse_pool
from routoo.domain.tables import read_items, read_outcomes
from routoo.errors import ConfigError, InputError
from routoo.selector.answers import Answers
from routoo.selector.tariffs import check_priced, derive_prices, price_answers, read_prices
from routoo.selector.universe import GREEDY_SHARE, Universe, choose_universe, value_answers

app = pool = typer.Typer(no_args_is_help=True, help="Choose, look at and check pools of models.")

PoolFile = Annotated[Path, typer.Argument(help="Pool file (YAML).")]
PriceList = Annotated[
    Path | None, typer.Option(help="CSV: model, usd_per_mtok_in, usd_per_mtok_out.")
]
Excluded = Annotated[list[str] | None, typer.Option(help="Leave this model out; repeatable.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def choose(
    items: Annotated[list[Path], typer.Option(help="Items table; repeatable.")],
    outcomes: Annotated[list[Path], typer.Option(help="Outcomes table (Parquet); repeatable.")],
    size: Annotated[int, typer.Option(help="Models wanted.", min=1)],
    *,
    price_aware: Annotated[
        bool, typer.Option("--price-aware", help="Take the cost off each answer's worth.")
    ] = False,
    usd_per_point: Annotated[
        float, typer.Option(help="USD that one more good answer is worth, if price-aware.")
    ] = 0.01,
    prices: PriceList = None,
    exclude: Excluded = None,
    out: Annotated[Path | None, typer.Option(help="Pool file to write.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint of all models in the pool file.")
    ] = None,
    context_window_tokens: Annotated[
        int, typer.Option(help="Context window of all models in the pool file.", min=1)
    ] = 8192,
    as_json: AsJson = False,
) -> None:
    """Choose the models that complement each other best on graded answers."""
    rows = read_items(*items)
    answers = Answers.of(read_outcomes(*outcomes), [item.item_id for item in rows])
    answers = answers.without(exclude or ())
    datasets = {item.dataset for item in rows}
    tariffs = read_prices(prices, datasets) if prices else derive_prices(answers)
    costs = price_answers(answers, tariffs) if price_aware else None
    worth = value_answers(answers.score, costs, usd_per_point if price_aware else None)
    universe = choose_universe(worth, size)
    if out is not None:
        _write(out, _named(answers, universe), tariffs, (base_url, context_window_tokens))
    report = _report(answers, universe, tariffs)
    if as_json:
        typer.echo(orjson.dumps(report))
    else:
        _show_universe(report, universe)


@app.command()
def show(pool_file: PoolFile, *, as_json: AsJson = False) -> None:
    """Show a pool's models, prices and endpoints."""
    found = load_pool(pool_file)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    table = Table("model", "endpoint", "USD/Mtok in", "out", "window", "key")
    for model in found.models:
        price = model.price_usd_per_mtok
        table.add_row(
            model.name,
            model.endpoint.base_url,
            str(price.prompt),
            str(price.completion),
            str(model.context_window_tokens),
            model.endpoint.api_key_env or "-",
        )
    Console().print(table)


@app.command()
def check(pool_file: PoolFile) -> None:
    """Check a pool file: readable, priced, and its API keys set; exit status 2 where not."""
    found = load_pool(pool_file)
    wanted = {model.endpoint.api_key_env for model in found.models} - {None}
    unset = sorted(name for name in wanted if name and not os.environ.get(name))
    if unset:
        raise ConfigError(
            f"no value is set for {', '.join(unset)}",
            where=str(pool_file),
            remedy="Export the API keys under these names",
        )
    typer.echo(f"{pool_file}: {len(found.models)} models, all priced, all keys set")


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
    table = Table("#", "model", "gain", "worth so far", "USD/Mtok in", "out")
    worth = 0.0
    for rank, member in enumerate(report["members"], 1):
        worth += member["gain"]
        price = member["price_usd_per_mtok"] or {"prompt": "unknown", "completion": "unknown"}
        cells = (f"{member['gain']:.4f}", f"{worth:.4f}", price["prompt"], price["completion"])
        table.add_row(str(rank), member["model"], *(str(cell) for cell in cells))
    console = Console()
    console.print(table)
    proof = (
        "all pools of this size were tried: none is worth more"
        if universe.exact
        else f"at least {universe.share:.1%} of the best pool (greedy promises {GREEDY_SHARE:.1%})"
    )
    console.print(f"{report['candidates']} candidates on {report['items']} items; {proof}.")


def _write(
    out: Path, models: tuple[str, ...], tariffs: dict[str, Tariff], where: tuple[str | None, int]
) -> None:
    base_url, window = where
    if base_url is None:
        raise InputError("a pool file needs an endpoint", remedy="Give --base-url")
    check_priced(models, tariffs)
    text = "# Written by `routoo pool choose`. Check endpoints, windows and prices.\nmodels:\n"
    for name in models:
        price = tariffs[name]
        text += (
            f"  - name: {orjson.dumps(name).decode()}\n"
            f"    endpoint: {{base_url: {orjson.dumps(base_url).decode()}}}\n"
            f"    price_usd_per_mtok: "
            f"{{prompt: {price.prompt:f}, completion: {price.completion:f}}}\n"
            f"    context_window_tokens: {window}\n"
        )
    written: Pool = parse_pool(text, name=str(out))
    part = out.with_name(f"{out.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(out)
    Console(stderr=True).print(f"{out}: a pool of {len(written.models)} models")
