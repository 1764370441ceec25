"""Options of commands that fit a predictor: `routoo train`, and `routoo evaluate --protocol`."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from routoo.predictor.options import DEFAULT_BACKBONE, ClassWeight, Pooling, Precision, Reading

_option = partial(typer.Option, rich_help_panel="The predictor, and how it is fitted")
_ANYWHERE = {"model", "seed", "device", "cache"}
"""Options that say nothing of the fit: they count for a fitted predictor too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittingOptions:
    """Options as they were typed; their help is each field's documentation."""

    model: Annotated[list[str] | None, _option(help="Only this candidate model; repeatable.")] = (
        None
    )
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
        _option(help="Hidden state to use, 0 = tokens; repeatable. Unset: each third."),
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
    def departures(self) -> list[str]:
        """Names of the options by which the fit is not the usual one."""
        return [
            f"--{field.name.replace('_', '-')}"
            for field in fields(FittingOptions)
            if field.name not in _ANYWHERE and getattr(self, field.name) != field.default
        ]
