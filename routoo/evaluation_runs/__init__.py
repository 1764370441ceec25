"""Evaluation runs: begun as ordinary batches, graded when those have ended, compared."""
