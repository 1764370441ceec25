"""Solves by default: Lagrangian relaxation of the multiple-choice knapsack problem."""
