"""`routoo pool`: choose, look at and check pools of candidate models."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from routoo.cli.options import OutcomesOption
from routoo.console.commands import CommandGroup, with_options
from routoo.console.output import FittedTable, TableColumn

if TYPE_CHECKING:
    from routoo.domain.behaviour import FoundBehaviour
    from routoo.domain.pool import Pool, Tariff
    from routoo.selector.pool_choice import AnswerTable, PoolChoice

pool = CommandGroup("Choose, look at and check pools of models.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NoPing = Annotated[bool, typer.Option("--no-ping", help="Don't ask whether endpoints answer.")]
_PING_TIMEOUT_S = 5.0
PoolFile = Annotated[Path, typer.Argument(help="Pool file (YAML).")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChooseOptions:
    """Options of `routoo pool choose`."""

    items: Annotated[list[Path], typer.Option(help="Items table; can be repeated.")]
    outcomes: OutcomesOption
    size: Annotated[int, typer.Option(help="Models wanted.", min=1)]
    price_aware: Annotated[
        bool, typer.Option("--price-aware", help="Take the cost off each answer's worth.")
    ] = False
    usd_per_point: Annotated[
        float, typer.Option(help="USD that one more good answer is worth, if price-aware.")
    ] = 0.01
    prices: Annotated[
        Path | None, typer.Option(help="CSV: model, usd_per_mtok_in, usd_per_mtok_out.")
    ] = None
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave this model out; can be repeated.")
    ] = None
    out: Annotated[Path | None, typer.Option(help="Pool file to write.")] = None
    base_url: Annotated[
        str | None, typer.Option(help="Endpoint of all models in the pool file.")
    ] = None
    context_window_tokens: Annotated[
        int, typer.Option(help="Context window of all models in the pool file.", min=1)
    ] = 8192
    as_json: AsJson = False


@pool.command()
@with_options(ChooseOptions)
def choose(options: ChooseOptions) -> None:
    """Choose the models that complement each other best on graded answers."""
    from routoo.console.output import json_line
    from routoo.domain.tables import read_items, read_outcomes
    from routoo.selector.pool_choice import (
        AnswerTable,
        choose_members,
        derive_prices,
        price_answers,
        read_prices,
        value_answers,
    )

    rows = read_items(*options.items)
    answers = AnswerTable.of(read_outcomes(*options.outcomes), [item.item_id for item in rows])
    answers = answers.without(options.exclude or ())
    datasets = {item.dataset for item in rows}
    tariffs = read_prices(options.prices, datasets) if options.prices else derive_prices(answers)
    costs = price_answers(answers, tariffs) if options.price_aware else None
    usd_per_point = options.usd_per_point if options.price_aware else None
    worth = value_answers(answers.score, costs, usd_per_point)
    choice = choose_members(worth, options.size)
    if options.out is not None:
        names = tuple(answers.models[member.model] for member in choice.members)
        _write_pool(options, options.out, names, tariffs)
    report = _describe(answers, choice, tariffs)
    if options.as_json:
        typer.echo(json_line(report))
    else:
        _print_choice(report, choice)


_MODEL_COLUMNS = (
    TableColumn(title="model", least=16, fold=True),
    TableColumn(title="endpoint", least=20, fold=True),
    TableColumn(title="USD/Mtok in", right=True),
    TableColumn(title="out", right=True),
    TableColumn(title="window", rank=1, right=True),
    TableColumn(title="key", rank=2),
)


@pool.command()
def show(pool_file: PoolFile, *, as_json: AsJson = False) -> None:
    """Show a pool's models with their batch channels, prices and endpoints."""
    from routoo.console.output import console
    from routoo.domain.pool_file import load_pool

    found = load_pool(pool_file)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    table = FittedTable(*_MODEL_COLUMNS)
    for model in found.with_batch_channels().models:
        price = model.price_usd_per_mtok
        table.add_row(
            model.name,
            model.endpoint.base_url,
            str(price.prompt),
            str(price.completion),
            str(model.context_window_tokens),
            model.endpoint.api_key_env or "-",
        )
    console().print(table)


