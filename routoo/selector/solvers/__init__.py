"""Ways to solve a selection problem, one a file."""
