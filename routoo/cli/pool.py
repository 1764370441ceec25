"""`routoo pool`: choose, look at and check pools of candidate models."""

import os
from pathlib import Path
from typing import Annotated

import typer

from routoo.cli.choose_options import AsJson, ChooseOptions
from routoo.console.commands import CommandGroup
from routoo.console.options import with_options
from routoo.console.output import console, report_table
from routoo.domain.pool_file import load_pool

app = pool = CommandGroup("Choose, look at and check pools of models.")

PoolFile = Annotated[Path, typer.Argument(help="Pool file (YAML).")]


@app.command()
@with_options(ChooseOptions)
def choose(options: ChooseOptions) -> None:
    """Choose the models that complement each other best on graded answers."""
    # Arrow takes half a second to load: not for --help
    from routoo.cli.choosing import choose_pool

    choose_pool(options)


@app.command()
def show(pool_file: PoolFile, *, as_json: AsJson = False) -> None:
    """Show a pool's models with their batch channels, prices and endpoints."""
    found = load_pool(pool_file)
    if as_json:
        typer.echo(found.model_dump_json())
        return
    table = report_table("model", "endpoint", "USD/Mtok in", "out", "window", "key")
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


@app.command()
def check(pool_file: PoolFile) -> None:
    """Check a pool file: readable, priced, keys and tokenizers there; exit status 2 where not."""
    from routoo.client.access import check_variables
    from routoo.client.token_counts import TokenCounters

    found = load_pool(pool_file)
    check_variables(found.models, os.environ)
    TokenCounters().load(found.models)
    typer.echo(
        f"{pool_file}: {len(found.models)} models, all priced, all keys and tokenizers there"
    )
