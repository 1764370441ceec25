"""Serves OpenAI's API: files, batches, models and single completions, routed."""
