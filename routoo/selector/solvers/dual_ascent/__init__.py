"""Solves problems with several limits: finds prices of all limits, then repairs the choice."""
