"""The solver for several limits at once: prices of all limits, then repair of the choice."""
