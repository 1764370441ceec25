"""The performance predictor: a light LM's estimate of how each candidate model would answer.

Import `routoo.predictor.manifest` where torch must stay out; the rest needs it.
"""
