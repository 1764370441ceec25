"""Prints a benchmark's figures: a table for people, or one JSON object a line."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `ratio` is ours to the reference, from the same run."""

    metric: str
    value: float
    unit: str
    reference: float | None = None
    ratio: float | None = None


def show(figures: Iterable[Figure], *, as_json: bool) -> None:
    """Print figures as they come."""
    for figure in figures:
        print(json.dumps(asdict(figure)) if as_json else _line(figure), flush=True)


def _line(figure: Figure) -> str:
    line = f"{figure.metric:34} {_number(figure.value):>12} {figure.unit:10}"
    if figure.reference is None or figure.ratio is None:
        return line
    return f"{line} beside {_number(figure.reference)}, ratio {_number(figure.ratio)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
