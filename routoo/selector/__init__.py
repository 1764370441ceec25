"""The cost-aware selector: one optimisation over the whole batch."""
