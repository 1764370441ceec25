"""`routoo train`: fit a predictor from outcome tables."""

from routoo.cli.train_options import TrainOptions
from routoo.console.options import with_options


@with_options(TrainOptions)
def train(options: TrainOptions) -> None:
    """Fit a predictor of quality and answer length from outcome tables.

    What was cut off goes on where it stopped when the same command is given again. Examples:

    routoo train --items I.parquet --outcomes O.parquet --out DIR

    routoo train --backbone models/qwen --tune --items I.parquet --outcomes O.parquet --out DIR
    """
    # torch takes seconds to load: not for --help
    from routoo.training.train import fit_checkpoint

    fit_checkpoint(options)
