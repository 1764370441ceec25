"""Calls model endpoints: connections, limits, retries, and the formats of their APIs."""
