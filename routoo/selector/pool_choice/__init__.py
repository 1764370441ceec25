"""Chooses the candidate models that form the best pool, from graded answers and prices."""
