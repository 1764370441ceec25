"""Evaluation runs: they begin as ordinary batches, and are graded and compared when those end."""
