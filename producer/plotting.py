"""The frontier of a plan as a picture."""

from pathlib import Path
from typing import Any

from routoo.files import check_suffix, replacing

_FORMATS = (".png", ".svg", ".pdf")


def check_format(path: Path) -> None:
    """Refuse a file name that no picture can have.

    Raises:
        InputError: Its suffix is none that is known.
    """
    check_suffix(path, _FORMATS, "the picture's format is not known")


def plot_plan(plan: dict[str, Any], path: Path) -> None:
    """Draw quality over cost: the frontier, the random mix, each model alone, and the plan.

    Args:
        plan: As the batch keeps it, with its forecast.
        path: Picture to write, whole or not at all.

    Raises:
        InputError: The folder can't be written.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - takes 0.5 s: not for a plan in text

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    points = plan.get("forecast", {}).get("frontier", [])
    costs = [point["cost_usd"] for point in points]
    axes.plot(costs, [point["mean_quality"] for point in points], marker=".", label="frontier")
    mixed = [point for point in points if point["random_mix_quality"] is not None]
    axes.plot(
        [point["cost_usd"] for point in mixed],
        [point["random_mix_quality"] for point in mixed],
        linestyle="--",
        label="random mix",
    )
    right_usd = max((model["alone_cost_usd"] for model in plan["models"]), default=0.0) / 2
    for model in plan["models"]:
        at = (model["alone_cost_usd"], model["alone_quality"])
        axes.plot(*at, marker="s", linestyle="none", color="grey")
        side: dict[str, Any] = (
            {"xytext": (-6, -12), "ha": "right"} if at[0] > right_usd else {"xytext": (6, -12)}
        )
        axes.annotate(model["model"], at, textcoords="offset points", fontsize=8, **side)
    if plan["served"]:
        at = (plan["expected_cost_usd"], plan["expected_quality"])
        axes.plot(*at, marker="*", markersize=14, linestyle="none", color="red", label="this plan")
    axes.set_xlabel("expected cost of the batch, USD")
    axes.set_ylabel("mean predicted quality")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    with replacing(path) as stream:
        figure.savefig(stream, dpi=150, format=path.suffix.removeprefix(".").lower())
