"""Limits of endpoints, kept in accounts that all processes share."""
