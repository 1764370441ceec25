"""Evaluation from the command line: sets, runs, replays, grading."""
