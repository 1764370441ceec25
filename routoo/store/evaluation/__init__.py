"""Evaluation: sets of items, runs over them, grades of answers, and alerts."""
