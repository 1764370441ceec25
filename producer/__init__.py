"""The producer submits batches, follows them and reads their results, as a library and a CLI."""
