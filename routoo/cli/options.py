"""Options that several commands have; those of one command stand in its module."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from routoo.predictor.options import (
    DEFAULT_BACKBONE,
    ClassWeight,
    Pooling,
    Precision,
    Reading,
    TuneOptions,
)

if TYPE_CHECKING:
    from routoo.training.predictor_settings import PredictorSettings

_option = partial(typer.Option, rich_help_panel="The predictor, and how it is fitted")
_NOT_OF_THE_FIT = {"model", "seed", "device", "cache"}
"""Options that have a meaning for a predictor that is fitted already, too."""

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text for people.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="Folder that `routoo train` wrote.")]
ItemsOption = Annotated[
    list[Path], typer.Option(help="Items table (Parquet or JSONL); can be repeated.")
]
OutcomesOption = Annotated[
    list[Path], typer.Option(help="Outcomes table (Parquet); can be repeated.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingOptions:
    """How a predictor is fitted, for `routoo train` and `routoo evaluate --protocol`."""

    model: Annotated[
        list[str] | None, _option(help="Only this candidate model; can be repeated.")
    ] = None
    seed: Annotated[int, _option(help="Seed of all that is drawn, such as folds.", min=0)] = 0
    device: Annotated[str, _option(help="cpu, cuda or auto.")] = "auto"
    cache: Annotated[
        Path | None, _option(help="Folder of cached embeddings; under ROUTOO_HOME if unset.")
    ] = None
    backbone: Annotated[
        str, _option(help="Package or path of the language model that reads the prompts.")
    ] = DEFAULT_BACKBONE
    layer: Annotated[
        list[int] | None,
        _option(help="Hidden state to use, 0 = tokens; can be repeated. Unset: each third."),
    ] = None
    pooling: Annotated[
        Pooling | None, _option(help="Unset: mean for an encoder, last for a decoder.")
    ] = None
    suffix: Annotated[
        str,
        _option(help="Text after every prompt, \\n for a line break, such as '\\nAnswer:'."),
    ] = ""
    precision: Annotated[Precision, _option(help="auto: bfloat16 where the hardware has it.")] = (
        Precision.AUTO
    )
    compile: Annotated[
        bool, _option("--compile", help="Fuse the backbone's layers; needs a C++ compiler.")
    ] = False
    class_weight: Annotated[
        ClassWeight,
        _option(help="balanced: a model's rarer outcomes count for more in the fit."),
    ] = ClassWeight.NONE
    tune: Annotated[
        bool, _option("--tune", help="Adapt the backbone first (LoRA): a GPU's work.")
    ] = False
    epochs: Annotated[int, _option(help="Most passes of --tune.", min=1)] = 5
    rank: Annotated[int, _option(help="Rank of the adapters of --tune.", min=1)] = 8

    @property
    def reading(self) -> Reading:
        """How the backbone reads a prompt."""
        layers = tuple(self.layer) if self.layer else None
        suffix = self.suffix.replace("\\n", "\n")
        return Reading(layers, self.pooling, suffix, self.precision, self.compile)

    @property
    def embeddings(self) -> Path:
        """Folder of cached embeddings."""
        from routoo.settings import load_settings

        return self.cache or load_settings().embeddings

    def predictor_settings(self) -> "PredictorSettings":
        """Return what to make a predictor of, and how to fit it."""
        from routoo.predictor.fitting import FitOptions
        from routoo.training.predictor_settings import PredictorSettings

        tuning = TuneOptions(self.rank, self.epochs, seed=self.seed, class_weight=self.class_weight)
        return PredictorSettings(
            cache=self.embeddings,
            backbone=self.backbone,
            reading=self.reading,
            device=self.device,
            fit=FitOptions(seed=self.seed, class_weight=self.class_weight),
            tuning=tuning if self.tune else None,
        )

    def changed_fit_options(self) -> list[str]:
        """Return the names of the options of the fit that are not at their defaults."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(FittingOptions)
            if field.name not in _NOT_OF_THE_FIT and getattr(self, field.name) != field.default
        ]
