"""Estimates by a protocol: fit on the rest, ask about what was held out."""

from rich.console import Console

from routoo.cli.fitting_options import FittingOptions
from routoo.console.output import messages
from routoo.console.progress import counted
from routoo.evaluation.cross_fitting import Reader, Readout, cross_fit, deal
from routoo.evaluation.protocol import Protocol
from routoo.evaluation.quality_metrics import Quality
from routoo.predictor.dataset import OutcomeMatrix, content_sha256
from routoo.predictor.text import string_sha256
from routoo.settings import load_settings
from routoo.training.predictor_settings import fit_options, load_encoder, read_prompts, tune_options
from routoo.training.tune import tune_encoder


def cross_estimates(
    matrix: OutcomeMatrix, protocol: Protocol, options: FittingOptions
) -> dict[str, Quality]:
    """Return the predictor's and its baselines' estimates of every item, none fitted on it.

    Raises:
        CheckpointError: There is no such backbone.
        InputError: The items can't be split so, or the rest of them is too little to fit on.
    """
    console = messages()
    parts = deal(matrix, protocol, options.seed)
    reader = (_tuned_reader if options.tune else _reader)(matrix, options, console)
    with counted(console, "Fitting without each part", int(parts.max()) + 1) as progress:
        return cross_fit(matrix, reader, parts, fit_options(options), progress)


def _reader(matrix: OutcomeMatrix, options: FittingOptions, console: Console) -> Reader:
    """Read the prompts once, for all parts."""
    encoder = load_encoder(options)
    read = Readout(read_prompts(matrix, encoder, options, console), encoder.width)
    return lambda _: read


def _tuned_reader(matrix: OutcomeMatrix, options: FittingOptions, console: Console) -> Reader:
    """Tune the backbone anew for each part, on the others, and read the prompts as that does.

    A tuning is kept beside the cached embeddings: an evaluation that was cut off goes on, and the
    next one that is told the same finds it done.
    """
    folder = load_settings().home / "cache" / "tuning"

    def read(train: OutcomeMatrix) -> Readout:
        encoder = load_encoder(options)
        tuning = tune_options(options)
        name = string_sha256(f"{content_sha256(train)} {encoder.identity} {tuning}")
        told = tune_encoder(console, encoder, train, tuning, folder / f"{name}.safetensors")
        return Readout(read_prompts(matrix, encoder, options, console), encoder.width, told)

    return read
