"""Writes a batch's results: JSONL as OpenAI's Batch API does, CSV, Parquet."""
