"""Limits the calls to endpoints: how many may be in flight, and how many may start."""
