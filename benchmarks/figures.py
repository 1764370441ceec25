"""What every benchmark prints: a table for people, or one JSON object a line."""

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
    line = f"{figure.metric:34} {figure.value:12,.4g} {figure.unit:10}"
    if figure.reference is None or figure.ratio is None:
        return line
    return f"{line} beside {figure.reference:,.4g}, ratio {figure.ratio:.3g}"
