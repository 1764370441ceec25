"""`routoo collect`: run every candidate model over a prompt file and grade the answers."""

from routoo.cli.collect_options import CollectOptions
from routoo.console.options import with_options


@with_options(CollectOptions)
def collect(options: CollectOptions) -> None:
    """Ask every candidate model every question, grade the answers, write an outcomes table.

    Answers are kept beside the table as they arrive: run the same command again after an
    interruption or failures, and only what is missing is asked.
    """
    # Arrow, aiohttp and the graders take a second to load: not for --help
    from routoo.cli.collecting import collect_outcomes

    collect_outcomes(options)
