"""The select stage: chooses a model for every job, and again when a batch drifts from its plan."""
