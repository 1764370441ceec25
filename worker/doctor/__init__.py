"""Examines whether a machine can serve batches: servers, models, limits."""
