"""The default solver: Lagrangian relaxation of the multiple-choice knapsack problem."""
