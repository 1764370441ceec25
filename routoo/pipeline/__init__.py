"""Does the stages of a batch: score, select and dispatch, each over the store and the ports."""
