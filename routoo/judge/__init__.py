"""Judges answers: given a model's answer, how likely each candidate model is to be right.

Judging needs numpy alone; `fitting` needs scikit-learn too.
"""
