"""`routoo evaluate`: how good a predictor is on outcomes it was not trained on."""

from routoo.cli.evaluate_options import EvaluateOptions
from routoo.console.options import with_options


@with_options(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    r"""Print AUC, Brier, ECE and routed quality beside baselines, with 95 % intervals.

    Examples:
        routoo evaluate --checkpoint DIR --items I.parquet --outcomes O.parquet

        routoo evaluate --checkpoint DIR --items I.parquet --outcomes O.parquet
        --reference mixtral-8x7b-instruct-v0.1 --html report.html

        routoo evaluate --protocol domains --items I.parquet --outcomes O.parquet

        routoo evaluate --protocol random --backbone models/qwen --pooling both
        --suffix '\nAnswer:' --items I.parquet --outcomes O.parquet
    """
    # torch takes seconds to load: not for --help
    from routoo.evaluation.assess import assess

    assess(options)
