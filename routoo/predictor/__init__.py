"""The performance predictor: a light LM's estimate of every candidate model's answer to a prompt."""
