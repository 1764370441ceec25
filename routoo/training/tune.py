"""Tunes a backbone on outcomes, once for a checkpoint or anew for each part of a cross-fit."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from routoo.evaluation.cross_fitting import FeatureReader, PromptFeatures
from routoo.files import replacing
from routoo.ports import Feedback
from routoo.predictor.backbone.batching import micro_batches, string_sha256
from routoo.predictor.backbone.encoder import Encoder
from routoo.predictor.backbone.lora import adapter_tensors, add_adapters, drop_adapters
from routoo.predictor.dataset import OutcomeMatrix, content_sha256, grouped_folds, text_groups
from routoo.predictor.fitting import FitOptions, check_enough
from routoo.predictor.options import TuneOptions
from routoo.predictor.regression import outcome_weights
from routoo.training.predictor_settings import PredictorSettings

_BATCH_TOKENS = 2048
"""Padded tokens of one step."""
_POOL_PROMPTS = 512
"""Prompts sorted by length together: less padding, still random batches."""
_STOP_PARTS = 10
"""One part in so many is kept out of the training, to decide when to stop."""
_PARAMETER, _MOMENT, _BEST = "parameter.", "moment.", "best."
"""Prefixes of the tensors' names in a saved state."""


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The adapters of the best pass, and how the loss went."""

    adapters: dict[str, np.ndarray]
    losses: tuple[float, ...]
    """Log loss on the items kept back, after each pass; weighted where outcomes are."""


class _TuningRun:
    """Holds the state of one tuning between passes: adapters, head and optimiser."""

    def __init__(
        self,
        encoder: Encoder,
        matrix: OutcomeMatrix,
        inside: Bool[np.ndarray, " items"],
        options: TuneOptions,
    ) -> None:
        torch.manual_seed(options.seed)
        self.encoder, self.options = encoder, options
        self.sequences, _ = encoder.tokenise(matrix.prompts)
        score = np.where(inside[:, None], matrix.score, np.float32(np.nan))
        self.score = torch.from_numpy(score)
        self.weight = torch.from_numpy(outcome_weights(score, options.class_weight))
        adapters = add_adapters(encoder.model, options.rank)
        device = adapters[0].device
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.width), nn.Linear(encoder.width, len(matrix.models))
        ).to(device)
        rates = ((adapters, 1), (list(self.head.parameters()), 3))
        groups = [{"params": part, "lr": options.learning_rate * by} for part, by in rates]
        self.parameters = [*adapters, *self.head.parameters()]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
        self.best: dict[str, np.ndarray] = {}
        self.losses: list[float] = []

    def learn(self, rows: Int64[np.ndarray, " rows"], progress: Callable[[int], None]) -> None:
        """Pass once over the items, in an order that the seed and the pass decide."""
        generator = np.random.default_rng((self.options.seed, len(self.losses)))
        for batch in self._batches(generator.permutation(rows)):
            self.optimiser.zero_grad()
            loss = self._loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimiser.step()
            progress(len(batch))

    @torch.no_grad()
    def measure(self, rows: Int64[np.ndarray, " rows"]) -> None:
        """Record the loss on the items kept back, and the adapters where it is the least so far."""
        batches = list(self._batches(rows))
        losses = [float(self._loss(batch)) for batch in batches]
        self.losses.append(float(np.average(losses, weights=[len(batch) for batch in batches])))
        if min(self.losses) == self.losses[-1]:
            self.best = adapter_tensors(self.encoder.model)

    @property
    def ended(self) -> bool:
        """Whether the loss no longer falls, or no more passes are allowed."""
        since = len(self.losses) - 1 - int(np.argmin(self.losses)) if self.losses else 0
        return len(self.losses) >= self.options.epochs or since > self.options.patience

    def _batches(self, rows: Int64[np.ndarray, " rows"]) -> Iterator[list[int]]:
        for start in range(0, len(rows), _POOL_PROMPTS):
            pool = rows[start : start + _POOL_PROMPTS]
            lengths = [len(self.sequences[row]) for row in pool]
            yield from (
                [int(pool[n]) for n in one] for one in micro_batches(lengths, _BATCH_TOKENS)
            )

    def _loss(self, rows: list[int]) -> Float[Tensor, ""]:
        states = self.encoder.states([self.sequences[row] for row in rows])
        logits = self.head(states.float())
        score = self.score[rows].to(logits.device)
        known = ~score.isnan()
        weight = self.weight[rows].to(logits.device)[known]
        return binary_cross_entropy_with_logits(logits[known], score[known], weight)


def tune(
    encoder: Encoder,
    matrix: OutcomeMatrix,
    inside: Bool[np.ndarray, " items"],
    options: TuneOptions,
    state: Path,
    progress: Callable[[int], None],
) -> TuningResult:
    """Tune an encoder on some of the items; the adapters stay merged into its model.

    Args:
        encoder: Its model is changed.
        matrix: Outcomes.
        inside: Items to learn from; the others are not used.
        options: How.
        state: File written after every pass; a run that was cut off goes on from it.
        progress: Called with the number of items that were learnt from since its last call.
    """
    kept_back = np.zeros_like(inside)
    groups = np.unique(text_groups(matrix.prompts)[inside], return_inverse=True)[1]
    kept_back[inside] = grouped_folds(groups, _STOP_PARTS, options.seed + 1) == 0
    run = _TuningRun(encoder, matrix, inside, options)
    # More passes may be allowed later: they go on from the earlier ones.
    fixed = replace(options, epochs=0, patience=0)
    name = f"{content_sha256(matrix)} {encoder.identity} {fixed} {inside.sum()}"
    _resume(run, state, name)
    while not run.ended:
        run.learn(np.flatnonzero(inside & ~kept_back), progress)
        run.measure(np.flatnonzero(kept_back))
        _save(run, state, name)
    drop_adapters(encoder.model)
    encoder.adapt(run.best)
    return TuningResult(run.best, tuple(run.losses))


def _save(run: _TuningRun, state: Path, name: str) -> None:
    moments = run.optimiser.state_dict()["state"]
    parts = {
        _PARAMETER: {str(n): value.detach() for n, value in enumerate(run.parameters)},
        _MOMENT: {f"{n}.{key}": value for n, one in moments.items() for key, value in one.items()},
        _BEST: {key: torch.from_numpy(value) for key, value in run.best.items()},
    }
    tensors = {
        f"{part}{key}": value.cpu().contiguous()
        for part, values in parts.items()
        for key, value in values.items()
    }
    facts = {"name": name, "losses": json.dumps(run.losses)}
    state.parent.mkdir(parents=True, exist_ok=True)
    with replacing(state) as stream:
        stream.write(save(tensors, metadata=facts))


def _resume(run: _TuningRun, state: Path, name: str) -> None:
    """Restore the state of the last pass of a run with the same items, backbone and options.

    A file of another run, or a damaged one, is ignored: the next pass overwrites it.
    """
    try:
        with safe_open(state, framework="pt") as file:
            facts = file.metadata() or {}
            names = file.keys()
            tensors = {key: file.get_tensor(key) for key in names}
    except (OSError, SafetensorError):
        return
    if facts.get("name") != name:
        return
    with torch.no_grad():
        for number, parameter in enumerate(run.parameters):
            parameter.copy_(tensors[f"{_PARAMETER}{number}"])
    run.optimiser.load_state_dict(run.optimiser.state_dict() | {"state": _moments(tensors)})
    run.losses = json.loads(facts["losses"])
    run.best = {
        key.removeprefix(_BEST): value.numpy()
        for key, value in tensors.items()
        if key.startswith(_BEST)
    }


def _moments(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Return the optimiser's state as it keeps it: by the parameter's number, then by name."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(_MOMENT):
            number, _, name = key.removeprefix(_MOMENT).partition(".")
            moments.setdefault(int(number), {})[name] = value
    return moments


TUNING_STATE = "tuning.safetensors"
"""File in the checkpoint's folder that an interrupted tuning goes on from."""


