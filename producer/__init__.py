"""The producer: plan, submit, watch and fetch batches."""
