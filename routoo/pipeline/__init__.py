"""Predict, select, dispatch, record: the three stages of a batch, as functions over ports."""
