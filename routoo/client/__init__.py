"""Calls to model endpoints: connections, limits, retries, and formats of their APIs."""
