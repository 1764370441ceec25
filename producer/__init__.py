"""The producer: submits batches, watches them and reads their results; as a library and a CLI."""
