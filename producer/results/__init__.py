"""Writes a batch's results: JSONL like OpenAI's Batch API, CSV, Parquet."""
