"""Judges answers: given a model's answer, how likely each candidate model is to be right.

Judging needs numpy alone; `fitting` and `boosting` need scikit-learn too.
"""
