"""Which candidate models form the best pool, from graded answers and prices."""
