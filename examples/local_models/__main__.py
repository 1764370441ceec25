"""Command line: `python -m examples.local_models fetch|serve` from the repository's root."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from examples.local_models.catalogue import LocalModel, demo_models, named_models
from examples.local_models.fetch import fetch
from examples.local_models.process import serve_one
from examples.local_models.serve import LocalModels
from routoo.errors import RoutooError
from routoo.settings import load_settings

_CHECK_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "serve-one":
            (model,) = named_models([options.model])
            serve_one(replace(model, port=options.port), options.path, options.parent_pid)
            return 0
        chosen = named_models(options.models) if options.models else _demo()
        home = load_settings().home
        fetch(chosen, home)
        if options.command == "serve":
            _serve(chosen, home)
    except RoutooError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.local_models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("fetch", "download the model files to ROUTOO_HOME/models"),
        ("serve", "fetch what is missing, then serve all until Ctrl-C"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("models", nargs="*", help="names; default: those of ROUTOO_DEMO")
    one = commands.add_parser("serve-one", help="serve one model in this process")
    one.add_argument("model")
    one.add_argument("path", type=Path)
    one.add_argument("port", type=int)
    one.add_argument("parent_pid", type=int, help="process that this server must not outlive")
    return parser


def _demo() -> tuple[LocalModel, ...]:
    return demo_models(os.environ.get("ROUTOO_DEMO", ""))


def _serve(models: Sequence[LocalModel], home: Path) -> None:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with LocalModels(models, home) as servers:
        for model in models:
            print(f"{model.name} answers at {model.base_url}", flush=True)
        while not stop.wait(_CHECK_S):
            servers.check()


if __name__ == "__main__":
    sys.exit(main())
