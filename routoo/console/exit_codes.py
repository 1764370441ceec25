"""Lists exit statuses of the commands; every `RoutooError` names its own in `exit_code`."""

SYSTEM_ERROR = 4
"""The operating system refused: a full disk, a folder that may not be written (`OSError`)."""
INCOMPLETE = 5
"""The command came to its end, and some calls failed, some jobs or rows have no answer."""
DEVIATED = 7
"""With `--strict`: some jobs were answered by a model expected to be worse than the planned one."""
BATCH_FAILED = 8
"""The batch failed as a whole; its error says why."""
INTERRUPTED = 130
"""Ctrl-C, as shells give it (128 + SIGINT)."""
