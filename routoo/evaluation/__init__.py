"""Grading answers, and measuring how well a router did."""