@pool.command()
def priors(
    pool_file: Annotated[
        Path | None, typer.Argument(help="Pool file (YAML); none lists the reference models.")
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Show where the general checkpoint places a pool's models, before any answer is graded.

    Without a file: the reference models that `prior: {like: NAME}` may name.

    Examples:
        routoo pool priors pool.yaml

        routoo pool priors
    """
    from routoo.console.output import console, json_line
    from routoo.domain.model_prior import GENERAL_CHECKPOINT, reference_models
    from routoo.domain.pool_file import load_pool
    from routoo.predictor.placement import read_placer

    if pool_file is None:
        names = sorted(reference_models())
        typer.echo(json_line(names) if as_json else "\n".join(names))
        return
    placer = read_placer(GENERAL_CHECKPOINT)
    placed = [] if placer is None else placer.place(load_pool(pool_file).models)
    if as_json:
        typer.echo(json_line([one.as_json() for one in placed]))
        return
    table = FittedTable(
        TableColumn(title="model", least=16, fold=True),
        TableColumn(title="mean quality", right=True),
        TableColumn(title="95 % interval"),
        TableColumn(title="after 50 answers"),
        TableColumn(title="placed by", least=20, fold=True),
    )
    for one in placed:
        now, after = one.level, one.after_answers
        intervals = [f"{level.low:.2f} to {level.high:.2f}" for level in (now, after)]
        table.add_row(one.name, f"{now.quality:.2f}", *intervals, one.by)
    console().print(table)


@pool.command()
def check(pool_file: PoolFile, *, no_ping: NoPing = False) -> None:
    """Check a pool file: priced, keys and tokenizers there, endpoints answer; else exit status 2.

    Each endpoint is asked for its list of models, which costs nothing; --no-ping leaves that out.
    Where the dispatchers' database is reachable, it also prints what they found of the endpoints.
    """
    import os

    from routoo.client.access import check_variables
    from routoo.client.token_counts import TokenCounters
    from routoo.domain.pool_file import load_pool

    found = load_pool(pool_file)
    check_variables(found.models, os.environ)
    TokenCounters().load(found.models)
    typer.echo(
        f"{pool_file}: {len(found.models)} models, all priced, all keys and tokenizers there"
    )
    for behaviour in _behaviours(found):
        typer.echo(str(behaviour))
    if not no_ping:
        _ping(found)


def _ping(pool: "Pool") -> None:
    """Print whether each endpoint answers.

    Raises:
        ConfigError: A model has none that does.
    """
    import asyncio

    from routoo.client.ping import check_answers, ping
    from routoo.settings import load_settings

    settings = load_settings()
    timeout_s, blocked = settings.ping_timeout_s or _PING_TIMEOUT_S, settings.blocked_networks
    found = asyncio.run(ping(pool.models, timeout_s=timeout_s, blocked=blocked))
    for one in found:
        typer.echo(f"{', '.join(one.models)} at {one.base_url}: {one.problem or 'answers'}")
    check_answers(found)


def _behaviours(pool: "Pool") -> "tuple[FoundBehaviour, ...]":
    """Return what dispatchers found of a pool's endpoints; nothing while no database is there."""
    from routoo.domain.behaviour import found_in
    from routoo.embedded.stack import database_url
    from routoo.settings import load_settings
    from routoo.store.endpoints import load_behaviour_if_reachable

    return found_in(pool, load_behaviour_if_reachable(database_url(load_settings())))


def _describe(
    answers: "AnswerTable", choice: "PoolChoice", tariffs: "Mapping[str, Tariff]"
) -> dict[str, Any]:
    members = []
    for member in choice.members:
        name = answers.models[member.model]
        tariff = tariffs.get(name)
        price = None if tariff is None else _as_numbers(tariff)
        members.append({"model": name, "gain": member.gain, "price_usd_per_mtok": price})
    return {
        "members": members,
        "candidates": len(answers.models),
        "items": len(answers.score),
        **{k: v for k, v in asdict(choice).items() if k != "members"},
        "share": choice.share,
    }


def _as_numbers(tariff: "Tariff") -> dict[str, float]:
    return {name: float(price) for name, price in tariff.model_dump(exclude_none=True).items()}


def _print_choice(report: dict[str, Any], choice: "PoolChoice") -> None:
    from routoo.console.output import console, report_table
    from routoo.selector.pool_choice import GREEDY_SHARE

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
        if choice.exact
        else f"at least {choice.share:.1%} of the best pool (greedy promises {GREEDY_SHARE:.1%})"
    )
    screen.print(f"{report['candidates']} candidates on {report['items']} items; {proof}.")


def _write_pool(
    options: ChooseOptions, out: Path, models: tuple[str, ...], tariffs: "Mapping[str, Tariff]"
) -> None:
    """Write a pool file and check that it can be read.

    Raises:
        InputError: No endpoint is named, or a model has no price.
    """
    import orjson

    from routoo.console.output import note
    from routoo.domain.pool_file import parse_pool
    from routoo.errors import InputError
    from routoo.files import replacing
    from routoo.selector.pool_choice import check_priced

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
    written = parse_pool(text, name=str(out))
    with replacing(out) as stream:
        stream.write(text.encode())
    note(f"{out}: a pool of {len(written.models)} models")