def tune_encoder(
    encoder: Encoder, matrix: OutcomeMatrix, options: TuneOptions, state: Path, feedback: Feedback
) -> Bool[np.ndarray, " items"]:
    """Tune the encoder on all folds but the first.

    Args:
        encoder: Its backbone gets adapters (LoRA).
        matrix: Outcomes of all folds.
        options: How it is tuned.
        state: File that an interrupted tuning goes on from.
        feedback: Shows how far it is.

    Returns:
        Which items it was tuned on: views are weighted and calibrated on the others.

    Raises:
        InputError: There are too few items.
    """
    groups = text_groups(matrix.prompts)
    check_enough(groups)
    folds = grouped_folds(groups, FitOptions().folds, options.seed)
    inside: Bool[np.ndarray, " items"] = np.not_equal(folds, 0)
    total = int(inside.sum()) * options.epochs
    with feedback.progress_bar("Tuning the backbone", total) as progress:
        tuned = tune(encoder, matrix, inside, options, state, progress)
    losses = ", ".join(f"{loss:.4f}" for loss in tuned.losses)
    feedback.note(f"log loss on items kept back, after each pass: {losses}")
    return inside


def prompt_reader(
    matrix: OutcomeMatrix, settings: PredictorSettings, cache: Path, feedback: Feedback
) -> FeatureReader:
    """Return how a cross-fit reads all prompts, given the items that it may fit on.

    Without tuning the prompts are read once, for all parts. With tuning the backbone is tuned anew
    for each part, on the others. Each tuning is cached: an evaluation that was cut off goes on,
    and the next one with the same options finds it done.

    Args:
        matrix: Outcomes of all items.
        settings: The backbone, and how it is tuned.
        cache: Folder of the cached tunings.
        feedback: Shows how far it is.

    Raises:
        CheckpointError: There is no such backbone.
    """
    tuning = settings.tuning
    if tuning is None:
        encoder = settings.load_encoder()
        readout = PromptFeatures(settings.read_prompts(matrix, encoder, feedback), encoder.width)
        return lambda _: readout

    def read(train: OutcomeMatrix) -> PromptFeatures:
        encoder = settings.load_encoder()
        name = string_sha256(f"{content_sha256(train)} {encoder.identity} {tuning}")
        state = cache / f"{name}.safetensors"
        inside = tune_encoder(encoder, train, tuning, state, feedback)
        features = settings.read_prompts(matrix, encoder, feedback)
        return PromptFeatures(features, encoder.width, inside)

    return read
