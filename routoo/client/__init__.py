"""Calls to OpenAI-compatible model endpoints."""
