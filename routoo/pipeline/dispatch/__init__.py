"""The dispatch stage: calls the chosen models, accounts for every call and records results."""
