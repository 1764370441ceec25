"""Options that commands share."""

import inspect

import pytest
from typer.testing import CliRunner

from routoo.cli.evaluate import evaluate
from routoo.cli.main import app
from routoo.cli.options import FittingOptions
from routoo.cli.train import train


@pytest.mark.parametrize(("name", "own"), [("train", "--out"), ("evaluate", "--items")])
def test_help_shows_a_commands_own_options_before_those_of_every_fit(name: str, own: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
    assert 0 < shown.index(own) < shown.index("how it is fitted") < shown.index("--model")


def test_train_and_evaluate_say_alike_how_a_predictor_is_fitted() -> None:
    shared = set(inspect.signature(FittingOptions).parameters)
    assert shared <= set(inspect.signature(train).parameters)
    assert shared <= set(inspect.signature(evaluate).parameters)


def test_only_what_departs_from_the_usual_fit_is_named() -> None:
    assert FittingOptions(model=["m"], seed=3, device="cpu").changed_fit_options() == []
    told = FittingOptions(layer=[2], suffix="?", compile=True, tune=True)
    assert told.changed_fit_options() == ["--layer", "--suffix", "--compile", "--tune"]


def test_a_suffix_may_name_a_line_break() -> None:
    assert FittingOptions(suffix=r"\nAnswer:").reading.suffix == "\nAnswer:"
