"""Checkpoints on disk: weights as safetensors, facts as a manifest."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from routoo.errors import CheckpointError
from routoo.predictor.estimator import Estimator
from routoo.predictor.manifest import WEIGHTS_FILE, Manifest, read_manifest, write_manifest

ADAPTER = "adapter."


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What `routoo train` wrote."""

    manifest: Manifest
    estimator: Estimator
    adapters: dict[str, np.ndarray]
    """Of the backbone, by the layers' names; none where it is as it was."""


def pack(estimator: Estimator, adapters: Mapping[str, np.ndarray]) -> bytes:
    """Return all arrays as safetensors; the same arrays give the same bytes."""
    named = {f"{ADAPTER}{name}": array for name, array in adapters.items()}
    arrays = estimator.tensors() | named
    return save({name: _contiguous(array) for name, array in arrays.items()})


def write_checkpoint(folder: Path, weights: bytes, manifest: Manifest) -> None:
    """Write a checkpoint; the manifest comes last, so that half a checkpoint has none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS_FILE).write_bytes(weights)
    write_manifest(folder, manifest)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is absent, damaged, or its weights are not those of its manifest.
    """
    manifest = read_manifest(folder)
    path = folder / WEIGHTS_FILE
    try:
        weights = path.read_bytes()
        tensors: Mapping[str, np.ndarray] = load(weights)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "the checkpoint's weights can't be read",
            where=str(path),
            value=str(error),
            remedy="Copy the whole folder again, or train it again",
        ) from error
    if weights_sha256(weights) != manifest.weights_sha256:
        raise CheckpointError(
            "the weights are not those that the manifest describes",
            where=str(path),
            remedy="Copy both files of the checkpoint together",
        )
    try:
        estimator = Estimator.from_tensors(tensors)
    except KeyError as error:
        raise CheckpointError(
            f"the checkpoint's weights have no {error}",
            where=str(path),
            remedy="Another release wrote it: train it again with `routoo train`",
        ) from error
    adapters = {k.removeprefix(ADAPTER): a for k, a in tensors.items() if k.startswith(ADAPTER)}
    return Checkpoint(manifest, estimator, adapters)


def weights_sha256(weights: bytes) -> str:
    """Return the hash that the manifest keeps of its weights."""
    return hashlib.sha256(weights).hexdigest()


def _contiguous(array: np.ndarray) -> np.ndarray:
    # safetensors writes the buffer as it lies in memory, whatever the strides say.
    return np.ascontiguousarray(array)
