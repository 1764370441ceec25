"""The select stage: chooses a model for every job of a batch, and chooses again when it drifts."""
