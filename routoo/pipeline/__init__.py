"""The stages of a batch: score, select and dispatch, each one function over the store and ports."""
