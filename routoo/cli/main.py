"""The `routoo` command: offline work on predictors, pools and the database."""

from routoo.console.commands import CommandGroup
from routoo.console.run import run_program

app = CommandGroup("Offline work on predictors, pools and the database.")
app.add_lazy(
    "checkpoint",
    "routoo.cli.checkpoint:checkpoint",
    "Look at checkpoints, add models to them, choose which one is used.",
)
app.add_lazy(
    "collect",
    "routoo.cli.collect:collect",
    "Ask every candidate model every question, and grade the answers.",
)
app.add_lazy("db", "routoo.cli.db:db", "The database's schema, and the embedded server.")
app.add_lazy(
    "evaluate",
    "routoo.cli.evaluate:evaluate",
    "Measure a predictor on outcomes that it was not trained on.",
)
app.add_lazy(
    "onboard",
    "routoo.cli.onboard:onboard",
    "Ask a pool's models graded questions within a budget, learn them, and put that into use.",
)
app.add_lazy(
    "outcomes", "routoo.cli.outcomes:outcomes", "Use the graded answers of batches and runs."
)
app.add_lazy("pool", "routoo.cli.pool:pool", "Choose, look at and check pools of models.")
app.add_lazy(
    "predict",
    "routoo.cli.predict:predict",
    "Estimate each model's quality and answer length on prompts.",
)
app.add_lazy("replay", "routoo.cli.replay:replay", "Answer chat requests from recorded outcomes.")
app.add_lazy("train", "routoo.cli.train:train", "Fit a predictor from outcome tables.")


def main() -> None:
    """Run the command line and exit with its status."""
    run_program(app)


if __name__ == "__main__":
    main()
