"""Builds the command line `routoo-producer`; each command is imported when it is wanted."""

from routoo.console.commands import CommandGroup
from routoo.console.run import run_program

_HELP = """Submit batches of prompts, watch them, and read their results.

Settings come from ROUTOO_* variables: ROUTOO_DATABASE_URL and ROUTOO_BROKER_URL name the servers
(unset: the embedded ones under ROUTOO_HOME), ROUTOO_POOL the pool file.

Exit status: 0 fine, 1 unexpected error, 2 bad input, 3 not found, 4 database or broker
unavailable or a file can't be written, 5 the batch is over and some jobs have no answer,
6 an evaluation run is worse than the runs before it, 7 answers of worse models than planned
(`run`, --strict), 8 the batch failed, 130 interrupted.
"""

COMMANDS = {
    "run": ("run:run_command", "Plan, run and write a file of prompts: all in one."),
    "plan": ("plan:plan_command", "Show what a file of prompts would bring and cost; free."),
    "submit": ("submit:submit_command", "Submit a file of prompts as one batch."),
    "stream": ("stream:stream_command", "Submit rows as they come, within a budget an hour."),
    "status": ("status:status_command", "Show the progress of a batch."),
    "list": ("status:list_command", "List the newest batches."),
    "watch": ("status:watch_command", "Follow a batch until it is over."),
    "pause": ("control:pause_command", "Start no new calls of a batch."),
    "resume": ("control:resume_command", "Let a paused batch go on, or give it another budget."),
    "retry": ("control:retry_command", "Try the jobs without an answer again."),
    "cancel": ("control:cancel_command", "End a batch and keep the answers so far."),
    "delete": ("control:delete_command", "Delete a batch that is over, for good."),
    "explain": ("explain:explain_command", "Explain why a job got its model."),
    "results": ("results:results_command", "Print or write the results of a batch."),
    "grade": ("grade:grade_command", "Grade a batch's answers against references."),
    "summary": ("summary:summary_command", "Compare the routing with every single model."),
    "evalset": ("evalset:evalset", "Keep sets of questions with references."),
    "eval": ("evaluation:evaluation", "Measure the routing on sets of questions."),
    "serve": ("serve:serve_command", "Serve an API as OpenAI's, and a page."),
    "key": ("key:key", "Keep the keys with which programs use the gateway."),
    "schedule": ("schedule:schedule", "Run evaluations again and again."),
}
"""Each command's function (or group of commands) in `producer.commands`, and its summary."""


def build_app() -> CommandGroup:
    """Return the command line; no command's module is imported yet."""
    app = CommandGroup(_HELP, name="routoo-producer")
    for name, (target, summary) in COMMANDS.items():
        app.add_lazy(name, f"producer.commands.{target}", summary)
    return app


def main() -> None:
    """Run the command line and exit with its status."""
    run_program(build_app())
