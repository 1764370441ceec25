"""Handles evaluation sets, runs, replays and grading for the commands."""
