"""Fits predictors and manages their checkpoints: train, tune, retrain, add a model, promote.

It stands above the predictor (the arithmetic of a fit) and the evaluation (how good a fit is), and
below the command line, which only reads options and prints.
"""
