"""Submits, follows and reads batches from Python: `from producer import Client`."""
