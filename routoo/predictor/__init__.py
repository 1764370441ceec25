"""Predicts how each candidate model would answer: a light language model's estimate.

Import `routoo.predictor.manifest` where torch must stay out; the rest needs it.
"""
