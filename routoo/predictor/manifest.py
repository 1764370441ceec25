"""Reads and writes a checkpoint's manifest: what it is, what it fits, how good it was; no torch."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from routoo.errors import CheckpointError

_Array = TypeVar("_Array")
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "model.safetensors"
PREVIOUS_WEIGHTS_FILE = ".previous.safetensors"
"""Weights that are being replaced, until the manifest names the new ones."""


def named_part(arrays: Mapping[str, _Array], name: str) -> dict[str, _Array]:
    """Return the arrays of a checkpoint whose names begin with a part's, without it."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}


@dataclass(frozen=True, slots=True)
class Manifest:
    """Facts of a checkpoint beside its weights."""

    models: tuple[str, ...]
    """Candidate models it knows, in the order of its arrays."""
    backbone: str
    """Package name or path of the backbone."""
    backbone_sha256: str
    """Hash of the backbone's weights."""
    layers: tuple[int, ...]
    """Hidden states of the backbone that are pooled."""
    weights_sha256: str
    """Hash of the checkpoint's own weights file."""
    data_sha256: str
    """Hash of the outcomes it was fitted on."""
    created: str
    """Date and time of the fit, ISO 8601 with time zone."""
    settings: dict[str, Any]
    """Options of the fit."""
    metrics: dict[str, Any]
    """Figures on items the measured fit never saw: per model and mean."""
    pooling: str = "mean"
    """How hidden states become one vector a prompt."""
    suffix: str = ""
    """Text that is put after every prompt."""
    precision: str = "auto"
    """What the backbone computes in."""
    compiled: bool = False
    """Whether the backbone's layers are compiled."""
    reader_sha256: str = ""
    """Hash of the backbone's configuration and tokenizer; empty where it was not noted."""
    judge: dict[str, Any] = field(default_factory=dict)
    """The judge of answers: its file, hash, models and held-out figures; empty without one."""
    format_version: int = FORMAT_VERSION

    def floor_margins(self, models: Sequence[str], confidence: float) -> list[float]:
        """Return what to take off models' estimates so that the rest holds with confidence.

        Args:
            models: Names of models it knows.
            confidence: Share of graded answers to be at or above their floor.

        Raises:
            CheckpointError: It was trained without margins, or with none for such a confidence.
        """
        table = self.metrics.get("floor_margins") or {"confidences": [], "models": {}}
        rows = [n for n, level in enumerate(table["confidences"]) if level >= confidence]
        if not rows or not set(models) <= set(table["models"]):
            raise CheckpointError(
                "the checkpoint has no margins for such a confidence",
                value=confidence,
                remedy="Lower --floor-confidence, leave it out, or train again with `routoo train`",
            )
        return [float(table["models"][name][rows[0]]) for name in models]


def read_manifest(checkpoint: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        CheckpointError: The folder holds no checkpoint, or one of another format.
    """
    path = checkpoint / MANIFEST_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "the checkpoint's manifest can't be read",
            where=str(path),
            value=str(error),
            remedy="Name a folder that `routoo train --out` wrote",
        ) from error
    return _parsed(values, path)


def checkpoint_models(checkpoint: Path) -> tuple[str, ...]:
    """Return the names of the candidate models that a checkpoint knows.

    Raises:
        CheckpointError: The folder holds no checkpoint, or one of another format.
    """
    return read_manifest(checkpoint).models


def manifest_text(manifest: Manifest) -> str:
    """Return the manifest as sorted, indented JSON; missing figures are null."""
    facts = asdict(manifest)
    facts["metrics"] = _each(facts["metrics"], _null_for_nan)
    facts["judge"] = _each(facts["judge"], _null_for_nan)
    return json.dumps(facts, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _parsed(content: object, path: Path) -> Manifest:
    values: dict[str, Any] = content if isinstance(content, dict) else {}
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint's format is not version {FORMAT_VERSION}",
            where=str(path),
            value=version,
            remedy="Train it again with `routoo train`, or use the Routoo release that wrote it",
        )
    _check_complete(values, path)
    _check_kinds(values, path)
    known = {fact.name: values[fact.name] for fact in fields(Manifest) if fact.name in values}
    known |= {"models": tuple(known["models"]), "layers": tuple(known["layers"])}
    known["metrics"] = _each(known["metrics"], _nan_for_null)
    return Manifest(**known)


def _check_complete(values: dict[str, Any], path: Path) -> None:
    # What has a default came later: checkpoints from before it are as the default says.
    needed = {
        fact.name
        for fact in fields(Manifest)
        if fact.default is MISSING and fact.default_factory is MISSING
    }
    missing = needed - set(values)
    if missing:
        raise CheckpointError(
            f"the manifest has no {', '.join(sorted(missing))}",
            where=str(path),
            remedy="Train the checkpoint again with `routoo train`",
        )


def _check_kinds(values: dict[str, Any], path: Path) -> None:
    """Check the kinds of values: a manifest may have been edited by hand."""
    models, layers = values["models"], values["layers"]
    named = isinstance(models, list) and all(isinstance(name, str) for name in models)
    pooled = isinstance(layers, list) and all(isinstance(layer, int) for layer in layers)
    figures = isinstance(values["metrics"], dict) and isinstance(values["settings"], dict)
    figures = figures and isinstance(values.get("judge", {}), dict)
    if not (named and pooled and figures and len(set(models)) == len(models)):
        raise CheckpointError(
            "the manifest is not as `routoo train` writes it",
            where=str(path),
            remedy="Restore it, or train the checkpoint again",
        )


def _each(figures: object, change: Callable[[object], object]) -> object:
    """Return nested figures with a function applied to each value."""
    if isinstance(figures, dict):
        return {key: _each(value, change) for key, value in figures.items()}
    return change(figures)


def _null_for_nan(figure: object) -> object:
    return None if isinstance(figure, float) and math.isnan(figure) else figure


def _nan_for_null(figure: object) -> object:
    return math.nan if figure is None else figure
